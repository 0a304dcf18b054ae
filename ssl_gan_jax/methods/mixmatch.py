"""MixMatch (Berthelot et al. 2019): pseudo-labels, and mixtures of all images.

    q(u)  = sharpen(mean over N views of p(y | w(u)), T),  sharpen(p, T)_k ~ p_k^(1/T)  (eq. 6, 7)
    X, U  = the views of labelled and unlabelled images with their labels, one-hot or q; W = X and
            U in random order
    X', U' = mixup(X, W[:|X|]), mixup(U, W[|X|:]);  l ~ Beta(a, a), l' = max(l, 1 - l),
            mixup((x, p), (x', p')) = l' (x, p) + (1 - l') (x', p')                    (eq. 8 - 11)
    L     = L_x + lambda(t) L_u
    L_x   = -E_{X'} sum_k p_k log p(k | x)                                              (eq. 3)
    L_u   = E_{U'} |q - p(y | u)|^2 / K                                                 (eq. 4)

No gradient passes through q, which comes from the current weights in training mode. lambda(t)
rises linearly to lambda over the first `ramp` steps. The defaults of a, lambda, ema and T are the
paper's for most data sets. The authors' code has weight decay, this file has none.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import consistency, ramp_up
from ssl_gan_jax.methods._classifier import init_classifier
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The network of `ssl_gan`; the paper's T, a, lambda and N."""

    num_classes: int = 2  # K
    size: int = 32  # pixels
    width: int = 32
    noise: float = 0.1  # on C's input
    dropout: tuple[float, float] = (0.0, 0.25)
    views: int = 2  # N
    T: float = 0.5
    a: float = 0.75
    lambda_: float = 75.0
    ramp: int = 400  # steps: 40 % of 1,000
    lr: float = 5e-4
    beta1: float = 0.5
    ema: float = 0.999
    augmentation: Augmentation = "weak"
    shift: int = 3  # pixels
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"noise": 0.0, "dropout": (0.0, 0.0)}
UNLABELED = 1  # for each labelled image; each in N views


def sharpen(p: Array, temperature: float) -> Array:
    """Eq. 7; probabilities [...,K] -> [...,K]."""
    return jax.nn.softmax(jnp.log(p + 1e-12) / temperature)


def mixup(key: Key, x: Array, p: Array, order: Array, a: float) -> tuple[Array, Array]:
    """Eq. 8 to 11: images [N,H,W,1] and labels [N,K], each mixed with those at `order` [N]."""
    mix = jax.random.beta(key, a, a, (len(x), 1))
    mix = jnp.maximum(mix, 1 - mix)
    wide = mix[..., None, None]
    return wide * x + (1 - wide) * x[order], mix * p + (1 - mix) * p[order]


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    augmented = augmentation(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("x", "u", "guess", "order", "mix", "c")
        c, n = state.players["C"], len(batch.image)
        x = augmented(keys.x, batch.image)
        u = augmented(keys.u, jnp.tile(batch.unlabeled, (config.views, 1, 1, 1)))
        guesses = jax.nn.softmax(c(u, key=keys.guess)).reshape(config.views, -1, config.num_classes)
        q = jnp.tile(sharpen(guesses.mean(0), config.T), (config.views, 1))
        y = jax.nn.one_hot(batch.label, config.num_classes)
        order = jax.random.permutation(keys.order, n + len(u))
        images, labels = mixup(
            keys.mix, jnp.concatenate([x, u]), jnp.concatenate([y, q]), order, config.a
        )
        weight = config.lambda_ * ramp_up(state.step, config.ramp)

        def loss_c(labeled: Array, unlabeled: Array) -> tuple[Array, Metrics]:
            l_x = optax.softmax_cross_entropy(labeled, labels[:n]).mean()
            l_u = consistency(unlabeled, labels[n:])
            return l_x + weight * l_u, {"L_x": l_x, "L_u": l_u, "lambda": weight}

        c, metrics = c.learn(loss_c, images[:n], images[n:], key=keys.c, step=state.step, tracked=1)
        return state.next(C=c), metrics

    return Method(init_classifier(config), train_step, averaged("C"))
