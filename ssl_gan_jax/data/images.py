"""One file to one gray image, and one gray image to the array that networks see.

The content of a file decides what it is, never its name. What cannot be read as it was meant, such
as several pictures in one file, or pixels that contradict their header, is refused with a reason.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image
from skimage import exposure

from ssl_gan_jax.data import dicom, outputs, pictures
from ssl_gan_jax.data.outputs import is_passed_over
from ssl_gan_jax.data.pixels import Header, UnreadableImage
from ssl_gan_jax.errors import UserError

EQUALIZE = ("hist", "clahe", "none")
ASPECT = ("squash", "pad")
READ = "PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000 or DICOM"
# A file with one of these counts as an image whatever it holds: a damaged one is then named.
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dib", ".gif"}
    | {".webp", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".dcm", ".dicom", ".heic", ".heif", ".avif"}
    | {".jxl", ".jls", ".svg", ".pgm", ".ppm", ".pnm", ".tga", ".psd", ".dng"}
)

_LENGTH = 132  # bytes that say what a file is
# How each kind of file begins. DICOM may lack its first 132 bytes: then an element of group 2 or 8
# comes first, with a type or a short length.
_KINDS = {
    "DICOM": rb".{128}DICM|[\x02\x08]\0.\0([A-Z]{2}|.\0\0\0)|\0[\x02\x08]\0.[A-Z]{2}",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "JPEG2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "AVIF": rb".{4}ftypavi[fs]",
}
_KINDS = {kind: re.compile(start, re.DOTALL) for kind, start in _KINDS.items()}
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # characters that no text holds
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NAMED = 10  # files in a warning


def files_in(top: Path) -> Iterator[str]:
    """Yield the image files in a folder and all below, sorted and relative to it.

    These are the files that begin like an image, and those with an image's suffix. The others are
    counted and named in a warning, except for text such as tables and notes, a DICOMDIR, what is
    hidden, and what this program has written below `top`. Links to folders are followed, each
    folder once. A folder that is not there holds none.

    Raises:
        UserError: a folder cannot be listed, or a name is not UTF-8.
    """
    listed, others = set(), []
    for folder, subfolders, names in os.walk(top, onerror=_refuse, followlinks=True):
        inside, real = {*subfolders, *names}, os.path.realpath(folder)
        is_ours = folder != os.fspath(top) and outputs.is_output(Path(folder), inside)
        if real in listed or is_ours:
            subfolders.clear()
            continue
        listed.add(real)
        inside -= outputs.ours_within(inside) | {"DICOMDIR"}
        inside = {name for name in inside if not is_passed_over(name)}
        subfolders[:] = sorted(inside.intersection(subfolders))
        for name in sorted(inside.intersection(names)):
            path = Path(folder, name)
            relative = path.relative_to(top).as_posix()
            if path.suffix.lower() not in SUFFIXES:
                start = b""
                with contextlib.suppress(UnreadableImage, OSError):
                    start = _start(path)
                if not _kind(start):
                    is_text = start and (start[:2] in _UTF_16 or not _CONTROL.search(start))
                    others += [] if is_text else [relative]
                    continue
            try:
                relative.encode()
            except UnicodeEncodeError:
                raise UserError(f"{ascii(relative)}: not a name in UTF-8; rename it") from None
            yield relative
    if others:
        shown = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
        logging.warning("%d files in %s hold no image: %s", len(others), top, shown)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise UserError(f"{error.filename}: this folder cannot be listed ({error.strerror})")


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file, by its content, as gray: [H,W] float32 in [0,1], black is 0.

    PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000: colour, palette and CMYK become luminance; what
    is transparent lets black through. Images deeper than 8 bits, or signed, are scaled by their own
    least and greatest value, since files do not say how many of their 16 bits are in use (a
    constant one is all 0); 8-bit images by 255. EXIF's orientation is applied; gamma and colour
    profiles are not. DICOM: see `dicom.read`.

    Raises:
        UnreadableImage: missing, empty, truncated, no image at all, of another format, several
            frames, not finite, wholly transparent, more than 8 bits in colour or with alpha, or
            more than MAX_PIXELS according to its header (nothing is decoded then).
        UserError: a DICOM file, and the packages that read it are not installed.
    """
    with _reasons(path := Path(path)):
        kind = _readable_kind(path)
        return dicom.read(path) if kind == "DICOM" else pictures.read(path, kind)


def read_header(path: str | Path) -> Header:
    """Read the size and depth of an image, and decode nothing; raises as `read_image`."""
    with _reasons(path := Path(path)):
        kind = _readable_kind(path)
        return dicom.header(path) if kind == "DICOM" else pictures.header(path, kind)


def prepare(image: np.ndarray, size: int, equalize: str, aspect: str = "squash") -> np.ndarray:
    """Equalise the histogram at full resolution, then resize to [size,size,1] uint8.

    Equalisation comes first, so it has every gray level of the film, and 16-bit images keep their
    depth until the last line. The resize is Pillow's anti-aliased bilinear one on floats.

    Args:
        image: [H,W] float32 in [0,1].
        size: side of the result in pixels.
        equalize: 'hist' for global histogram equalisation; 'clahe' for scikit-image's adaptive one
            with limited contrast, in tiles of an eighth of the image; 'none' to leave gray levels.
        aspect: 'squash' makes any image a square, as the papers do; 'pad' keeps its proportions
            and puts it into the middle of a black square.
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
    except Exception as error:  # a damaged file can make a decoder raise anything
        reason = str(error).replace(str(path), path.name).partition("\n")[0]
        raise UnreadableImage(f"{type(error).__name__}: {reason}") from error


def _readable_kind(path: Path) -> str:
    kind = _kind(_start(path))
    if kind not in ("DICOM", *pictures.FORMATS):
        known = f"{kind}, which is not read; save it as PNG" if kind else f"not a {READ} image"
        raise UnreadableImage(f"{known}, whatever its suffix")
    return kind


def _kind(start: bytes) -> str:
    """Return the kind of a file that begins so, '' for no image."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.match(start)), "")


def _start(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UnreadableImage("no file")  # a pipe would wait for ever
    with open(path, "rb") as file:
        start = file.read(_LENGTH)
    if not start:
        raise UnreadableImage("the file is empty")
    return start
