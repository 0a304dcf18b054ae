"""The fully connected networks of Salimans et al. 2016 for MNIST, with their published settings."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ssl_gan_jax.nets.noise import Noise
from ssl_gan_jax.nets.norm import WeightNorm
from ssl_gan_jax.types import Array


class MlpGenerator(nn.Module):
    """500-500 softplus units with batch norm (no gain), then sigmoid pixels; z ~ U(0,1)^100.

    The last layer is weight normalised with a gain that starts at 1 and learns.
    """

    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, train: bool, reference: Array | None = None) -> Array:
        """z [N,Z] -> images [N,size,size,1] in [-1,1]; `reference` must be None."""
        del reference
        h = z
        init = nn.initializers.glorot_uniform()
        for _ in range(2):
            h = nn.Dense(500, use_bias=False, kernel_init=init, dtype=self.dtype)(h)
            h = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-6, use_scale=False)(h)
            h = nn.softplus(h)
        v = self.param("kernel", init, (h.shape[-1], self.size**2))
        scale = self.param("scale", nn.initializers.ones, (self.size**2,))
        bias = self.param("bias", nn.initializers.zeros, (self.size**2,))
        w = scale * v * lax.rsqrt(jnp.square(v).sum(0) + 1e-6)
        x = nn.sigmoid((h @ w.astype(self.dtype)).astype(jnp.float32) + bias)
        return 2 * x.reshape(-1, self.size, self.size, 1) - 1


class MlpDiscriminator(nn.Module):
    """1000-500-250-250-250 ReLU units with weight norm; noise .3 on the input, .5 after layers."""

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, train: bool, reference: Array | None = None
    ) -> tuple[Array, Array]:
        """Images [N,H,W,1] -> logits [N,outputs] float32 and the last 250 units as features."""
        del reference
        # In Salimans et al. pixels are in [0,1], which sets the scale of the noise.
        h = Noise(0.3)((x.reshape(len(x), math.prod(x.shape[1:])) + 1) / 2, train)
        for width in (1000, 500, 250, 250, 250):
            features = nn.relu(WeightNorm(width, std=0.1, dtype=self.dtype)(h))
            h = Noise(0.5)(features, train)
        logits = WeightNorm(self.outputs, learn_scale=True, std=0.1, dtype=self.dtype)(h)
        return logits.astype(jnp.float32), features.astype(jnp.float32)
