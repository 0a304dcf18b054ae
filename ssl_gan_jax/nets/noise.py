"""Gaussian noise and dropout, drawn from the rng collection "noise" while training."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import Array


class Noise(nn.Module):
    """Adds N(0, sigma^2) while training."""

    sigma: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if not train or self.sigma == 0:
            return x
        return x + self.sigma * jax.random.normal(self.make_rng("noise"), x.shape, x.dtype)


class Dropout(nn.Module):
    """Dropout while training, at `rate` rounded to 1/256; UserError unless it is in [0, 1).

    It draws a random byte for each element. `nn.Dropout` draws 32 bits, and on a CPU the fourfold
    hashes take a tenth of SSL-GAN's step.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dropped = round(256 * self.rate)
        if not 0 <= dropped < 256:
            raise UserError(f"dropout: a rate of {self.rate}; use one from 0 to .99")
        if not train or dropped == 0:
            return x
        words = jax.random.bits(self.make_rng("noise"), (*x.shape[:-1], -(-x.shape[-1] // 4)))
        # Without the barrier XLA would hash again for each byte of a word.
        octets = jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(words), jnp.uint8)
        octets = octets.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
        return jnp.where(octets < dropped, 0, x * (256 / (256 - dropped)))
