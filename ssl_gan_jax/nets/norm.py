"""Normalisation: virtual batch norm, weight norm with data-dependent initialisation, batch norm."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ssl_gan_jax.nets.convolution import strided_conv
from ssl_gan_jax.types import Array


def _near_one(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)  # DCGAN: N(1, .02)


class BatchNorm(nn.Module):
    """DCGAN's batch normalisation: scale from N(1, .02), running statistics with momentum .9.

    Statistics are those of the whole batch, in float32; under jit with a sharded batch axis, of the
    global batch.
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = nn.BatchNorm(not train, momentum=0.9, scale_init=_near_one, dtype=x.dtype)
        return norm(x)


class VirtualBatchNorm(nn.Module):
    """Virtual batch normalisation (Salimans et al. 2016, 3.4; Madani et al. 2018, 2.3).

    The first `references` examples are the reference batch, and are normalised by its statistics.
    Each further example is normalised by a mixture of its mean and mean square (over H and W) with
    the reference's, weighted c = 1/(references+1) and 1-c. So its output depends on the example and
    the reference batch, not on the other examples.
    """

    references: int

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        del train  # the reference batch replaces running statistics
        space = tuple(range(1, x.ndim - 1))
        x_f32 = x.astype(jnp.float32)
        mean = x_f32.mean(space, keepdims=True)
        square = jnp.square(x_f32).mean(space, keepdims=True)
        ref_mean = mean[: self.references].mean(0, keepdims=True)
        ref_square = square[: self.references].mean(0, keepdims=True)
        c = jnp.where(jnp.arange(len(x)) < self.references, 0.0, 1 / (self.references + 1))
        c = c.reshape((-1,) + (1,) * (x.ndim - 1))
        mean = c * mean + (1 - c) * ref_mean
        square = c * square + (1 - c) * ref_square
        variance = jnp.maximum(square - jnp.square(mean), 0.0)  # rounding may dip below zero
        scale = self.param("scale", _near_one, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return ((x_f32 - mean) * lax.rsqrt(variance + 1e-5) * scale + bias).astype(x.dtype)


class WeightNorm(nn.Module):
    """A dense layer or a strided convolution with weight normalisation: w = g v / |v|.

    Source: Salimans & Kingma 2016. The initial g and bias give the outputs of the first batch mean
    0 and variance 1; if an output is constant (as in a batch of one image), g is 1. As in the code
    of Salimans et al. 2016, only the output layer learns g (`learn_scale`).
    """

    features: int
    kind: str = "dense"  # or "conv": strided_conv
    learn_scale: bool = False
    std: float = 0.05  # of the initial v; a longer v turns more slowly under Adam
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window = (4, 4) if self.kind == "conv" else ()
        shape = (*window, x.shape[-1], self.features)
        v = self.param("kernel", nn.initializers.normal(self.std), shape)
        w = v * lax.rsqrt(jnp.square(v).sum(range(v.ndim - 1)) + 1e-12)
        x, w = x.astype(self.dtype), w.astype(self.dtype)
        y = strided_conv(x, w) if self.kind == "conv" else x @ w
        # init() calls this with the first batch, whose outputs set the two parameters.
        outputs = y.astype(jnp.float32).reshape(-1, self.features)

        def inverse_std(_: Array) -> Array:
            variance = outputs.var(0)
            return jnp.where(variance > 1e-8, lax.rsqrt(variance + 1e-8), 1.0)

        scale = self.param("scale", inverse_std)
        bias = self.param("bias", lambda key: -outputs.mean(0) * inverse_std(key))
        if not self.learn_scale:
            scale = lax.stop_gradient(scale)
        return y * scale.astype(self.dtype) + bias.astype(self.dtype)
