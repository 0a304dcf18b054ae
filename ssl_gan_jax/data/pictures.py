"""One PNG, JPEG, TIFF, BMP, GIF, WebP or JPEG 2000 file to one gray image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from ssl_gan_jax.data import codestream
from ssl_gan_jax.data.pixels import Header, UnreadableImage, check_header, check_jpeg, stretch

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000")  # as Pillow calls them

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, deeper than 8 bits
_BITS, _ORIENTATION, _SAMPLE_FORMAT, _PLANES = 258, 274, 339, 32997  # tags of TIFF
_PHOTOMETRIC = 262  # 0 is for films stored as negatives
_SUBFILE = 254  # its first bit: a small version, as cameras put before their raw data
_UNSIGNED, _SIGNED = 1, 2  # of _SAMPLE_FORMAT


def read(path: Path, kind: str) -> np.ndarray:
    """Read a file of one of the FORMATS, which is `kind`; see `images.read_image`."""
    with open(path, "rb") as file:  # by its path, Pillow maps a TIFF, and may turn it wrongly
        try:
            image = Image.open(file, formats=(kind,))
        except UnidentifiedImageError:
            if kind == "TIFF":  # a pixel format that Pillow does not know
                return _read_rare_tiff(path)
            raise UnreadableImage(_unopened(path, kind)) from None
        check_header(image.width * image.height, lambda: getattr(image, "n_frames", 1))
        bits, deep = _bits(image, path), image.mode in _DEEP_MODES
        if bits > 8 and (not deep or image.has_transparency_data):  # Pillow would keep 8 of them
            raise UnreadableImage(f"{bits} bits in colour or with alpha; convert it to gray")
        if kind == "JPEG":
            check_jpeg(path.read_bytes())
        elif image.info.get("compression") == "jpeg":
            _check_jpeg_tiff(path)
        tags = image.tag_v2 if kind == "TIFF" else {}
        _check_whole(tags.get)
        sample, big = tags.get(_SAMPLE_FORMAT, (1,))[0], kind == "TIFF" and tags.prefix == b"MM"
        if big and sample != _UNSIGNED and image.info["compression"] != "raw":
            return _read_rare_tiff(path)  # Pillow would swap bytes that libtiff has swapped
        signed = sample == _SIGNED
        ImageOps.exif_transpose(image, in_place=True)
        if deep or signed:  # never convert("L"): it saturates every pixel above 255
            pixels, kind = np.asarray(image), "i" if signed else "u"
            if pixels.dtype.kind not in ("f", kind):  # to Pillow, 8 bits are unsigned, 32 signed
                pixels = pixels.view(f"{kind}{pixels.itemsize}")
            # Pillow inverts 8-bit negatives itself.
            return stretch(pixels, negative=tags.get(_PHOTOMETRIC) == 0)
        return _gray(image)


def header(path: Path, kind: str) -> Header:
    """Read the size and depth of such a file, and decode nothing; raises as `read`."""
    try:
        with Image.open(path, formats=(kind,)) as image:
            return Header(image.width, image.height, _bits(image, path), None)
    except UnidentifiedImageError:
        if kind != "TIFF":
            raise UnreadableImage(_unopened(path, kind)) from None
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            return Header(page.imagewidth, page.imagelength, page.bitspersample, None)


def _gray(image: Image.Image) -> np.ndarray:
    """8 bits to luminance; what is transparent lets black through, as the viewing box of a film."""
    if not image.has_transparency_data:
        return np.asarray(image.convert("L")).astype(np.float32) / 255
    both = image if image.mode in ("La", "LA") else image.convert("RGBA")
    gray, alpha = (np.asarray(part, np.float32) / 255 for part in both.convert("LA").split())
    if not alpha.any():
        raise UnreadableImage("every pixel is transparent")
    return gray * alpha


def _bits(image: Image.Image, path: Path) -> int:
    """Of one channel, as stored."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]
    if image.format == "JPEG2000":
        stream = codestream.describe(path.read_bytes())
        if stream[:2] != image.size:
            raise UnreadableImage("JPEG 2000: size of its pixels and header differ")
        return stream.bits
    return max(image.tag_v2.get(_BITS, (1,))) if image.format == "TIFF" else 8


def _unopened(path: Path, kind: str) -> str:
    """Say why Pillow does not open a file that begins like this kind."""
    try:
        stream = codestream.describe(path.read_bytes())
    except ValueError:
        return f"a {kind} that is damaged, or of a sort that Pillow does not open"
    sort = "lossless " if stream.lossless else ""
    return f"a {sort}{kind} of {stream.bits} bits, which Pillow does not open; convert it to PNG"


def _read_rare_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        check_header(page.imagewidth * page.imagelength, lambda: len(tiff.pages))
        _check_whole(page.tags.valueof)
        if page.photometric not in (0, 1) or page.samplesperpixel != 1:
            sort = f"{page.samplesperpixel} samples and photometric {int(page.photometric)}"
            raise UnreadableImage(f"TIFF of {page.bitspersample} bits, {sort}; convert it to gray")
        pixels = page.asarray(maxworkers=1)
        if pixels.ndim != 2 or pixels.dtype.kind not in "biuf":
            raise UnreadableImage(f"{pixels.ndim}-dimensional {pixels.dtype}, no gray image")
        image = Image.fromarray(stretch(pixels, negative=page.photometric == 0))
        image.getexif()[_ORIENTATION] = int(page.tags.valueof(_ORIENTATION, 1))
        return np.asarray(ImageOps.exif_transpose(image))


def _check_whole(tag: Callable[[int, int], int]) -> None:
    if tag(_SUBFILE, 0) & 1:
        raise UnreadableImage("TIFF: a small version of a picture that is not in its place")
    if tag(_PLANES, 1) != 1:
        raise UnreadableImage("TIFF: several planes where one is expected")


def _check_jpeg_tiff(path: Path) -> None:
    with tifffile.TiffFile(path) as tiff:
        page, file = tiff.pages[0], tiff.filehandle
        tables = (page.jpegtables or b"\xff\xd8\xff\xd9")[:-2]  # what all strips share
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(start)
            check_jpeg(tables + file.read(count)[2:])
