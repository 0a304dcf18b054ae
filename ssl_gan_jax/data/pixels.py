"""What images of every format share: stored values to gray levels, and what is refused."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg

from ssl_gan_jax.data.codestream import describe

MAX_PIXELS = 100_000_000  # a chest film digitised at 100 um holds 15 million


class UnreadableImage(Exception):
    """A file is no usable image. The message is the reason, without the path."""


class Header(NamedTuple):
    """What a file says of its image before a pixel is decoded."""

    width: int  # pixels
    height: int  # pixels
    bits: int  # of one gray level, as stored
    burned_in: str | None  # DICOM's BurnedInAnnotation ('' if it is not given); None: no DICOM


def stretch(
    pixels: np.ndarray,
    negative: bool,
    curve: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    padding: np.ndarray | None = None,
) -> np.ndarray:
    """Scale stored values to float32 in [0,1] by the least and greatest; a constant image is 0.

    Args:
        pixels: [H,W] stored values.
        negative: great values are black.
        curve: what a stored value means; a function of each value alone.
        padding: [H,W] bool, pixels of integers that are no part of the image; they become 0.

    Raises:
        UnreadableImage: some values are NaN or infinite.
    """
    if pixels.dtype.kind in "iu" and pixels.itemsize <= 2:
        inside = pixels if padding is None or padding.all() else pixels[~padding]
        low, high = int(inside.min()), int(inside.max())
        # There are fewer levels than pixels, so all arithmetic is done on levels.
        levels = _scale(curve(np.arange(low, high + 1)), negative)
        wide = pixels if pixels.dtype.kind == "u" else pixels.astype(np.int32)
        if padding is None:
            return levels[wide - low]
        return np.where(padding, np.float32(0), levels[wide.clip(low, high) - low])
    return _scale(curve(pixels), negative)


def check_header(pixels: int, frames: Callable[[], int]) -> None:
    """Raise UnreadableImage for too many pixels, or for other than one frame."""
    if pixels > MAX_PIXELS:  # first: to count the frames may be slow
        raise UnreadableImage(f"{pixels} pixels according to its header, {MAX_PIXELS} at most")
    if (count := frames()) != 1:
        raise UnreadableImage(f"{count} frames where one is expected")


def check_jpeg(raw: bytes) -> None:
    """Raise UnreadableImage for JPEG data that is damaged in a way that a decoder can notice.

    Pillow's fills what is missing with gray, and skips what is too much, without a word. This one
    decodes a second time, at an eighth of the size, and takes libjpeg's warnings for errors.
    """
    try:
        if describe(raw).lossless:  # simplejpeg would write past its memory
            raise ValueError("lossless, which is read in DICOM only; convert it to PNG")
        ink = simplejpeg.decode_jpeg_header(raw)[2] in ("CMYK", "YCCK")
        space = "CMYK" if ink else "GRAY"
        simplejpeg.decode_jpeg(raw, space, min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        raise UnreadableImage(f"JPEG: {error}") from error


def _scale(values: np.ndarray, negative: bool) -> np.ndarray:
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("holds pixels that are NaN or infinite")
    if negative:
        values = -values  # before scaling: a film and its negative then become the same floats
    low, high = values.min(), values.max()
    return ((values - low) / ((high - low) or 1)).astype(np.float32)
