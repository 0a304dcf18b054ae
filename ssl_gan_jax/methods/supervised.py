"""The baseline of all tables: a classifier trained only on the labelled images.

    L_s = -E log p(y | x)                              (first term of eq. 1 of Haque & Haque)

It is the "vanilla classifier" of the 3N-GAN paper (`net="strided"`, `norm="batch"`: the DCGAN
discriminator with K outputs) or the CNN of Madani et al. (`net="cnn"`). With `norm="weight"`, noise
and dropout it is the network of `ssl_gan` without the generator, the fairest of the three.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import cross_entropy
from ssl_gan_jax.methods._classifier import init_classifier
from ssl_gan_jax.nets.classifier import Cnn
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.mlp import MlpDiscriminator
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of the 3N-GAN paper's vanilla classifier, and DCGAN's if the paper gives none."""

    num_classes: int = 2
    size: int = 64  # pixels
    net: Literal["strided", "cnn", "mlp"] = "strided"
    width: int = 64
    norm: Literal["batch", "weight", "none"] = "batch"  # of the strided net
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.0)
    lr: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    augmentation: Augmentation = "weak"
    shift: int = 6  # pixels
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"shift": 0, "ema": 0.0}
FINDINGS = True


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    k, width, dropout, dtype = config.num_classes, config.width, config.dropout, config.dtype
    net = {
        "cnn": Cnn(k, width, dropout, jnp.dtype(dtype)),
        "mlp": MlpDiscriminator(k, jnp.dtype(dtype)),
        "strided": Discriminator(k, width, config.norm, config.noise, dropout, jnp.dtype(dtype)),
    }[config.net]
    augmented = augmentation(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("x", "c")
        x = augmented(keys.x, batch.image)

        def loss_c(real: Array) -> tuple[Array, Metrics]:
            l_s = cross_entropy(real, batch.label)
            return l_s, {"L_s": l_s}

        c, metrics = state.players["C"].learn(loss_c, x, key=keys.c, step=state.step)
        return state.next(C=c), metrics

    return Method(init_classifier(config, net), train_step, averaged("C"))
