"""Augmentation on the device: differentiable functions of images and a random key.

Generated images can pass through them before D and C (differentiable augmentation, Zhao et al.
2020). No function inverts an image, because bones are bright. None mirrors an image unless `flip`
is set, because hearts have a side.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from ssl_gan_jax.types import Array, Key

Augmentation = Literal["weak", "rotated", "strong"]


def augmentation(config: Any) -> Callable[[Key, Array], Array]:  # noqa: ANN401
    """The function that a method's settings choose.

    Args:
      config: has `augmentation` ("weak", "rotated": weak with rotations to 7 degrees, "strong"),
        and `shift` and `flip`, which "strong" ignores.
    """
    if config.augmentation == "strong":
        return strong
    degrees = 7.0 if config.augmentation == "rotated" else 0.0
    return functools.partial(weak, shift=config.shift, flip=config.flip, degrees=degrees)


def weak(key: Key, x: Array, shift: int, flip: bool = False, degrees: float = 0.0) -> Array:
    """Shifts each image by up to `shift` pixels along both axes; edges are repeated.

    Shifts are products with 0/1 matrices: exact, and fast on all platforms.

    Args:
      key: random key.
      x: [N,H,W,1] images.
      shift: largest shift in pixels; 0 turns shifts off.
      flip: mirror half of the images left to right.
      degrees: largest rotation, before the shift; 0 turns rotations off.

    Returns:
      [N,H,W,1].
    """
    n, h, w, _ = x.shape
    if degrees:
        angle = _uniform(jax.random.fold_in(key, 2), n, -degrees, degrees)
        x = _affine(x[..., 0], angle)[..., None]
    if not shift and not flip:
        return x
    key_shift, key_flip = jax.random.split(key)
    shifts = jax.random.randint(key_shift, (2, n, 1), -shift, shift + 1)
    rows = jnp.clip(jnp.arange(h) + shifts[0], 0, h - 1)
    cols = jnp.clip(jnp.arange(w) + shifts[1], 0, w - 1)
    if flip:
        mirrored = jax.random.bernoulli(key_flip, shape=(n, 1))
        cols = jnp.where(mirrored, w - 1 - cols, cols)
    pick_rows = jax.nn.one_hot(rows, h, dtype=x.dtype)  # [N,H,H]
    pick_cols = jax.nn.one_hot(cols, w, dtype=x.dtype)  # [N,W,W]
    # Else a TPU would round the pixels to bfloat16.
    moved = jnp.einsum("nih,nhw,njw->nij", pick_rows, x[..., 0], pick_cols, precision="highest")
    return moved[..., None]


def strong(key: Key, x: Array) -> Array:
    """Imitates another day and another machine, and covers a part of the image.

    All images get an affine map (rotation to 15 degrees, scale .85 to 1.15, shear to .1,
    translation to 15 % of the side) and, at the end, cutout (a square of up to 25 % of the image
    becomes the image's mean). Between them, each with probability 1/2: gamma (.5 to 2), contrast
    (.6 to 1.4), brightness (-.2 to .2 of the range), blur (sigma to 1/40 of the side), noise (sigma
    .05).

    Args:
      key: random key.
      x: [N,H,W,1] images in [-1,1].

    Returns:
      [N,H,W,1] in [-1,1].
    """
    n, h, w, _ = x.shape
    keys = iter(jax.random.split(key, 18))

    def draw(low: float, high: float) -> Array:
        return _uniform(next(keys), n, low, high)

    def half(changed: Array, images: Array) -> Array:
        return jnp.where(jax.random.bernoulli(next(keys), shape=(n, 1, 1)), changed, images)

    u = (x[..., 0] + 1) / 2
    u = _affine(
        u,
        angle=draw(-15, 15),
        scale=draw(0.85, 1.15),
        shear=draw(-0.1, 0.1),
        move=jnp.stack([draw(-0.15, 0.15) * h, draw(-0.15, 0.15) * w], axis=1),
    )
    # Above 0, where the slope of a power can be infinite: a generator needs a finite gradient.
    u = half(jnp.maximum(u, 1e-3) ** jnp.exp2(draw(-1, 1)), u)
    mean = u.mean((1, 2), keepdims=True)
    u = half(mean + (u - mean) * draw(0.6, 1.4), u)
    u = half(u + draw(-0.2, 0.2), u)
    u = half(_blur(u, draw(0.2, h / 40)), u)
    u = half(u + 0.05 * jax.random.normal(next(keys), u.shape, u.dtype), u)
    u = jnp.clip(u, 0, 1)
    side, row, col = draw(0, 0.5), draw(0, 1), draw(0, 1)
    rows, cols = jnp.arange(h)[:, None] / h, jnp.arange(w) / w
    covered = (jnp.abs(rows - row) < side / 2) & (jnp.abs(cols - col) < side / 2)
    u = jnp.where(covered, u.mean((1, 2), keepdims=True), u)
    return (2 * u - 1)[..., None]


def _uniform(key: Key, n: int, low: float, high: float) -> Array:
    """A uniform number for each of n images, [n,1,1]."""
    return jax.random.uniform(key, (n, 1, 1), minval=low, maxval=high)


def _affine(
    x: Array,
    angle: Array,
    scale: Any = 1.0,
    shear: Any = 0.0,
    move: Any = 0.0,  # noqa: ANN401
) -> Array:
    """Rotates, scales, shears and shifts images [N,H,W] about their centres; edges are repeated.

    Args:
      x: the images.
      angle: in degrees, clockwise, [N,1,1].
      scale: of the content, [N,1,1]; 1 keeps it.
      shear: of columns along rows, [N,1,1].
      move: in pixels, [N,2,1,1].
    """
    n, h, w = x.shape
    cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    rows, cols = jnp.arange(h)[:, None] - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    # Where each pixel comes from: the inverse map.
    from_rows = (cos * rows - sin * cols) / scale + (h - 1) / 2
    from_cols = (sin * rows + (cos + shear) * cols) / scale + (w - 1) / 2
    places = jnp.broadcast_to(jnp.stack([from_rows, from_cols], axis=1) + move, (n, 2, h, w))
    return jax.vmap(lambda image, points: map_coordinates(image, points, order=1, mode="nearest"))(
        x, places
    ).astype(x.dtype)


def _blur(x: Array, sigma: Array) -> Array:
    """Gaussian blur of images [N,H,W] with `sigma` [N,1,1] in pixels; weights sum to 1 at edges."""
    kernels = [
        jax.nn.softmax(-jnp.square(jnp.arange(s)[:, None] - jnp.arange(s)) / (2 * sigma**2))
        for s in x.shape[1:]
    ]
    return jnp.einsum("nih,nhw,njw->nij", kernels[0], x, kernels[1], precision="highest")
