"""EC-GAN (Haque 2021), the predecessor of 3N-GAN: a classifier learns from generated images.

    L_C = L_s + lambda L_u
    L_D = L_d(D(x), 1) + L_d(D(G(z)), 0)
    L_g = L_d(D(G(z)), 1)

    L_s       cross-entropy on labelled images
    L_u       cross-entropy of C on generated images against its own predictions above tau
    L_d       binary cross-entropy

The GAN is a DCGAN: C has no influence on G. tau = .7 is from the paper (its notebook has .2, which
keeps all images of two classes), and lambda = .1 is from the notebook. C takes one optimiser step
on the sum; in the notebook it takes two. Order of updates: D, C, G, on the same generated images
(one forward pass of G). C's running statistics come from real images (`fake_stats=True`: from
both).
"""

import dataclasses
import functools
from typing import Literal

from ssl_gan_jax import targets
from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import bce_fake, bce_real, cross_entropy, pseudo_label
from ssl_gan_jax.methods._dcgan import init_dcgan
from ssl_gan_jax.nets.generator import latent
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper's numbers, and DCGAN's if it gives none."""

    num_classes: int = 2
    size: int = 64  # pixels
    generator: Literal["upsample", "dcgan"] = "dcgan"
    width: int = 64
    z_dim: int = 100
    tau: float = 0.7
    lambda_: float = 0.1
    pseudo_mean: Literal["kept", "batch"] = "kept"
    pseudo_soft: bool = False
    fake_stats: bool = False
    noise: float = 0.0  # D's and C's
    dropout: tuple[float, float] = (0.0, 0.0)  # D's and C's
    lr_c: float = 2e-4
    lr_d: float = 2e-4
    lr_g: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    augmentation: Augmentation = "weak"
    shift: int = 6  # pixels, for real and generated images
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"fake_stats": True, "shift": 0, "ema": 0.0}
FINDINGS = True


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    draw_z = functools.partial(latent, z_dim=config.z_dim)
    init = init_dcgan(config, draw_z, D=1, C=config.num_classes)
    augmented = augmentation(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("z", "x", "fake", "g", "d", "c", "g_d")
        g, d, c = (state.players[name] for name in "GDC")
        x, z = augmented(keys.x, batch.image), draw_z(keys.z, len(batch.image))
        fake = g.generate(z, keys.g, then=lambda images: augmented(keys.fake, images))
        batches, tracked = (x, fake.images), 2 if config.fake_stats else 1

        def loss_d(real: Array, generated: Array) -> tuple[Array, Metrics]:
            l_d = bce_real(real) + bce_fake(generated)
            return l_d, {"L_d": l_d}

        d, metrics_d = d.learn(loss_d, *batches, key=keys.d, step=state.step)

        def loss_c(real: Array, generated: Array) -> tuple[Array, Metrics]:
            l_s = cross_entropy(real, batch.label)
            choices = targets.of(batch.label).choices(generated)
            l_u = pseudo_label(choices, config.tau, config.pseudo_mean, config.pseudo_soft)
            l_c = l_s + config.lambda_ * l_u.loss
            return l_c, {"L_C": l_c, "L_s": l_s, "L_u": l_u.loss, **l_u.metrics()}

        c, metrics_c = c.learn(loss_c, *batches, key=keys.c, step=state.step, tracked=tracked)

        def loss_g(images: Array) -> tuple[Array, Metrics]:
            l_g = bce_real(d(images, key=keys.g_d))
            return l_g, {"L_g": l_g}

        g, metrics_g = fake.learn(loss_g, state.step)
        return state.next(G=g, D=d, C=c), metrics_d | metrics_c | metrics_g

    return Method(init, train_step, averaged("C"), averaged("G"), draw_z)
