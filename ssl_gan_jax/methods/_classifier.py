"""The first state of the methods with a classifier C and no generator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.player import Player, adam
from ssl_gan_jax.types import Batch, Key, TrainState


def init_classifier(
    config: Any,  # noqa: ANN401
    net: nn.Module | None = None,
    norm: str = "weight",
) -> Callable[[Key, Batch], TrainState]:
    """A method's `init`: one player, C.

    Args:
      config: the method's settings: num_classes, width, noise, dropout, dtype, lr, beta1, ema.
      net: C's network; default: `ssl_gan`'s discriminator with K outputs.
      norm: its normalisation, if it is that one.
    """
    net = net or Discriminator(
        config.num_classes,
        config.width,
        norm,
        config.noise,
        config.dropout,
        jnp.dtype(config.dtype),
    )
    optimizer = adam(config.lr, config.beta1)

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_c = jax.random.split(key)
        c = Player.create(net, optimizer, config.ema, key_c, batch.image)
        return TrainState(step=jnp.int32(0), rng=rng, players={"C": c}, reference={})

    return init
