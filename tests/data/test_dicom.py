"""DICOM, trust 13, 26 and 27; broken files are in test_zoo.py."""

import builtins
import io

import numpy as np
import pytest
from absl import logging
from made import RAMP, SENTINEL, dicom, lossless_jpeg
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from ssl_gan_jax.data import records
from ssl_gan_jax.data.images import read_header, read_image
from ssl_gan_jax.data.pixels import UnreadableImage
from ssl_gan_jax.errors import UserError

EXPECTED = RAMP / np.float32(RAMP.max())


def lut(values, first, bits=12):
    """A LUT sequence that gives `values` from the stored value `first` on."""
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = [int(value) for value in values]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
def test_every_level_survives_every_lossless_coding(tmp_path, syntax):
    path = dicom(tmp_path / "x.dcm", syntax=syntax)
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, EXPECTED, atol=1e-6)
    assert read_header(path) == (256, 64, 12, "NO")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_depths(tmp_path, bits):
    pixels = (RAMP.astype(np.uint32) * (2**bits - 1) // 4080).astype("u1" if bits == 8 else "u2")
    np.testing.assert_allclose(read_image(dicom(tmp_path / "x", pixels, bits)), EXPECTED, atol=0.01)


def test_signed_pixels_and_overlays_in_unused_bits(tmp_path):
    signed = read_image(dicom(tmp_path / "x", RAMP.astype(np.int16) - 2048, 12))
    overlaid = read_image(dicom(tmp_path / "x", RAMP | np.uint16(0xA000)))
    np.testing.assert_allclose(signed, EXPECTED, atol=1e-6)
    np.testing.assert_allclose(overlaid, EXPECTED, atol=1e-6)


def test_levels_that_do_not_end_at_the_lowest_bit_are_refused(tmp_path):
    dicom(tmp_path / "x.dcm", RAMP << 4, HighBit=15)
    with pytest.raises(UnreadableImage, match="HighBit"):
        read_image(tmp_path / "x.dcm")


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_files_that_scanners_wrote(name):
    image = read_image(get_testdata_file(name, download=False))
    assert image.min() == 0 and image.max() == 1 and len(np.unique(image)) > 100


def test_jpeg(tmp_path):
    file, pixels = io.BytesIO(), (RAMP >> 4).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    path = dicom(tmp_path / "x", pixels, 8, syntax=JPEGBaseline8Bit, frame=file.getvalue())
    np.testing.assert_allclose(read_image(path), EXPECTED, atol=0.02)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
@pytest.mark.parametrize("bits", [8, 12])
def test_jpeg_lossless(tmp_path, syntax, bits):
    pixels = RAMP if bits == 12 else (RAMP >> 4).astype(np.uint8)
    frame = lossless_jpeg(pixels, bits)
    image = read_image(dicom(tmp_path / "x", pixels, bits, syntax=syntax, frame=frame))
    np.testing.assert_allclose(image, EXPECTED, atol=1e-6)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ({}, {}),
        ({"WindowCenter": "", "WindowWidth": ""}, {}),
        (
            {"WindowCenter": 2000, "WindowWidth": 1000},
            {"WindowCenter": 4096 - 2000, "WindowWidth": 1000},
        ),
        (
            {"WindowCenter": [2000, 9], "WindowWidth": [1000, 9]},
            {"WindowCenter": 4096 - 2000, "WindowWidth": 1000},
        ),
        (
            {"VOILUTSequence": lut(np.arange(4096) ** 2 // 4095, 0)},
            {"VOILUTSequence": lut(4095 - np.arange(4095, -1, -1) ** 2 // 4095, 0)},
        ),
        (
            {
                "RescaleSlope": 2,
                "RescaleIntercept": -1000,
                "WindowCenter": 3000,
                "WindowWidth": 999,
            },
            {"WindowCenter": 4096 - 2000, "WindowWidth": 500},
        ),
    ],
    ids=["plain", "empty window", "window", "two windows", "VOI LUT", "rescale"],
)
def test_trust_13_a_film_and_its_negative_are_equal(tmp_path, positive, negative):
    a = read_image(dicom(tmp_path / "a", **positive))
    b = read_image(
        dicom(tmp_path / "b", 4095 - RAMP, PhotometricInterpretation="MONOCHROME1", **negative)
    )
    np.testing.assert_allclose(a, b, atol=2e-3 if "RescaleSlope" in positive else 1e-6)
    assert (np.diff(a[0]) >= 0).all() and a[0, 0] == 0 and a[0, -1] == 1
    if positive.get("WindowCenter"):
        assert 25 < (np.diff(a[0]) > 0).sum() < 70  # what lies outside the window is flat


def test_modality_luts(tmp_path):
    path = dicom(tmp_path / "x", ModalityLUTSequence=lut(4095 - np.arange(4096), 0, 16))
    np.testing.assert_allclose(read_image(path), 1 - EXPECTED, atol=1e-6)


def test_trust_27_burned_in_annotation(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(logging, "log_first_n", lambda *args: warned.append(args))
    with pytest.raises(UnreadableImage, match="BurnedInAnnotation is YES"):
        read_image(dicom(tmp_path / "yes", BurnedInAnnotation="YES"))
    assert read_header(tmp_path / "yes").burned_in == "YES"
    read_image(dicom(tmp_path / "no"))
    assert not warned
    read_image(dicom(tmp_path / "blank", BurnedInAnnotation=""))
    read_image(dicom(tmp_path / "absent", BurnedInAnnotation=None))
    assert len(warned) == 2


def test_without_pydicom_the_message_says_what_to_install(tmp_path, monkeypatch):
    path, real = dicom(tmp_path / "a" / "x.dcm"), builtins.__import__

    def without(name, *args, **options):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"x\.dcm: .*pip install 'ssl_gan_jax\[dicom\]'"):
        read_image(path)


def test_trust_26_no_patient_field_in_anything_written(tmp_path, capfd, caplog):
    data, cache = tmp_path / "data", tmp_path / "cache"
    for i in range(3):
        dicom(data / "a" / f"{i}.dcm", BurnedInAnnotation="")
    dicom(data / "b" / "4.dcm", PatientBirthDate="S3NTINEL no date", Rows=None)
    dicom(data / "b" / "5.dcm", StudyDate="S3NTINEL", WindowCenter="9", WindowWidth="0")
    raw = dicom(data / "b" / "6.dcm").read_bytes()
    (data / "b" / "6.dcm").write_bytes(raw[:-2000])
    logging.use_python_logging(quiet=True)
    loaded = records.load("folder", data, 8, cache_dir=cache, max_unreadable=0.9)
    assert len(loaded.label) == 3 and len(loaded.quarantined) == 3
    with pytest.raises(UserError) as caught:
        records.load("folder", data, 8, cache_dir=cache)
    out, err = capfd.readouterr()
    written = [path.read_bytes() for path in cache.rglob("*") if path.is_file()]
    names = [str(path.relative_to(cache)) for path in cache.rglob("*")]
    said = [out, err, caplog.text, str(caught.value), repr(loaded), *names]
    for text in [*written, *(part.encode() for part in said)]:
        for secret in ("SENTINEL", "S3NTINEL", SENTINEL["PatientBirthDate"]):
            assert secret.encode() not in text
