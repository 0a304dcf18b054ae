"""One file to one gray image, and one gray image to the array that networks see."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError
from skimage import exposure

from ssl_gan_jax.data import dicom, outputs
from ssl_gan_jax.data.outputs import is_passed_over
from ssl_gan_jax.data.pixels import Header, UnreadableImage, check_header, check_jpeg, stretch
from ssl_gan_jax.errors import UserError

EQUALIZE = ("hist", "clahe", "none")
ASPECT = ("squash", "pad")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"})

_FORMATS = ("PNG", "JPEG", "TIFF")  # of the dozens that Pillow opens, some through other programs
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, deeper than 8 bits
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC, _BITS = 262, 258  # TIFF's tags; of the first, 0 is for films stored as negatives


def files_in(top: Path) -> Iterator[str]:
    """Yield the image files in a folder and all below, by suffix and relative to it.

    Links to folders are followed, each folder once. A folder that is not there holds none. What
    is hidden, or below `top` was written by this program, is passed over.

    Raises:
        UserError: a folder cannot be listed, or a name is not UTF-8.
    """
    seen = set()
    for folder, subfolders, names in os.walk(top, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        inside = {*subfolders, *names}
        if folder != os.fspath(top) and outputs.is_output(Path(folder), inside):
            subfolders.clear()
            continue
        inside -= outputs.ours_within(inside)
        subfolders[:] = sorted(n for n in subfolders if n in inside and not is_passed_over(n))
        for name in sorted(names):
            if name not in inside or is_passed_over(name):
                continue
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                path = Path(folder, name).relative_to(top).as_posix()
                try:
                    path.encode()
                except UnicodeEncodeError:
                    raise UserError(f"{ascii(path)}: not a name in UTF-8; rename it") from None
                yield path


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise UserError(f"{error.filename}: this folder cannot be listed ({error.strerror})")


def read_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG, TIFF or DICOM file as a gray image, by its content, whatever its suffix.

    Colour, palette and CMYK become luminance; alpha is dropped. Images deeper than 8 bits are
    scaled by their own least and greatest value, since files do not say how many of their 16 bits
    are in use; 8-bit images by 255. EXIF's orientation is applied. DICOM: see `dicom.read`.

    Returns:
        [H,W] float32 in [0,1], black is 0; a constant deep image is all 0.

    Raises:
        UnreadableImage: missing, empty, truncated, no image at all, several frames, not finite,
            more than 8 bits in colour or with alpha, or more than MAX_PIXELS according to its
            header (nothing is decoded then).
        UserError: a DICOM file, and the packages that read it are not installed.
    """
    with _reasons(path := Path(path)):
        if (start := _start(path))[128:] == b"DICM":
            return dicom.read(path)
        with open(path, "rb") as file:  # by its path, Pillow maps a TIFF, and may turn it wrongly
            try:
                image = Image.open(file, formats=_FORMATS)
            except UnidentifiedImageError:
                if start[:4] in _TIFF_MAGIC:  # a pixel format that Pillow does not know
                    return _read_rare_tiff(path)
                raise
            check_header(image.width * image.height, lambda: getattr(image, "n_frames", 1))
            deep, stored = image.mode in _DEEP_MODES, _bits(image, start)
            if stored > 8 and not deep:  # Pillow would keep 8 of them
                raise UnreadableImage(f"{stored} bits in colour or with alpha; convert it to gray")
            if image.format == "JPEG":
                check_jpeg(path.read_bytes())
            elif image.info.get("compression") == "jpeg":
                _check_jpeg_tiff(path)
            ImageOps.exif_transpose(image, in_place=True)
            if deep:  # never convert("L"): it saturates every pixel above 255
                negative = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
                return stretch(np.asarray(image), negative)  # Pillow inverts 8-bit negatives itself
            return np.asarray(image.convert("L")).astype(np.float32) / 255


