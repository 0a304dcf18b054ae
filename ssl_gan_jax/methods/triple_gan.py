"""Triple-GAN (Li et al. 2017), an ancestor of 3N-GAN.

A classifier and a generator both make (image, label) pairs, and a discriminator separates these
pairs from real pairs.

    L_D = L_d(D(x, y), 1) + a L_d(D(u, C(u)), 0) + (1 - a) L_d(D(G(z, y), y), 0)       (eq. 3)
    L_G = (1 - a) L_d(D(G(z, y), y), 1)
    L_C = R_L + a a_C E_u sum_y p_c(y | u) L_d(D(u, y), 1) + a_P R_P + a_H H
    R_L = -E log p_c(y | x)
    R_P = -E log p_c(y | G(z, y))
    H   = -E_u sum_y p_c(y | u) log p_c(y | u)

L_d is binary cross-entropy, and p_c is C's prediction. L_d(D(u, C(u)), 0) is the sum over y,
weighted by p_c. As in the authors' code, G and C have non-saturating losses, and a_C, a_P and a_H
are those for SVHN. Real pairs also come from half of the unlabelled images, with C's likeliest
label: else D would memorise the few labelled images. The other half is u in the losses. R_P begins
after `ramp` steps, when G can make images.

Deviations: D's label y picks one of K outputs (the code feeds y to each layer), and y is an input
of G like z. The code's balance term (weight .001) and pretraining of C are left out. No gradient
passes from C's loss to D or G. Order of updates: D, C, then G, on the same generated images.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import softplus

from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import bce_fake, bce_real, cross_entropy, entropy
from ssl_gan_jax.methods._dcgan import init_dcgan
from ssl_gan_jax.nets.generator import latent
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The networks of `ssl_gan`, with the weights of the authors' code for SVHN."""

    num_classes: int = 2  # K
    size: int = 32  # pixels
    generator: Literal["upsample", "dcgan"] = "dcgan"
    width: int = 32
    z_dim: int = 100
    noise: float = 0.1  # on D's and C's input
    dropout: tuple[float, float] = (0.0, 0.25)  # D's and C's
    a: float = 0.5
    a_c: float = 0.01
    a_p: float = 0.03
    a_h: float = 0.3
    ramp: int = 400  # steps before R_P begins
    lr_c: float = 5e-4
    lr_d: float = 5e-4
    lr_g: float = 5e-4
    beta1: float = 0.5
    ema: float = 0.995
    augmentation: Augmentation = "weak"  # of real and generated images
    shift: int = 3  # pixels
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"shift": 0, "ema": 0.0}
UNLABELED = 2  # for each labelled image: for C's pairs and for real pairs


def pair_logit(logits: Array, y: Array) -> Array:
    """The logit of D(x, y); logits [B,K] and labels [B] -> [B]."""
    return jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    k, a = config.num_classes, config.a
    augmented = augmentation(config)

    def draw_z(key: Key, n: int) -> Array:
        """[n,Z+K]: z, and a random label, one-hot."""
        key_z, key_y = jax.random.split(key)
        y = jax.nn.one_hot(jax.random.randint(key_y, (n,), 0, k), k)
        return jnp.concatenate([latent(key_z, n, z_dim=config.z_dim), y], axis=1)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("z", "x", "u", "fake", "g", "d", "c", "c_u", "d_u", "g_d")
        g, d, c = (state.players[name] for name in "GDC")
        x, u = augmented(keys.x, batch.image), augmented(keys.u, batch.unlabeled)
        u_c, u_d = u[: len(u) // 2], u[len(u) // 2 :]
        z = draw_z(keys.z, len(batch.image))
        y_g = z[:, -k:].argmax(-1)
        fake = g.generate(z, keys.g, then=lambda images: augmented(keys.fake, images))
        p_c, p_d = map(jax.nn.softmax, c(u_c, u_d, key=keys.c_u))
        y_real = jnp.concatenate([batch.label, p_d.argmax(-1)])

        def loss_d(labeled: Array, pseudo: Array, unlabeled: Array, generated: Array) -> tuple:
            real = bce_real(pair_logit(jnp.concatenate([labeled, pseudo]), y_real))
            classified = (p_c * softplus(unlabeled)).sum(-1).mean()
            l_d = real + a * classified + (1 - a) * bce_fake(pair_logit(generated, y_g))
            return l_d, {"L_D": l_d}

        d, metrics_d = d.learn(loss_d, x, u_d, u_c, fake.images, key=keys.d, step=state.step)
        d_u = d(u_c, key=keys.d_u)
        a_p = config.a_p * (state.step >= config.ramp)

        def loss_c(labeled: Array, unlabeled: Array, generated: Array) -> tuple[Array, Metrics]:
            r_l, r_p = cross_entropy(labeled, batch.label), cross_entropy(generated, y_g)
            fooled = (jax.nn.softmax(unlabeled) * softplus(-d_u)).sum(-1).mean()
            h = entropy(unlabeled)
            l_c = r_l + a * config.a_c * fooled + a_p * r_p + config.a_h * h
            return l_c, {"L_C": l_c, "R_L": r_l, "R_P": r_p, "H": h}

        c, metrics_c = c.learn(loss_c, x, u_c, fake.images, key=keys.c, step=state.step, tracked=1)

        def loss_g(images: Array) -> tuple[Array, Metrics]:  # against the new D
            l_g = (1 - a) * bce_real(pair_logit(d(images, key=keys.g_d), y_g))
            return l_g, {"L_G": l_g}

        g, metrics_g = fake.learn(loss_g, state.step)
        return state.next(G=g, D=d, C=c), metrics_d | metrics_c | metrics_g

    init = init_dcgan(config, draw_z, norm="weight", D=k, C=k)
    return Method(init, train_step, averaged("C"), averaged("G"), draw_z)
