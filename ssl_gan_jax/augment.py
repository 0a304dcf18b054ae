"""Augmentation on the device, a differentiable function of the images and of the step's key."""

import jax
import jax.numpy as jnp

from ssl_gan_jax.types import Array, Key


def augment(key: Key, x: Array, shift: int, flip: bool = False) -> Array:
    """Moves each image by up to `shift` pixels in both directions; edges are repeated.

    Written as products with 0/1 selection matrices: exact, fast on every platform, and gradients
    pass through, so that generated images can be augmented on their way to D and C (as in
    differentiable augmentation, Zhao et al. 2020).

    Args:
      key: random key.
      x: [N,H,W,1] images.
      shift: largest shift in pixels; 0 turns shifts off.
      flip: mirror half of the images left to right. Off by default everywhere: hearts have a side.

    Returns:
      [N,H,W,1], each image augmented on its own.
    """
    if not shift and not flip:
        return x
    n, h, w, _ = x.shape
    key_shift, key_flip = jax.random.split(key)
    moves = jax.random.randint(key_shift, (2, n, 1), -shift, shift + 1)
    rows = jnp.clip(jnp.arange(h) + moves[0], 0, h - 1)
    cols = jnp.clip(jnp.arange(w) + moves[1], 0, w - 1)
    if flip:
        mirrored = jax.random.bernoulli(key_flip, shape=(n, 1))
        cols = jnp.where(mirrored, w - 1 - cols, cols)
    pick_rows = jax.nn.one_hot(rows, h, dtype=x.dtype)  # [N,H,H]
    pick_cols = jax.nn.one_hot(cols, w, dtype=x.dtype)  # [N,W,W]
    # Highest precision: a TPU would otherwise round the pixels to bfloat16.
    moved = jnp.einsum("nih,nhw,njw->nij", pick_rows, x[..., 0], pick_cols, precision="highest")
    return moved[..., None]
