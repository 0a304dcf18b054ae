"""The multi-tasking discriminator of the 3N-GAN paper: D also classifies.

    L_D = L_s + L_d                    L_s = -E log p(y | x)
    L_d = -E log D(x) - E log(1 - D(G(z)))
    L_g = -E log D(G(z))

D is a DCGAN discriminator with two heads on the same features: K class logits and a real/fake
logit. The paper cites Salimans et al. 2016 for it and gives no formula. `ssl_gan` is the K+1 form
of the same idea; two heads are the literal reading of "multi-tasking". Order of updates: D, then G
against the new D, on the same generated images. Running statistics of batch norm, which evaluation
uses, come only from real images.
"""

import dataclasses
import functools
from typing import Literal

from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import bce_fake, bce_real, cross_entropy
from ssl_gan_jax.methods._dcgan import init_dcgan
from ssl_gan_jax.nets.generator import latent
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """DCGAN's numbers, as in the paper; the paper has no shift and no averaged weights."""

    num_classes: int = 2
    size: int = 64  # pixels
    generator: Literal["upsample", "dcgan"] = "dcgan"
    width: int = 64
    z_dim: int = 100
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.0)
    lr_d: float = 2e-4
    lr_g: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    augmentation: Augmentation = "weak"
    shift: int = 6  # pixels, for real and generated images
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"shift": 0, "ema": 0.0}
FINDINGS = True


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    k = config.num_classes

    draw_z = functools.partial(latent, z_dim=config.z_dim)
    init = init_dcgan(config, draw_z, D=k + 1)
    augmented = augmentation(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("z", "x", "fake", "g", "d", "g_d")
        g, d = (state.players[name] for name in "GD")
        x, z = augmented(keys.x, batch.image), draw_z(keys.z, len(batch.image))
        fake = g.generate(z, keys.g, then=lambda images: augmented(keys.fake, images))

        def loss_d(real: Array, generated: Array) -> tuple[Array, Metrics]:
            l_s = cross_entropy(real[:, :k], batch.label)
            l_d = bce_real(real[:, k]) + bce_fake(generated[:, k])
            return l_s + l_d, {"L_D": l_s + l_d, "L_s": l_s, "L_d": l_d}

        d, metrics_d = d.learn(loss_d, x, fake.images, key=keys.d, step=state.step, tracked=1)

        def loss_g(images: Array) -> tuple[Array, Metrics]:
            l_g = bce_real(d(images, key=keys.g_d)[:, k])
            return l_g, {"L_g": l_g}

        g, metrics_g = fake.learn(loss_g, state.step)
        return state.next(G=g, D=d), metrics_d | metrics_g

    return Method(init, train_step, averaged("D", outputs=k), averaged("G"), draw_z)
