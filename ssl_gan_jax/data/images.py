"""One file to one gray image, and one gray image to the array that networks see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError
from skimage import exposure

MAX_PIXELS = 100_000_000  # a chest film digitised at 100 um holds 15 million
EQUALIZE = ("hist", "none")

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, deeper than 8 bits
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # TIFF tag, and its value for films stored as negatives


class UnreadableImage(Exception):
    """A file is no usable image. The message is the reason, without the path."""


def read_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG or TIFF as a gray image, by its content and whatever its suffix.

    Colour, palette and CMYK become luminance; alpha is dropped. Images deeper than 8 bits are
    scaled by their own least and greatest value, since files do not say how many of their 16 bits
    are in use; 8-bit images by 255.

    Returns:
        [H,W] float32 in [0,1], black is 0; a constant deep image is all 0.

    Raises:
        UnreadableImage: missing, empty, truncated, no image at all, several frames, not finite,
            or more than MAX_PIXELS according to its header (nothing is decoded then).
    """
    path = Path(path)
    try:
        return _decode(path)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("not a PNG, JPEG or TIFF image, whatever its suffix") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        reason = str(error).replace(str(path), path.name).partition("\n")[0]
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def prepare(image: np.ndarray, size: int, equalize: str) -> np.ndarray:
    """Equalise the histogram at full resolution, then squash to a square, as the papers do.

    Equalisation comes first: it then sees every gray level of the film, and 16-bit images keep
    their depth until the last line. The resize is Pillow's anti-aliased bilinear one on floats.

    Args:
        image: [H,W] float32 in [0,1].
        size: side of the result in pixels.
        equalize: 'hist' for global histogram equalisation, 'none' to leave gray levels alone.

    Returns:
        [size,size,1] uint8.
    """
    if equalize == "hist":
        # exposure.equalize_hist, every gray level counted by itself. All levels being integers,
        # looking them up gives what it interpolates, ten times as fast.
        gray = np.rint(image * 65535).astype(np.uint16)
        shares, levels = exposure.cumulative_distribution(gray)
        image = shares[gray - levels[0]]
    resized = Image.fromarray(image.astype(np.float32)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    return np.rint(np.asarray(resized) * 255).clip(0, 255).astype(np.uint8)[..., None]


def _decode(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        magic = file.read(4)
    if not magic:
        raise UnreadableImage("the file is empty")
    # The place for DICOM: look for b"DICM" at byte 128 and hand over to a reader of its own.
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too many pixels according to its header") from error
    except UnidentifiedImageError:
        if magic in _TIFF_MAGIC:  # a pixel format that Pillow does not know, such as float16
            return _decode_rare_tiff(path)
        raise
    with image:
        _check_header(image.width * image.height, lambda: getattr(image, "n_frames", 1))
        if image.mode in _DEEP_MODES:  # never convert("L"): it saturates every pixel above 255
            negative = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            return _stretch(np.asarray(image), negative)  # Pillow inverts 8-bit negatives itself
        return np.asarray(image.convert("L")).astype(np.float32) / 255


def _decode_rare_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        _check_header(page.imagewidth * page.imagelength, lambda: len(tiff.pages))
        pixels = page.asarray(maxworkers=1)
        if pixels.ndim != 2:
            raise UnreadableImage(f"{pixels.ndim} dimensions where a gray image has 2")
        return _stretch(pixels, page.photometric == _WHITE_IS_ZERO)


def _check_header(pixels: int, frames: Callable[[], int]) -> None:
    if pixels > MAX_PIXELS:  # first: to count the frames may be slow
        raise UnreadableImage(f"{pixels} pixels according to its header, {MAX_PIXELS} at most")
    if (count := frames()) != 1:
        raise UnreadableImage(f"{count} frames where one is expected")


def _stretch(pixels: np.ndarray, negative: bool) -> np.ndarray:
    pixels = pixels.astype(np.float64)
    if not np.isfinite(pixels).all():
        raise UnreadableImage("holds pixels that are NaN or infinite")
    low, high = pixels.min(), pixels.max()
    if low == high:
        return np.zeros(pixels.shape, np.float32)
    scaled = (pixels - low) / (high - low)
    return (1 - scaled if negative else scaled).astype(np.float32)