def _bits(image: Image.Image, start: bytes) -> int:
    """Of one channel, as stored; `start` is the file's."""
    if image.format == "PNG":
        return start[24]
    return max(image.tag_v2.get(_BITS, (1,))) if image.format == "TIFF" else 8


def _read_rare_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        check_header(page.imagewidth * page.imagelength, lambda: len(tiff.pages))
        pixels = page.asarray(maxworkers=1)
        if pixels.ndim != 2 or pixels.dtype.kind not in "iuf":
            raise UnreadableImage(f"{pixels.ndim}-dimensional {pixels.dtype}, no gray image")
        return stretch(pixels, negative=page.photometric == 0)


def read_header(path: str | Path) -> Header:
    """Read the size and depth of an image, and decode nothing; raises as `read_image`."""
    with _reasons(path := Path(path)):
        if (start := _start(path))[128:] == b"DICM":
            return dicom.header(path)
        try:
            with Image.open(path, formats=_FORMATS) as image:
                return Header(image.width, image.height, _bits(image, start), None)
        except UnidentifiedImageError:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages[0]
                return Header(page.imagewidth, page.imagelength, page.bitspersample, None)


def _check_jpeg_tiff(path: Path) -> None:
    with tifffile.TiffFile(path) as tiff:
        page, file = tiff.pages[0], tiff.filehandle
        tables = (page.jpegtables or b"\xff\xd8\xff\xd9")[:-2]  # what all strips share
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(start)
            check_jpeg(tables + file.read(count)[2:])


def prepare(image: np.ndarray, size: int, equalize: str, aspect: str = "squash") -> np.ndarray:
    """Equalise the histogram at full resolution, then resize to a square.

    Equalisation comes first: it then sees every gray level of the film, and 16-bit images keep
    their depth until the last line. The resize is Pillow's anti-aliased bilinear one on floats.

    Args:
        image: [H,W] float32 in [0,1].
        size: side of the result in pixels.
        equalize: 'hist' for global histogram equalisation; 'clahe' for scikit-image's adaptive one
            with limited contrast, in tiles of an eighth of the image; 'none' to leave gray levels.
        aspect: 'squash' makes any image a square, as the papers do; 'pad' keeps its proportions
            and puts it into the middle of a black square.

    Returns:
        [size,size,1] uint8.
    """
    if equalize == "hist":
        # exposure.equalize_hist, every gray level counted by itself. All levels being integers,
        # looking them up gives what it interpolates, ten times as fast.
        scaled = image * np.float32(65535)
        gray = np.rint(scaled, out=scaled).astype(np.uint16)
        strips = np.array_split(gray, -(-gray.size // 2**18))  # bincount makes 64 bits of a pixel
        counts = sum(np.bincount(rows.ravel(), minlength=65536) for rows in strips)
        image = (counts.cumsum() / gray.size).astype(np.float32)[gray]
    elif equalize == "clahe" and image.min() < image.max():  # it divides by the range
        image = exposure.equalize_adapthist(image)
    box, (height, width) = (size, size), image.shape
    if aspect == "pad":
        box = tuple(max(1, round(side * size / max(image.shape))) for side in (width, height))
    small = Image.fromarray(np.asarray(image, np.float32)).resize(box, Image.Resampling.BILINEAR)
    square = np.zeros((size, size), np.float32)
    left, top = ((size - side) // 2 for side in box)
    square[top : top + box[1], left : left + box[0]] = small
    return np.rint(square * 255).clip(0, 255).astype(np.uint8)[..., None]


@contextlib.contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into UnreadableImage."""
    try:
        yield
    except (UnreadableImage, UserError, MemoryError):  # the last is no fault of the file
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too many pixels according to its header") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            "not a PNG, JPEG, TIFF or DICOM image, whatever its suffix"
        ) from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        reason = str(error).replace(str(path), path.name).partition("\n")[0]
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def _start(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UnreadableImage("no file")  # a pipe would wait for ever
    with open(path, "rb") as file:
        start = file.read(132)
    if not start:
        raise UnreadableImage("the file is empty")
    return start
