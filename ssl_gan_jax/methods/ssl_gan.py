"""The semi-supervised GAN of Madani et al. 2018, section 2.3.

D has K+1 outputs. The first K are the classifier; the last is for generated images.

    L           = L_labeled + w (L_unlabeled + L_generated)
    L_labeled   = -E log p(y | x, y < K+1)
    L_unlabeled = -E log (1 - p(K+1 | x))
    L_generated = -E log p(K+1 | G(z))

With z(x) = logsumexp(l_1..l_K) - l_{K+1}, P(real) = sigmoid(z), so the unsupervised terms are
softplus(-z) and softplus(z), which lose no digits. In the paper w = 1 (`preset=paper`); the default
w = 1/2 is that of Salimans et al. 2016, which the paper follows. targets.py has z and p(y | x) for
images with several findings. The paper does not give G's loss:

    non_saturating    L_G = -E log (1 - p(K+1 | G(z)))                   the default
    minimax           L_G =  E log p(K+1 | G(z)) = -L_generated
    feature_matching  L_G = |E f(x) - E f(G(z))|, its mean over features ("_l2": squared)

By default G has virtual batch norm (as in Salimans' code; see `vbn`). D has noise, dropout and
weight norm (Salimans' SVHN and CIFAR-10 networks), or virtual batch norm instead of weight norm.
Order of updates: D, then G against the new D, on the same generated images (one forward pass of G).

The paper gives no noise, dropout, learning rates or batch sizes: `preset=paper` has the defaults.

`_added_terms.py` has terms of other papers; each is off unless its weight is set.
"""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp

from ssl_gan_jax import targets
from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import bce_fake, bce_real, cross_entropy, pull_away
from ssl_gan_jax.methods import _added_terms
from ssl_gan_jax.methods._ssl_gan_networks import init_ssl_gan
from ssl_gan_jax.nets.generator import latent
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """K, size and virtual batch norm are the paper's; the rest was chosen on validation images."""

    num_classes: int = 2  # K
    size: int = 32  # pixels
    nets: Literal["strided", "mlp"] = "strided"  # "mlp": Salimans' MNIST networks
    generator: Literal["upsample", "dcgan"] = "dcgan"  # "upsample": the paper's
    width: int = 32
    z_dim: int = 100
    z_prior: Literal["normal", "uniform"] = "normal"
    vbn: Literal["G", "D", "both", "none"] = "G"  # "none" with the mlp nets
    reference_size: int = 32  # in the reference batch; D's is at most the first batch
    k_logits: bool = False  # D has K outputs and l_{K+1} = 0: the same family, Salimans' form
    noise: float = 0.1  # on D's input; Salimans' .3 and dropout (.2, .5) learn slower here
    dropout: tuple[float, float] = (0.0, 0.25)
    loss_g: Literal["non_saturating", "minimax", "feature_matching", "feature_matching_l2"] = (
        "non_saturating"
    )
    w: float = 0.5
    consistency: float = 0.0  # w_c
    student: Literal["weak", "strong"] = "weak"  # the view x' in L_consistency
    teacher: Literal["current", "average"] = "current"  # where q in L_consistency comes from
    ramp: int = 0  # steps over which w_c rises
    entropy: float = 0.0  # w_h; Dai et al.: .1
    pull_away: float = 0.0  # w_p; Dai et al.: .8
    manifold: float = 0.0  # w_m; Lecouat et al.: 1e-3
    lr_d: float = 5e-4
    lr_g: float = 5e-4
    beta1: float = 0.5
    eps_root: float = 0.0  # Adam's epsilon under the root; Salimans' code has 1e-8 there
    ema: float = 0.995
    augmentation: Augmentation = "weak"
    shift: int = 3  # pixels, for real and generated images
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"generator": "upsample", "w": 1.0, "shift": 0, "ema": 0.0}
UNLABELED = 1  # for each labelled image
FINDINGS = True


def loss_labeled(logits: Array, y: Array) -> Array:
    """-E log p(y | x, y < K+1); [B,K+1], y as for `cross_entropy` -> []."""
    return cross_entropy(logits[:, :-1], y)


def loss_unlabeled(logits: Array, target: targets.Kind = targets.CLASSES) -> Array:
    """-E log (1 - p(K+1 | x)); [B,K+1] -> []."""
    return bce_real(target.real_logit(logits))


def loss_generated(logits: Array, target: targets.Kind = targets.CLASSES) -> Array:
    """-E log p(K+1 | G(z)); [B,K+1] -> []."""
    return bce_fake(target.real_logit(logits))


def build(config: Config) -> Method:
    """The method's pure functions for these settings. UserError: vbn in networks that have none."""
    k = config.num_classes
    outputs = k if config.k_logits else k + 1
    draw_z = functools.partial(latent, z_dim=config.z_dim, prior=config.z_prior)
    init = init_ssl_gan(config, draw_z, outputs)
    augmented = augmentation(config)

    def k_plus_1(logits: Array) -> Array:
        return jnp.pad(logits, ((0, 0), (0, k + 1 - outputs)))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("z", "x", "u", "fake", "g", "d", "g_d")
        target = targets.of(batch.label)
        g, d = (state.players[name] for name in "GD")
        ref_g, ref_d = (state.reference.get(name) for name in "GD")
        x, x_u = augmented(keys.x, batch.image), augmented(keys.u, batch.unlabeled)
        z = draw_z(keys.z, len(x_u))
        fake = g.generate(z, keys.g, ref_g, then=lambda images: augmented(keys.fake, images))
        views = {"x": x, "u": x_u, "fake": fake.images}
        views |= _added_terms.views(config, state, batch, z)

        def loss_d(*logits: Array) -> tuple[Array, Metrics]:
            by_view = dict(zip(views, map(k_plus_1, logits), strict=True))
            terms = {
                "L_labeled": loss_labeled(by_view["x"], batch.label),
                "L_unlabeled": loss_unlabeled(by_view["u"], target),
                "L_generated": loss_generated(by_view["fake"], target),
            }
            loss = terms["L_labeled"] + config.w * (terms["L_unlabeled"] + terms["L_generated"])
            added, added_terms = _added_terms.total(config, state, x_u, by_view, target)
            return loss + added, {"L": loss + added, **terms, **added_terms}

        d, metrics = d.learn(loss_d, *views.values(), key=keys.d, step=state.step, reference=ref_d)

        def loss_g(images: Array) -> tuple[Array, Metrics]:
            if config.loss_g.startswith("feature_matching"):
                f_real, f_fake = d.features(x_u, images, key=keys.g_d, reference=ref_d)
                gap = f_real.mean(0) - f_fake.mean(0)
                l_g = jnp.mean(gap**2 if config.loss_g.endswith("l2") else jnp.abs(gap))
            else:
                logits = k_plus_1(d(images, key=keys.g_d, reference=ref_d))
                minimax = config.loss_g == "minimax"
                l_g = -loss_generated(logits, target) if minimax else loss_unlabeled(logits, target)
            if config.pull_away:
                features = d.features(images, key=keys.g_d, reference=ref_d)
                l_g += config.pull_away * pull_away(features)
            return l_g, {"L_G": l_g}

        g, metrics_g = fake.learn(loss_g, state.step)
        return state.next(G=g, D=d), metrics | metrics_g

    return Method(init, train_step, averaged("D", outputs=k), averaged("G"), draw_z)
