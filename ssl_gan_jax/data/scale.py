"""Gray levels as files have them, 0 to 255, and as networks have them, -1 to 1."""

from typing import TypeVar

import numpy as np

Array = TypeVar("Array")  # of NumPy or JAX: each function returns what it is given


def to_float(images: Array) -> Array:
    """Scale uint8 gray levels to float32 in [-1,1]."""
    return images.astype(np.float32) / 127.5 - 1


def to_levels(images: Array) -> Array:
    """Scale [-1,1] to gray levels in [0,255], not rounded."""
    return (images + 1) * 127.5


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Scale [-1,1] to the nearest of 256 gray levels, uint8; values beyond are cut off."""
    return np.clip(np.rint(to_levels(np.asarray(images, np.float32))), 0, 255).astype(np.uint8)
