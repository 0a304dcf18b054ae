"""The baseline that every table needs: a classifier on the labelled images alone.

    L_s = -E log p(y | x)                                                (H eq. 1, first term)

It stands for H's "vanilla classifier" (`net="strided"`, `norm="batch"`: the DCGAN discriminator
with K outputs), for M's CNN (`net="cnn"`), and, with `norm="weight"`, noise and dropout, for the
very network of `ssl_gan` without its generator: the fairest of the three.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_gan_jax import players
from ssl_gan_jax.augment import augment
from ssl_gan_jax.errors import check_choice
from ssl_gan_jax.losses import cross_entropy
from ssl_gan_jax.nets.classifier import Cnn
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.mlp import MlpDiscriminator
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers of H's vanilla classifier where the paper gives them, DCGAN's elsewhere."""

    num_classes: int = 2
    size: int = 64  # pixels
    net: str = "strided"  # "cnn", "mlp"
    width: int = 64
    norm: str = "batch"  # "weight", "none"; of the strided net
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.0)
    lr: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    shift: int = 6  # pixels
    flip: bool = False
    dtype: str = "float32"


PAPER = {"shift": 0, "ema": 0.0}


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    check_choice("method.net", config.net, ("strided", "cnn", "mlp"))
    check_choice("method.norm", config.norm, ("batch", "weight", "none"))
    dtype = jnp.dtype(config.dtype)
    if config.net == "cnn":
        net = Cnn(config.num_classes, config.width, config.dropout, dtype)
    elif config.net == "mlp":
        net = MlpDiscriminator(config.num_classes, dtype)
    else:
        net = Discriminator(
            config.num_classes, config.width, config.norm, config.noise, config.dropout, dtype
        )
    optimizer = optax.adam(config.lr, b1=config.beta1)

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_c = jax.random.split(key)
        c = players.create(net, optimizer, key_c, batch.image)
        return TrainState(step=jnp.int32(0), rng=rng, players={"C": c}, reference={})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key_augment, key_c = players.step_keys(state, 2)
        c = state.players["C"]
        x = augment(key_augment, batch.image, config.shift, config.flip)

        def loss(params):
            (logits, _), stats = players.run(net, params, c.stats, key_c, x)
            return cross_entropy(logits, batch.label), stats

        (l_s, stats), grads = jax.value_and_grad(loss, has_aux=True)(c.params)
        c = players.update(c, grads, stats, optimizer, state.step, config.ema)
        return state.replace(step=state.step + 1, players={"C": c}), {"L_s": l_s}

    def predict(state: TrainState, images: Array) -> Array:
        return players.run_averaged(net, state.players["C"], images)[0]

    return Method(init, train_step, predict, sample=None)
