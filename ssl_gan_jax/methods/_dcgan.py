"""The first state of the methods with a DCGAN: G, and a discriminator for each other player."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.player import Player, adam
from ssl_gan_jax.types import Array, Batch, Key, TrainState


def init_dcgan(
    config: Any,  # noqa: ANN401
    draw_z: Callable[[Key, int], Array],
    norm: str = "batch",
    **outputs: int,
) -> Callable[[Key, Batch], TrainState]:
    """A method's `init`, of G and the players that `outputs` names (D, C).

    Args:
      config: the method's settings: size, generator, width, noise, dropout, dtype, beta1, ema, and
        lr_g, lr_d and so on.
      draw_z: draws n vectors from G's prior.
      norm: normalisation of the other networks.
      **outputs: the number of outputs of each other player.
    """
    dtype = jnp.dtype(config.dtype)
    net_g = Generator(config.size, config.generator, config.width, dtype=dtype)
    nets = {
        name: Discriminator(n, config.width, norm, config.noise, config.dropout, dtype)
        for name, n in outputs.items()
    }

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_z, *keys = jax.random.split(key, 3 + len(nets))
        inputs = {"G": draw_z(key_z, len(batch.image)), **dict.fromkeys(nets, batch.image)}
        players = {}
        for (name, net), key_net in zip({"G": net_g, **nets}.items(), keys, strict=True):
            optimizer = adam(getattr(config, f"lr_{name.lower()}"), config.beta1)
            players[name] = Player.create(net, optimizer, config.ema, key_net, inputs[name])
        return TrainState(step=jnp.int32(0), rng=rng, players=players, reference={})

    return init
