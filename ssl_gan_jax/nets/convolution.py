"""The 4x4 convolution with stride 2 and padding 1, and its transpose.

    strided_conv            x [N,2h,2w,C], kernel [4,4,C,F] -> [N,h,w,F]
    strided_conv_transpose  y [N,h,w,F],   kernel [4,4,C,F] -> [N,2h,2w,C]   its exact adjoint

DCGAN's discriminator consists of the first and its generator of the second. "Upsample, then
convolve 3x3" of Madani et al. is the second with the kernel `upsample_kernel`. Each is the input
gradient of the other, and both have the same weight gradient, so there are only three bilinear
products. They have two forms:

    "xla"   `lax.conv_general_dilated` and its own transposes
    "cpu"   matrix products, see cpu_convolution.py

XLA's convolutions are the fastest on GPUs and TPUs. On a CPU some are several times slower than the
matrix products, and a hundred times inside `lax.scan`. `impl="auto"` chooses by the platform that
the program is compiled for. Both forms have the same kernel layout and agree to rounding.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.nets import cpu_convolution
from ssl_gan_jax.types import Array

_DIMS = ("NHWC", "HWIO", "NHWC")


def _conv_xla(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_DIMS)


def _transpose_xla(y: Array, kernel: Array) -> Array:
    n, h, w, _ = y.shape
    x = jax.ShapeDtypeStruct((n, 2 * h, 2 * w, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _conv_xla(x, kernel), x)(y)[0]


def _weight_xla(x: Array, y: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((4, 4, x.shape[3], y.shape[3]), x.dtype)
    return jax.linear_transpose(lambda k: _conv_xla(x, k), kernel)(y)[0]


Product = Callable[[Array, Array], Array]


class Form(NamedTuple):
    """The three products in one form."""

    conv: Product  # x, kernel -> y
    transpose: Product  # y, kernel -> x
    weight: Product  # x, y -> kernel


_FORMS = {
    "xla": Form(_conv_xla, _transpose_xla, _weight_xla),
    "cpu": Form(cpu_convolution.conv, cpu_convolution.transpose, cpu_convolution.weight),
}
_FORM = contextvars.ContextVar("form", default="auto")


@contextlib.contextmanager
def form(impl: str) -> Iterator[None]:
    """Sets what `impl="auto"` means in the block; "xla" makes a program portable."""
    token = _FORM.set(impl)
    try:
        yield
    finally:
        _FORM.reset(token)


def _form(impl: str) -> Form:
    """The products in the form `impl`; "auto" chooses by the platform at compilation."""
    impl = _FORM.get() if impl == "auto" else impl
    if impl != "auto":
        return _FORMS[impl]
    pairs = zip(_FORMS["cpu"], _FORMS["xla"], strict=True)
    return Form(*(functools.partial(_by_platform, cpu, xla) for cpu, xla in pairs))


def _by_platform(cpu: Product, xla: Product, a: Array, b: Array) -> Array:
    return lax.platform_dependent(a, b, cpu=cpu, default=xla)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_conv(x: Array, kernel: Array, impl: str = "auto") -> Array:
    """4x4 convolution with stride 2 and padding 1: [N,2h,2w,C], [4,4,C,F] -> [N,h,w,F]."""
    return _form(impl).conv(x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_conv_transpose(y: Array, kernel: Array, impl: str = "auto") -> Array:
    """The adjoint of `strided_conv` in x: [N,h,w,F], [4,4,C,F] -> [N,2h,2w,C]."""
    return _form(impl).transpose(y, kernel)


strided_conv.defvjp(
    lambda x, kernel, impl: (strided_conv(x, kernel, impl), (x, kernel)),
    lambda impl, saved, g: (
        strided_conv_transpose(g, saved[1], impl),
        _form(impl).weight(saved[0], g),
    ),
)
strided_conv_transpose.defvjp(
    lambda y, kernel, impl: (strided_conv_transpose(y, kernel, impl), (y, kernel)),
    lambda impl, saved, g: (strided_conv(g, saved[1], impl), _form(impl).weight(g, saved[0])),
)


def upsample_kernel(kernel: Array) -> Array:
    """The [4,4,C,F] kernel of "upsample, then convolve with `kernel`" [3,3,F,C].

    `strided_conv_transpose` with it equals nearest-neighbour upsampling by 2, then a 3x3
    convolution with padding 1. Upsampling copies a pixel into a 2x2 block, and the 3x3 weights
    spread it over a 4x4 block: the result is the 3x3 kernel, flipped, summed over the four copies.
    It takes 16 products a pixel; the two separate steps take 36.
    """
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return sum(
        jnp.pad(flipped, ((a, 1 - a), (b, 1 - b), (0, 0), (0, 0))) for a in (0, 1) for b in (0, 1)
    )


class StridedConv(nn.Module):
    """`strided_conv` with a bias, [N,2h,2w,C] -> [N,h,w,features]."""

    features: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (4, 4, x.shape[-1], self.features))
        y = strided_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class StridedConvTranspose(nn.Module):
    """Transposed convolution with a bias, [N,h,w,F] -> [N,2h,2w,features].

    With `upsample`, the parameter is the kernel [3,3,F,features] of a 3x3 convolution after
    nearest-neighbour upsampling; without, it is the 4x4 kernel [4,4,features,F].
    """

    features: int
    upsample: bool = False
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, y: Array) -> Array:
        if self.upsample:
            shape = (3, 3, y.shape[-1], self.features)
            kernel = upsample_kernel(self.param("kernel", self.kernel_init, shape))
        else:
            shape = (4, 4, self.features, y.shape[-1])
            kernel = self.param("kernel", self.kernel_init, shape)
        x = strided_conv_transpose(y.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            x += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return x


SIDE = 8  # of the map that `explain` reads; the last stage's 4x4 is too coarse for a heart


def explainable(module: nn.Module, h: Array) -> Array:
    """Returns `h`. If it is 8x8, `explain` can read it (intermediate "map") and perturb it."""
    if h.shape[1] != SIDE:
        return h
    module.sow("intermediates", "map", h)
    return module.perturb("map", h)


def stages(size: int, smallest: int) -> int:
    """The n for which `size` = `smallest` * 2^n.

    Raises:
      UserError: `size` is not a power-of-two multiple of `smallest`.
    """
    n = int(math.log2(size / smallest)) if size >= smallest else -1
    if n < 1 or smallest * 2**n != size:
        raise UserError(f"size: images of {size} pixels; use a power of two from 32 to 256")
    return n
