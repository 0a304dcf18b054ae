"""One DICOM file to one gray image, as a viewer would show it.

Nothing that pydicom says is passed on, since it quotes tags and those may be a patient's.
"""

import contextlib
import logging as std_logging
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from ssl_gan_jax.data.pixels import Header, UnreadableImage, check_header, check_jpeg, stretch
from ssl_gan_jax.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

INSTALL = "to read DICOM files: pip install 'ssl_gan_jax[dicom]'"

_DEFLATED, _BASELINE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"  # transfer syntaxes
_NEEDED = ("Rows", "Columns", "BitsStored", "BitsAllocated", "PhotometricInterpretation")
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG, JPEG-LS: SOF
_CURVES = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")


def read(path: Path) -> np.ndarray:
    """Read the image through its modality LUT or rescale, then its VOI LUT or first window.

    The result is scaled by its own least and greatest value; MONOCHROME1 is inverted.

    Returns:
        [H,W] float32 in [0,1], black is 0.

    Raises:
        UnreadableImage: no pixels, several frames, colour, broken tags or pixels, more than
            MAX_PIXELS, or BurnedInAnnotation is YES. The reason quotes no tag.
        UserError: pydicom or the decoder of this file's compression is not installed.
    """
    dataset = _open(path, stop_before_pixels=False)
    head = _checked(dataset)
    if head.burned_in == "YES":
        raise UnreadableImage(
            "BurnedInAnnotation is YES, so text in its pixels may name the patient; if you have "
            "seen that it does not, set this tag to NO"
        )
    if head.burned_in != "NO":
        logging.log_first_n(
            logging.WARNING,
            "%s: DICOM without BurnedInAnnotation=NO, perhaps the first of several: look for text "
            "in such images (python -m ssl_gan_jax.audit counts them)",
            1,
            path.name,
        )
    pixels = _pixels(dataset, head)
    if pixels.shape != (head.height, head.width):
        raise UnreadableImage("DICOM: its pixels are no gray image of the size in its header")
    with _stage("its rescale, LUT or window is broken"):
        image = stretch(
            pixels,
            negative=dataset.PhotometricInterpretation == "MONOCHROME1",
            curve=lambda values: _curve(values, dataset),
        )
    if pixels.min() < pixels.max() and image.max() == 0:
        raise UnreadableImage("DICOM: its rescale, LUT or window leaves a single gray level")
    return image


def header(path: Path) -> Header:
    """Read size, depth and annotation flag, and no pixels; raises as `read`."""
    return _checked(_open(path, stop_before_pixels=True), pixels=False)


def _open(path: Path, stop_before_pixels: bool) -> "Dataset":
    try:
        import pydicom
    except ImportError as error:
        raise UserError(f"{path.name}: {INSTALL}") from error
    std_logging.getLogger("pydicom").setLevel(std_logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")
    with _stage("its tags are broken"):
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == _DEFLATED:  # it could be a bomb, and is rare
            raise UnreadableImage("DICOM: deflated as a whole; convert it with DCMTK's dcmconv")
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)


def _checked(dataset: "Dataset", pixels: bool = True) -> Header:
    with _stage("its tags are broken"):
        if pixels and not dataset.get("PixelData"):
            raise UnreadableImage("DICOM without pixels")
        for name in _NEEDED:
            if dataset.get(name) is None:
                raise UnreadableImage(f"DICOM without {name}")
        if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise UnreadableImage("DICOM: neither MONOCHROME1 nor MONOCHROME2")
        width, height, bits = int(dataset.Columns), int(dataset.Rows), int(dataset.BitsStored)
        check_header(width * height, lambda: int(dataset.get("NumberOfFrames") or 1))
        if not (width and height and 1 <= bits <= int(dataset.BitsAllocated) <= 16):
            raise UnreadableImage("DICOM: impossible Rows, Columns, BitsStored or BitsAllocated")
        if int(dataset.get("HighBit") or bits - 1) != bits - 1:
            raise UnreadableImage("DICOM: gray levels that do not end at the lowest bit (HighBit)")
        burned_in = str(dataset.get("BurnedInAnnotation") or "").strip().upper()
        return Header(width, height, bits, burned_in if burned_in in ("YES", "NO") else "")


def _pixels(dataset: "Dataset", head: Header) -> np.ndarray:
    """[H,W] stored values; bits above BitsStored, where old files keep overlays, are cut off."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder

    with _stage("its pixels cannot be decoded"):
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            try:
                available = get_decoder(syntax).is_available
            except NotImplementedError:
                raise UnreadableImage("DICOM: a compression that no decoder is known for") from None
            if not available:
                raise UserError(f"DICOM with {syntax.name} compression; {INSTALL}")
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
            if "RLE" not in syntax.name and _codestream_size(frame) != head[:2]:
                raise UnreadableImage("DICOM: size of compressed pixels and header differ")
            if syntax == _BASELINE:
                check_jpeg(frame)
        pixels = dataset.pixel_array
        if pixels.dtype.kind == "u" and head.bits < 8 * pixels.itemsize:
            pixels = pixels & ((1 << head.bits) - 1)
        return pixels


def _codestream_size(frame: bytes) -> tuple[int, int]:
    """(width, height) that JPEG, JPEG-LS or JPEG 2000 data give themselves, so allocate."""
    if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # decoders fill what is missing with gray
        raise UnreadableImage("DICOM: truncated pixels")
    if frame.startswith(b"\xff\xd8"):
        at = 2
        while frame[at + 1] not in _FRAME_MARKERS:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4])
        height, width = struct.unpack(">2H", frame[at + 5 : at + 9])
        return width, height
    at = frame.index(b"\xff\x4f\xff\x51")  # JPEG 2000: its size follows at once
    right, bottom, left, top = struct.unpack(">4I", frame[at + 8 : at + 24])
    return right - left, bottom - top


def _curve(values: np.ndarray, dataset: "Dataset") -> np.ndarray:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    for name in _CURVES:  # often there and empty
        if name in dataset and dataset[name].is_empty:
            del dataset[name]
    return apply_voi_lut(apply_modality_lut(values, dataset), dataset)


@contextlib.contextmanager
def _stage(reason: str) -> Iterator[None]:
    try:
        yield
    except (UnreadableImage, UserError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableImage(f"DICOM: {reason} ({type(error).__name__})") from None
