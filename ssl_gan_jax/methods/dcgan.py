"""The unsupervised GAN of Madani et al. 2018, section 2.2.

G makes chest X-rays, and D separates them from real X-rays.

    J_D = -1/2 E log D(x) - 1/2 E log(1 - D(G(z)))
    J_G = -1/2 E log D(G(z))

D(x) = P(real), as in the paper's equations; its text says the opposite. The paper trains such a GAN
for each class. Labels are not used. Order of updates in a step: D, then G against the new D, on the
same generated images (one forward pass of G).
"""

import dataclasses
import functools
from typing import Literal

import jax

from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import bce_fake, bce_real
from ssl_gan_jax.methods._dcgan import init_dcgan
from ssl_gan_jax.nets.generator import latent
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The networks' shape is from the paper; learning rates and initialisation are DCGAN's."""

    num_classes: int = 2  # unused; every method has it
    size: int = 128  # pixels
    generator: Literal["upsample", "dcgan"] = "upsample"
    width: int = 64
    z_dim: int = 100
    norm: Literal["batch", "weight", "none"] = "batch"  # D's
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.25)
    lr_d: float = 2e-4
    lr_g: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    augmentation: Augmentation = "weak"
    shift: int = 6  # pixels, for real and generated images
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"shift": 0, "ema": 0.0}
FINDINGS = True  # it reads no labels


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    draw_z = functools.partial(latent, z_dim=config.z_dim)
    init = init_dcgan(config, draw_z, config.norm, D=1)
    augmented = augmentation(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("z", "x", "fake", "g", "d", "g_d")
        g, d = (state.players[name] for name in "GD")
        x, z = augmented(keys.x, batch.image), draw_z(keys.z, len(batch.image))
        fake = g.generate(z, keys.g, then=lambda images: augmented(keys.fake, images))

        def loss_d(real: Array, generated: Array) -> tuple[Array, Metrics]:
            j_d = 0.5 * bce_real(real) + 0.5 * bce_fake(generated)
            d_real, d_fake = jax.nn.sigmoid(real).mean(), jax.nn.sigmoid(generated).mean()
            return j_d, {"J_D": j_d, "D_real": d_real, "D_fake": d_fake}

        d, metrics_d = d.learn(loss_d, x, fake.images, key=keys.d, step=state.step)

        def loss_g(images: Array) -> tuple[Array, Metrics]:
            j_g = 0.5 * bce_real(d(images, key=keys.g_d))
            return j_g, {"J_G": j_g}

        g, metrics_g = fake.learn(loss_g, state.step)
        return state.next(G=g, D=d), metrics_d | metrics_g

    return Method(init, train_step, generate=averaged("G"), draw_z=draw_z)
