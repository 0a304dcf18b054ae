"""One DICOM file to one gray image, as a viewer would show it.

Nothing that pydicom says is passed on, since it quotes tags and those may be a patient's.
"""

import contextlib
import logging as std_logging
import warnings
from collections.abc import Iterator, MutableSequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from ssl_gan_jax.data import codestream
from ssl_gan_jax.data.pixels import Header, UnreadableImage, check_header, check_jpeg, stretch
from ssl_gan_jax.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

INSTALL = "to read DICOM files: pip install 'ssl_gan_jax[dicom]'"

_DEFLATED, _BASELINE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"  # transfer syntaxes
_PLAIN_SYNTAXES = {  # by (implicit types, little endian)
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
_SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}  # of the presentation LUT
_COLORS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_WINDOW = ("WindowCenter", "WindowWidth", "VOILUTFunction")


@contextlib.contextmanager
def _stage(reason: str) -> Iterator[None]:
    try:
        yield
    except (UnreadableImage, UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, and perhaps passing
            raise
        raise UnreadableImage(f"DICOM: {reason} ({type(error).__name__})") from None


@_stage("its elements are broken")  # nothing of a tag may leave this module in an error
def read(path: Path) -> np.ndarray:
    """Read the image through its modality LUT or rescale, then its VOI LUT or first window.

    The result, [H,W] float32 in [0,1], is scaled by its own least and greatest value; MONOCHROME1
    is inverted; pixels of PixelPaddingValue (to PixelPaddingRangeLimit) are black and count for
    nothing. Compressed pixels have the depth that their own data say. Without a transfer syntax,
    the file is read as its elements are written; without BitsStored and the like, it is refused.

    Raises:
        UnreadableImage: no pixels, several frames, colour, broken tags or pixels, pixels that
            contradict their depth, sign, or polarity, more than MAX_PIXELS, or BurnedInAnnotation
            is YES. The reason names elements and quotes none.
        UserError: pydicom or the decoder of this file's compression is not installed.
    """
    head = _checked(dataset := _open(path, stop_before_pixels=False))
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
    pixels, negative = _pixels(dataset, head), dataset.PhotometricInterpretation == "MONOCHROME1"
    image = stretch(pixels, negative, lambda of: _curve(of, dataset), _padding(pixels, dataset))
    if pixels.min() < pixels.max() and image.max() == 0:
        raise UnreadableImage("DICOM: its rescale, LUT, window or padding leaves one gray level")
    return image


@_stage("its elements are broken")
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
    with open(path, "rb") as file:
        pydicom.filereader.read_preamble(file, force=True)
        meta = pydicom.filereader.read_dataset(
            file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2
        )
        if meta.get("TransferSyntaxUID") == _DEFLATED:  # it could be a bomb, and is rare
            raise UnreadableImage(
                "DICOM: deflated as a whole (TransferSyntaxUID); convert it with DCMTK's dcmconv"
            )
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
                raise UnreadableImage("DICOM: compressed, and without TransferSyntaxUID")
            uid = _PLAIN_SYNTAXES[dataset.original_encoding]
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
        return dataset


def _checked(dataset: "Dataset", pixels: bool = True) -> Header:
    if pixels:
        _value(dataset, "PixelData")
    photometric = str(_value(dataset, "PhotometricInterpretation"))
    if photometric in _COLORS:
        raise UnreadableImage(f"DICOM in colour (PhotometricInterpretation is {photometric})")
    if photometric not in _SHAPES:
        raise UnreadableImage(
            "DICOM: PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2"
        )
    shape = _value(dataset, "PresentationLUTShape", "")
    if shape in _SHAPES.values() and shape != _SHAPES[photometric]:
        raise UnreadableImage(
            "DICOM: PresentationLUTShape and PhotometricInterpretation contradict each other; "
            "remove the first, or mend the second"
        )
    width, height = _number(dataset, "Columns"), _number(dataset, "Rows")
    check_header(width * height, lambda: _number(dataset, "NumberOfFrames", 1) or 1)
    allocated, bits = _number(dataset, "BitsAllocated"), _number(dataset, "BitsStored")
    for name, valid in (
        ("Columns", width > 0),
        ("Rows", height > 0),
        ("BitsAllocated", allocated in (1, 8, 16)),
        ("BitsStored", 1 <= bits <= allocated),
        ("HighBit", _number(dataset, "HighBit", bits - 1) == bits - 1),  # the lowest bit is in use
        ("PixelRepresentation", _number(dataset, "PixelRepresentation") in (0, 1)),
        ("SamplesPerPixel", _number(dataset, "SamplesPerPixel", 1) == 1),
    ):
        if not valid:
            raise UnreadableImage(f"DICOM: {name} has a value that is not read")
    dataset.SamplesPerPixel = 1
    burned_in = str(_value(dataset, "BurnedInAnnotation", "")).strip().upper()
    return Header(width, height, bits, burned_in if burned_in in ("YES", "NO") else "")


def _value(dataset: "Dataset", name: str, default: object = None) -> object:
    """Return what an element holds; if it holds nothing, `default`, or refuse the file."""
    with _stage(f"{name} is broken"):
        value = dataset.get(name)
        if value in (None, "", b"") and (value := default) is None:
            raise UnreadableImage(f"DICOM without {name}")
        return value


def _number(dataset: "Dataset", name: str, default: int | None = None) -> int:
    value = _value(dataset, name, default)
    with _stage(f"{name} is no number"):
        return int(value)


def _pixels(dataset: "Dataset", head: Header) -> np.ndarray:
    """Return [H,W] stored values, signed or not as PixelRepresentation says."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder

    syntax, signed = dataset.file_meta.TransferSyntaxUID, False
    with _stage("TransferSyntaxUID of a compression that no decoder is known for"):
        decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise UserError(f"DICOM with {syntax.name} compression; {INSTALL}")
    if not syntax.is_compressed:
        _check_length(dataset)
    elif "RLE" not in syntax.name:
        with _stage("PixelData is not what TransferSyntaxUID says, or damaged"):
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
            if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # decoders fill it with gray
                raise UnreadableImage("DICOM: truncated pixels")
            stream = codestream.describe(frame)
        if stream[:2] != head[:2]:
            raise UnreadableImage("DICOM: size of compressed pixels and header differ")
        if syntax == _BASELINE:
            check_jpeg(frame)
        signed = stream.signed
        dataset.BitsStored, dataset.HighBit = stream.bits, stream.bits - 1
        dataset.BitsAllocated = 8 if stream.bits <= 8 else 16
    with _stage("PixelData cannot be decoded"):
        cells, _ = decoder.as_array(
            dataset,
            correct_unused_bits=False,
            apply_j2k_sign_correction=False,
            apply_jls_sign_correction=False,
        )
    if cells.shape != (head.height, head.width):
        raise UnreadableImage("DICOM: its pixels are no gray image of the size in its header")
    # In old files, bits above BitsStored hold an overlay (OverlayBitPosition).
    overlay = any(dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))
    return _samples(cells, dataset.BitsStored, signed, overlay)


def _check_length(dataset: "Dataset") -> None:
    bits = dataset.Rows * dataset.Columns * dataset.BitsAllocated
    data, length = dataset.PixelData, (bits + 15) // 16 * 2
    if len(data) < bits / 8 or data[length:].strip(b"\0"):  # padding is harmless
        fault = f"{'shorter' if len(data) < length else 'longer'} than Rows, Columns and"
        raise UnreadableImage(f"DICOM: PixelData is {fault} BitsAllocated say")


def _samples(cells: np.ndarray, bits: int, coded_as_signed: bool, overlay: bool) -> np.ndarray:
    """Return the values of `bits` bits that the header promises, or refuse to make noise of them.

    Bits above them hold an overlay or copies of the sign, or are constant. Where they hold
    something else, or the header alone says that there is a sign, one of two readings wraps around
    and so is rougher; if that is the header's, the header is wrong.
    """
    unused = 8 * cells.itemsize - bits
    samples = (cells << unused) >> unused
    beyond, same_sign = samples ^ cells, coded_as_signed == (cells.dtype.kind == "i")
    if overlay or (same_sign and beyond.min() == beyond.max()):
        return samples
    other = cells.view(f"{'i' if coded_as_signed else 'u'}{cells.itemsize}")
    if _roughness(samples) > _roughness(other):
        fields = "BitsStored or PixelRepresentation"
        raise UnreadableImage(f"DICOM: pixels contradict {fields}; mend the header")
    return samples


def _roughness(values: np.ndarray) -> float:
    """Return the mean square of steps between neighbours, in variances: 2 is noise."""
    values = values.astype(np.float32)
    steps = np.square(np.diff(values, axis=0)).mean() + np.square(np.diff(values, axis=1)).mean()
    return float(steps / max(values.var(), 1e-9))


def _padding(pixels: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Return [H,W] bool: pixels that fill up the rectangle; None if there are none."""
    if _value(dataset, "PixelPaddingValue", "") == "":
        return None
    first = _number(dataset, "PixelPaddingValue")
    last = _number(dataset, "PixelPaddingRangeLimit", first)
    # Files keep the same bits under a signed or an unsigned type.
    low, high = sorted(np.array([first, last]).astype(pixels.dtype).tolist())
    inside = (pixels >= low) & (pixels <= high)
    return inside if inside.any() else None


def _curve(values: np.ndarray, dataset: "Dataset") -> np.ndarray:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    with _stage("RescaleSlope, RescaleIntercept or ModalityLUTSequence is broken"):
        _drop_empty(dataset, _RESCALE)
        if any(name in dataset for name in _RESCALE):
            dataset.RescaleSlope = dataset.get("RescaleSlope", 1)
            dataset.RescaleIntercept = dataset.get("RescaleIntercept", 0)
        _limits(dataset, "ModalityLUTSequence")
        values = apply_modality_lut(values, dataset)
        for name in (*_RESCALE, "ModalityLUTSequence"):  # with a slope below 0,
            dataset.pop(name, None)  # pydicom's window would invert what is inverted
    with _stage("WindowCenter, WindowWidth, VOILUTFunction or VOILUTSequence is broken"):
        _drop_empty(dataset, _WINDOW)
        if limits := _limits(dataset, "VOILUTSequence"):
            values = values.clip(*limits)
        return apply_voi_lut(values, dataset)


def _drop_empty(dataset: "Dataset", names: tuple[str, ...]) -> None:
    for name in names:  # often there and empty
        value = dataset.get(name)
        if (value[0] if isinstance(value, MutableSequence) else value) in (None, ""):
            dataset.pop(name, None)


def _limits(dataset: "Dataset", name: str) -> tuple[int, int] | None:
    """Return the first and last value that a LUT maps, and mend its descriptor for pydicom."""
    if not dataset.get(name) or "LUTDescriptor" not in (table := dataset[name][0]):
        return None
    entries, first, _ = table.LUTDescriptor
    if dataset.PixelRepresentation and first > 0x7FFF:  # written as an unsigned number
        first -= 0x10000
    table.LUTDescriptor = [entries, first, 16]  # pydicom takes the depth for the type of its index
    return first, first + (entries or 2**16) - 1
