"""The strided convolution's three products as matrix products, for CPUs.

An algorithm is three linear maps with S matrix products between them:

    y = outputs([d @ g for d, g in zip(data(x), weights(kernel))])       d [M,K], g [K,F]

Both gradients are also matrix products, between the transposes of the maps, which JAX derives.

direct     One product: each 4x4 window of x is a row ("im2col").
minimal    Nine products instead of 16, for outputs of even height and width. A 4x4 convolution with
           stride 2 is a 2x2 convolution with stride 1 over blocks of 2x2 pixels, and two of its
           outputs side by side need three products, not four (Winograd's F(2,2)):

               m0 = (d0 - d1) g0     m1 = d1 (g0 + g1)     m2 = (d1 - d2) g1
               y0 = d0 g0 + d1 g1 = m0 + m1
               y1 = d1 g0 + d2 g1 = m1 - m2

           Along both axes: 3x3 products for 2x2 outputs (Lavin & Gray 2016). It is exact except
           for the rounding of a few more additions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ssl_gan_jax.types import Array

# The most numbers that `data` returns at once: they stay in a CPU's cache. For a large batch as a
# whole the memory would be the bottleneck.
_BLOCK = 2.6e6


def conv(x: Array, kernel: Array) -> Array:
    """[N,2h,2w,C], [4,4,C,F] -> [N,h,w,F]."""
    algorithm = _choose(x)
    g = algorithm.weights(kernel)

    def product(x):
        m = [_dot(d, g, 1, 0) for d, g in zip(algorithm.data(x), g, strict=True)]
        return algorithm.outputs(m, x).astype(x.dtype)

    (blocks,) = _blocks(algorithm, x, x)
    return _unblock(lax.map(product, blocks))


def transpose(y: Array, kernel: Array) -> Array:
    """[N,h,w,F], [4,4,C,F] -> [N,2h,2w,C]: the adjoint of `conv` in x."""
    n, h, w, _ = y.shape
    x = jax.ShapeDtypeStruct((n, 2 * h, 2 * w, kernel.shape[2]), y.dtype)
    algorithm = _choose(x)
    g = algorithm.weights(kernel)

    def product(y):
        block = jax.ShapeDtypeStruct((len(y), *x.shape[1:]), x.dtype)
        m = _outputs_transposed(algorithm, block, y)
        d = [_dot(m, g, 1, 1).astype(x.dtype) for m, g in zip(m, g, strict=True)]
        return jax.linear_transpose(algorithm.data, block)(d)[0]

    (blocks,) = _blocks(algorithm, x, y)
    return _unblock(lax.map(product, blocks))


def weight(x: Array, y: Array) -> Array:
    """[N,2h,2w,C], [N,h,w,F] -> [4,4,C,F]: the adjoint of `conv` in its kernel."""
    algorithm = _choose(x)
    kernel = jax.ShapeDtypeStruct((4, 4, x.shape[3], y.shape[3]), jnp.float32)

    def product(x, y):  # [F,K] each: faster than [K,F]
        m = _outputs_transposed(algorithm, x, y)
        return [_dot(m, d, 0, 0) for m, d in zip(m, algorithm.data(x), strict=True)]

    def add(total, block):
        return jax.tree.map(jnp.add, total, product(*block)), None

    blocks = tuple(_blocks(algorithm, x, x, y))
    if len(blocks[0]) == 1:
        total = product(x, y)
    else:
        g = jax.eval_shape(algorithm.weights, kernel)
        total, _ = lax.scan(add, [jnp.zeros(g.shape[::-1]) for g in g], blocks)
    g = [g.T for g in total]
    return jax.linear_transpose(algorithm.weights, kernel)(g)[0].astype(x.dtype)


class _Algorithm(NamedTuple):
    data: Callable[[Array], list[Array]]  # [N,2h,2w,C] -> d
    weights: Callable[[Array], list[Array]]  # [4,4,C,F] -> g
    outputs: Callable[[list[Array], Array], Array]  # d @ g, x for its shape -> [N,h,w,F]


def _choose(x: Array) -> _Algorithm:
    """The faster algorithm for the input x of the convolution.

    "minimal" does not pay for few channels, and its additions would lose digits of bfloat16.
    """
    _, h, w, c = x.shape
    if h % 4 == w % 4 == 0 and c >= 16 and x.dtype != jnp.bfloat16:
        return _Algorithm(_minimal_data, _minimal_weights, _minimal_outputs)
    return _Algorithm(_direct_data, _direct_weights, _direct_outputs)


def _blocks_of_4(kernel: Array) -> Array:
    """[4,4,C,F] -> [2,2,4C,F]: the kernel over blocks of 2x2 pixels."""
    _, _, c, f = kernel.shape
    return kernel.reshape(2, 2, 2, 2, c, f).transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * c, f)


def _direct_data(x: Array) -> list[Array]:
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(n, h // 2 + 1, 2, w // 2 + 1, 2, c)
    blocks = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2 + 1, w // 2 + 1, 4 * c)
    neighbours = [blocks[:, a : a + h // 2, b : b + w // 2] for a in (0, 1) for b in (0, 1)]
    return [jnp.concatenate(neighbours, -1).reshape(-1, 16 * c)]


def _direct_weights(kernel: Array) -> list[Array]:
    return [_blocks_of_4(kernel).reshape(-1, kernel.shape[3])]


def _direct_outputs(m: list[Array], x: Array) -> Array:
    n, h, w, _ = x.shape
    return m[0].reshape(n, h // 2, w // 2, -1)


def _minimal_data(x: Array) -> list[Array]:
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 3), (1, 3), (0, 0)))  # to an even number of blocks
    x = x.reshape(n, h // 4 + 1, 2, 2, w // 4 + 1, 2, 2, c).transpose(2, 5, 0, 1, 4, 3, 6, 7)
    even_odd = x.reshape(2, 2, n, h // 4 + 1, w // 4 + 1, 4 * c)  # blocks by row and column

    def transform(even, odd, axis):
        d0, d1, d2 = (
            lax.slice_in_dim(d, start, start + d.shape[axis] - 1, axis=axis)
            for d, start in ((even, 0), (odd, 0), (even, 1))
        )
        return d0 - d1, d1, d1 - d2

    columns = [transform(*row, axis=2) for row in even_odd]
    rows = [transform(even, odd, axis=1) for even, odd in zip(*columns, strict=True)]
    return [d.reshape(-1, 4 * c) for row in zip(*rows, strict=True) for d in row]


def _minimal_weights(kernel: Array) -> list[Array]:
    def transform(g0, g1):
        return g0, g0 + g1, g1

    return [g for row in transform(*_blocks_of_4(kernel)) for g in transform(*row)]


def _minimal_outputs(m: list[Array], x: Array) -> Array:
    def transform(m0, m1, m2):
        return m0 + m1, m1 - m2

    n, h, w, _ = x.shape
    m = [m.reshape(n, h // 4, w // 4, -1) for m in m]
    columns = [transform(*m[i : i + 3]) for i in (0, 3, 6)]
    rows = zip(*(transform(*column) for column in zip(*columns, strict=True)), strict=True)
    y = jnp.stack([jnp.stack(row, 3) for row in rows], 2)
    return y.reshape(n, h // 2, w // 2, -1)


def _outputs_transposed(algorithm: _Algorithm, x: Array, y: Array) -> list[Array]:
    d = jax.eval_shape(algorithm.data, x)
    m = [jax.ShapeDtypeStruct((len(d), y.shape[3]), y.dtype) for d in d]
    return jax.linear_transpose(lambda m: algorithm.outputs(m, x), m)(y)[0]


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """Contracts an axis of `a` and an axis of `b`; accumulates in float32."""
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _blocks(algorithm: _Algorithm, x: Array, *arrays: Array) -> list[Array]:
    """Divides the batch of each array into the fewest blocks that `_BLOCK` allows: [B,N/B,...]."""
    n = len(x)
    numbers = sum(d.size for d in jax.eval_shape(algorithm.data, x)) / n
    size = max(m for m in range(1, n + 1) if n % m == 0 and (m == 1 or m * numbers <= _BLOCK))
    return [a.reshape(n // size, size, *a.shape[1:]) for a in arrays]


def _unblock(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])
