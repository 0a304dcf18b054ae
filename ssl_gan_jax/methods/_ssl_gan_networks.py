"""The networks of `ssl_gan`, and its first state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_gan_jax import targets
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.nets.mlp import MlpDiscriminator, MlpGenerator
from ssl_gan_jax.player import Player, adam
from ssl_gan_jax.types import Array, Batch, Key, TrainState


def init_ssl_gan(
    config: Any,  # noqa: ANN401
    draw_z: Callable[[Key, int], Array],
    outputs: int,
) -> Callable[[Key, Batch], TrainState]:
    """`init` of the method: G, D, and a reference batch for each that has virtual batch norm.

    Args:
        config: of `ssl_gan`.
        draw_z: of G's prior.
        outputs: of D.

    Raises:
        UserError: `vbn` asks for virtual batch norm, and the networks have none.
    """
    dtype = jnp.dtype(config.dtype)
    if config.nets == "mlp" and config.vbn != "none":
        raise UserError(f"method.vbn: {config.vbn!r}; the mlp nets have none: method.vbn=none")
    if config.nets == "mlp":
        net_g, net_d = MlpGenerator(config.size, dtype), MlpDiscriminator(outputs, dtype)
    else:
        norm_g = "virtual" if config.vbn in ("G", "both") else "batch"
        norm_d = "virtual" if config.vbn in ("D", "both") else "weight"
        net_g = Generator(config.size, config.generator, config.width, norm_g, dtype)
        net_d = Discriminator(outputs, config.width, norm_d, config.noise, config.dropout, dtype)
    adam_g = adam(config.lr_g, config.beta1, config.eps_root)
    adam_d = adam(config.lr_d, config.beta1, config.eps_root)

    def init(key: Key, batch: Batch) -> TrainState:
        if not len(batch.unlabeled):
            raise UserError("train.unlabeled_batch_size: 0; ssl_gan needs unlabelled images")
        if config.k_logits and targets.of(batch.label) is targets.FINDINGS:
            raise UserError("method.k_logits: with several findings D needs its last output")
        rng, key_z, key_ref, key_g, key_d = jax.random.split(key, 5)
        z, reference = draw_z(key_z, len(batch.unlabeled)), {}
        if config.vbn in ("G", "both"):
            reference["G"] = draw_z(key_ref, config.reference_size)
        if config.vbn in ("D", "both"):
            reference["D"] = batch.unlabeled[: config.reference_size]
        g = Player.create(net_g, adam_g, config.ema, key_g, z, reference.get("G"))
        d = Player.create(net_d, adam_d, config.ema, key_d, batch.unlabeled, reference.get("D"))
        return TrainState(jnp.int32(0), rng, {"G": g, "D": d}, reference)

    return init
