"""One picture in every coding that cameras, scanners and hospitals write: read as that picture, or
refused with a reason that names the cause. Damaged files are in test_zoo.py."""

import errno
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from absl import logging
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import dicom, lossless_jpeg
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1

from ssl_gan_jax.commands import predict
from ssl_gan_jax.data import index, records
from ssl_gan_jax.data.images import files_in, read_header, read_image
from ssl_gan_jax.data.pixels import MAX_PIXELS, UnreadableImage, check_jpeg
from ssl_gan_jax.data.sources import mnist
from ssl_gan_jax.errors import UserError

Y, X = np.mgrid[:48, :64]
PICTURE = (
    (2 * X + 2 * Y + 8 * np.sin(X / 9) * np.sin(Y / 7) + 16).round().astype(np.uint8)
)  # smooth
GRAY = Image.fromarray(PICTURE)
DEEP = PICTURE.astype(np.uint16) * 257


def scaled(values):
    values = np.asarray(values, np.float64)
    return (values - values.min()) / (values.max() - values.min())


def pillow(format_, image=GRAY, **options):
    return lambda path: image.save(path, format_, **options)


def tiff(pixels, photometric="minisblack", **options):
    return lambda path: tifffile.imwrite(path, pixels, photometric=photometric, **options)


def raw(content):
    return lambda path: path.write_bytes(content)


def jpeg(**options):
    file = io.BytesIO()
    GRAY.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def with_alpha(mode="RGBA", visible=255):
    alpha = Image.fromarray(np.full_like(PICTURE, visible))
    image = GRAY.convert(mode)
    image.putalpha(alpha)
    return image


AS_BYTES = {  # 8 bits, scaled by 255
    **{
        f"{format_} {mode}": pillow(format_, GRAY.convert(mode), **options)
        for format_, modes, options in (
            ("PNG", "L LA P RGB RGBA", {}),
            ("BMP", "L P RGB", {}),
            ("GIF", "L RGB", {}),
            ("WEBP", "L RGB RGBA", {"lossless": True}),
            ("JPEG", "L RGB CMYK YCbCr", {"quality": 95}),
            ("TIFF", "L LA P PA RGB RGBA CMYK YCbCr", {}),
            ("JPEG2000", "L LA RGB RGBA", {}),
        )
        for mode in modes.split()
    },
    **{
        f"TIFF {packed} {mode}": pillow("TIFF", GRAY.convert(mode), compression=packed)
        for packed in ("tiff_lzw", "packbits", "tiff_deflate", "jpeg")
        for mode in ("L", "RGB")
    },
    "JPEG progressive": raw(jpeg(progressive=True)),
    "JPEG with a profile": raw(jpeg(icc_profile=bytes(100_000))),
    "JPEG in RGB": pillow("JPEG", GRAY.convert("RGB"), keep_rgb=True, quality=95),
    "JPEG padded": raw(jpeg().replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1)),
    "WebP lossy": pillow("WEBP", quality=95),
    "JPEG 2000 codestream": pillow("JPEG2000", no_jp2=True),
    "JPEG 2000 lossy": pillow("JPEG2000", irreversible=True),
    "PNG with a gamma": pillow("PNG", gamma=1.0),
    "planes": tiff(np.stack([PICTURE] * 3), "rgb", planarconfig="separate"),
    "tiles of planes": tiff(np.stack([PICTURE] * 3), "rgb", planarconfig="separate", tile=(16, 16)),
    "inverted palette": tiff(
        255 - PICTURE,
        "palette",
        colormap=np.tile(np.arange(255, -1, -1) * 257, (3, 1)).astype("u2"),
    ),
    **{
        f"TIFF {kind}": tiff(
            np.dstack([PICTURE] * 3 + [PICTURE * 0 + 255]), "rgb", extrasamples=[kind]
        )
        for kind in ("unspecified", "assocalpha", "unassalpha")
    },
}
AS_RANGE = {  # deeper or signed: scaled by the least and greatest
    "PNG": pillow("PNG", Image.fromarray(DEEP)),
    "JPEG 2000": pillow("JPEG2000", Image.fromarray(DEEP)),
    **{
        f"TIFF {packed} {dtype}": pillow(
            "TIFF", Image.fromarray(DEEP.astype(dtype)), compression=packed
        )
        for packed in ("tiff_lzw", "packbits", "tiff_deflate")
        for dtype in ("u2", "i4", "f4")
    },
}


@pytest.mark.parametrize("name", AS_BYTES)
def test_eight_bits_in_every_coding(tmp_path, name):
    AS_BYTES[name](tmp_path / "film")
    coded = any(word in name for word in ("JPEG", "jpeg", "lossy"))
    tolerance = 0.02 if coded else 1e-6
    np.testing.assert_allclose(read_image(tmp_path / "film"), PICTURE / 255, atol=tolerance)
    assert read_header(tmp_path / "film")[:3] == (64, 48, 8)


@pytest.mark.parametrize("name", AS_RANGE)
def test_deep_grays_in_every_coding(tmp_path, name):
    AS_RANGE[name](tmp_path / "film")
    np.testing.assert_allclose(read_image(tmp_path / "film"), scaled(PICTURE), atol=1e-6)


@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_every_number_of_tiff(tmp_path, dtype, order, bigtiff, photometric):
    """Of all their range, so that a wrong sign or byte order is not missed."""
    values = (scaled(PICTURE) * 254).round()
    if np.dtype(dtype).kind != "f":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        values = [[low + int(v) * ((high - low) // 254) for v in row] for row in values.tolist()]
    values = np.array(values, dtype)
    for layout in ({}, {"tile": (16, 16)}, {"compression": "zlib"}, {"rowsperstrip": 7}):
        tiff(values, photometric, byteorder=order, bigtiff=bigtiff, **layout)(tmp_path / "film")
        expected = 1 - scaled(PICTURE) if photometric == "miniswhite" else scaled(PICTURE)
        np.testing.assert_allclose(read_image(tmp_path / "film"), expected, atol=5e-3)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_few_bits_in_png(tmp_path, bits, palette):
    levels = PICTURE >> (8 - bits)
    rows = np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(48, -1)
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    shades = np.repeat(np.arange(2**bits) * 255 // (2**bits - 1), 3).astype(np.uint8).tobytes()
    head = struct.pack(">2I5B", 64, 48, bits, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"PLTE", shades), (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    (tmp_path / "film").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks if palette or kind != b"PLTE"
    ))  # fmt: skip
    expected = levels / (2**bits - 1)
    np.testing.assert_allclose(read_image(tmp_path / "film"), expected, atol=2e-3)


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "JPEG2000", "GIF"])
def test_what_is_transparent_is_black_whatever_it_hides(tmp_path, format_):
    alpha, hidden = np.full_like(PICTURE, 255), PICTURE.copy()
    alpha[:, :10], hidden[:, :10] = 0, 255
    pixels = np.dstack([hidden] * 3 + [alpha])
    options = {"lossless": True} if format_ == "WEBP" else {}
    Image.fromarray(pixels).save(tmp_path / "film", format_, **options)
    shown = read_image(tmp_path / "film")
    assert not shown[:, :10].any()
    np.testing.assert_allclose(shown[:, 10:], PICTURE[:, 10:] / 255, atol=0.04)


@pytest.mark.parametrize("key", [(0, 0, 0), 0, bytes(range(256))])
def test_transparency_of_colours_and_palettes(tmp_path, key):
    image = GRAY.convert(
        "RGB" if isinstance(key, tuple) else "P" if isinstance(key, bytes) else "L"
    )
    image.save(tmp_path / "film", "PNG", transparency=key)
    alpha = PICTURE / 255 if isinstance(key, bytes) else 1
    np.testing.assert_allclose(read_image(tmp_path / "film"), PICTURE / 255 * alpha, atol=1e-6)


def deep_tiff(channels, **options):
    return tiff(np.dstack([DEEP] * channels), planarconfig="contig", **options)


COPY = {"save_all": True, "append_images": [Image.fromarray(255 - PICTURE)]}
REFUSED = {  # how it is written, and what the reason must say
    **{
        f"two in {kind}": (pillow(kind, **COPY), "2 frames")
        for kind in ("GIF", "WEBP", "PNG", "MPO")
    },
    "pages": (tiff(np.stack([PICTURE] * 3)), "3 frames"),
    "planes of a volume": (
        tiff(np.stack([PICTURE] * 16), volumetric=True, tile=(16, 16, 16)),
        "several planes",
    ),
    "a thumbnail": (tiff(PICTURE, subfiletype=1), "small version"),
    "a thumbnail of halves": (tiff(PICTURE.astype("f2"), subfiletype=1), "small version"),
    "a deep palette": (
        tiff(DEEP, "palette", colormap=np.tile(np.arange(65536, dtype="u2"), (3, 1))),
        "16 bits, 1 samples and photometric 3",
    ),
    "raw data of a camera": (tiff(DEEP, "cfa"), "photometric 32803"),
    "a mask": (tiff(PICTURE > 99, "mask"), "photometric 4"),
    "deep gray and alpha": (deep_tiff(2, extrasamples=["unassalpha"]), "16 bits"),
    "deep colour": (deep_tiff(3, photometric="rgb"), "16 bits in colour"),
    "deep colour and alpha": (
        deep_tiff(4, photometric="rgb", extrasamples=["assocalpha"]),
        "16 bits in colour",
    ),
    "deep gray, partly transparent": (
        pillow("PNG", Image.fromarray(DEEP), transparency=0),
        "16 bits in colour or with alpha",
    ),
    "Lab": (pillow("TIFF", Image.fromarray(np.dstack([PICTURE] * 3), "LAB")), "LAB"),
    "wholly transparent": (pillow("PNG", with_alpha(visible=0)), "every pixel is transparent"),
    "lossless JPEG": (raw(lossless_jpeg(PICTURE, 8)), "JPEG: lossless"),
    "deep lossless JPEG": (raw(lossless_jpeg(DEEP >> 4, 12)), "lossless JPEG of 12 bits"),
    "deep JPEG": (raw(jpeg().replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")), "of 12 bits"),
    "JPEG-LS": (raw(jpeg().replace(b"\xff\xc0", b"\xff\xf7")), "lossless JPEG"),
    "HEIC": (raw(b"\0\0\0\x18ftypheic" + bytes(99)), "HEIC, which is not read; save it as PNG"),
    "AVIF": (raw(b"\0\0\0\x18ftypavif" + bytes(99)), "AVIF"),
    "JPEG XL": (raw(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99)), "JPEG XL"),
    "PGM": (pillow("PPM"), "not a PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000 or DICOM"),
    "PDF": (pillow("PDF"), "not a PNG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_for_what_it_is(tmp_path, name):
    write, reason = REFUSED[name]
    write(tmp_path / "film.png")
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_image(tmp_path / "film.png")
    assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("filler", [b"", b"\xff\xff", b"\0\0", b"\xff\xe0\0\x04\xff\xc0"])
def test_a_lossless_jpeg_never_reaches_the_decoder_that_it_breaks(filler):
    data = lossless_jpeg(PICTURE, 8)
    with pytest.raises(UnreadableImage, match="lossless"):
        check_jpeg(data[:2] + filler + data[2:])


def patched(content, at, layout, *values):
    return content[:at] + struct.pack(layout, *values) + content[at + struct.calcsize(layout) :]


def saved(format_, **options):
    file = io.BytesIO()
    Image.new("L", (9, 9)).save(file, format_, **options)
    return file.getvalue()


BOMBS = {
    "BMP": patched(saved("BMP"), 18, "<2i", 40_000, 40_000),
    "GIF": patched(saved("GIF"), 6, "<2H", 60_000, 60_000),
    "WebP": patched(
        saved("WEBP", lossless=True), 21, "<I", 16_382 | 16_382 << 14
    ),
    "JPEG 2000": patched(saved("JPEG2000", no_jp2=True), 8, ">2I", 40_000, 40_000),
    "JP2 of other pixels": saved("JPEG2000").replace(
        struct.pack(">4I", 9, 9, 0, 0), struct.pack(">4I", 40_000, 40_000, 0, 0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_trust_16_nothing_is_decoded_that_the_header_says_is_too_large(tmp_path, kind):
    (tmp_path / "film").write_bytes(BOMBS[kind])
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="header"):
        read_image(tmp_path / "film")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_PIXELS / 10


def test_trust_17_an_npz_is_not_unpacked_without_limit(tmp_path, monkeypatch):
    arrays = dict.fromkeys(("x_train", "x_test"), np.zeros((9, 28, 28), np.uint8))
    arrays |= dict.fromkeys(("y_train", "y_test"), np.zeros(9, np.uint8))
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    assert len(mnist.index(tmp_path).rows) == 18
    monkeypatch.setattr(index, "_MAX_ARRAYS", 9999)
    with pytest.raises(UserError, match="cannot be read .* unpacked"):
        mnist.index(tmp_path)


FILES = {
    "a/film.png": True,
    "a/IM0001": True,
    "a/bare": True,
    "a/film.bmp": True,
    "a/film.webp": True,
    "a/film.gif": True,
    "a/film.jfif": True,
    "a/film.xyz": True,
    "a/phone.heic": True,
    "a/damaged.png": True,
    "a/archive.zip": False,
    "a/nothing": False,
    "notes.txt": None,
    "notes16.txt": None,
    "DICOMDIR": None,
    "a/.hidden.png": None,
    "__MACOSX/a/film.png": None,
    "a/@eaDir/film.png": None,
}  # yields; is named in the warning; or is passed over


def test_every_file_of_a_folder_is_used_or_named(tmp_path, monkeypatch):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".jfif": "JPEG"}.get(path.suffix)
        GRAY.save(path, kind or "PNG")
    dicom(tmp_path / "a/IM0001", PICTURE, 8)
    bare = (tmp_path / "a/IM0001").read_bytes()[132:]
    for name, content in (
        ("a/bare", bare),
        ("a/phone.heic", b"\0\0\0\x18ftypheic"),
        ("a/damaged.png", b"damaged"),
        ("a/archive.zip", b"PK\3\4\0\0"),
        ("a/nothing", b""),
        ("notes.txt", b"IM0001 \xe4\r\n"),
        ("notes16.txt", "path,label".encode("utf-16")),
        ("DICOMDIR", bytes(128) + b"DICM"),
    ):
        (tmp_path / name).write_bytes(content)
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: warned.append(text % args))
    found = list(files_in(tmp_path))
    assert found == sorted(name for name, use in FILES.items() if use)
    (line,) = warned
    assert line.endswith(f"2 files in {tmp_path} hold no image: a/archive.zip, a/nothing")
    assert predict.find([str(tmp_path)]) == [str(tmp_path / name) for name in found]
    for i in range(30):
        (tmp_path / f"a/{i}.png").write_bytes((tmp_path / "a/film.png").read_bytes())
    loaded = records.load("folder", tmp_path, 8, cache_dir=tmp_path / ".cache", max_unreadable=0.1)
    assert {path for path, _ in loaded.quarantined} == {"a/phone.heic", "a/damaged.png"}
    assert set(found) < {*loaded.path, "a/phone.heic", "a/damaged.png"}


def test_a_suffix_is_no_reason_to_leave_a_file_out_nor_its_lack(tmp_path):
    for i, write in enumerate(AS_BYTES.values()):
        write(tmp_path / f"{i:03d}")
    assert len(list(files_in(tmp_path))) == len(AS_BYTES)


# DICOM, against the formulas of the standard


def shown(stored, *, padding, slope, intercept, window, function, negative):
    """PS3.3 C.11.1.1.2 (rescale), C.11.2.1.2 and .3 (window), C.7.6.3.1.2 (MONOCHROME1)."""
    values = stored * slope + intercept
    if window:
        center, width = window
        if function == "LINEAR":
            values = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
        elif function == "LINEAR_EXACT":
            values = np.clip((values - center) / width + 0.5, 0, 1)
        else:
            values = 1 / (1 + np.exp(-4 * (values - center) / width))
    inside = stored != padding
    values = -values if negative else values
    low, high = values[inside].min(), values[inside].max()
    return np.where(inside, (values - low) / (high - low), 0)


@settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bits=st.integers(4, 16),
    signed=st.booleans(),
    extended=st.booleans(),
    padded=st.booleans(),
    slope=st.sampled_from([1, 2, 0.25, -1]),
    intercept=st.sampled_from([0, -1024, 100]),
    window=st.sampled_from([None, (0.5, 0.9), (0.4, 0.3)]),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    negative=st.booleans(),
    overlay=st.booleans(),
)
def test_depth_sign_padding_rescale_window_and_polarity(
    tmp_path, bits, signed, extended, padded, slope, intercept, window, function, negative, overlay
):
    low = -(2 ** (bits - 1)) if signed else 0
    stored = low + np.rint(scaled(PICTURE) * (2**bits - 2)).astype(int) + 1
    padding = low
    stored[:5] = padding if padded else stored[5:10]
    cells = stored if signed and extended else stored & (2**bits - 1)
    tags = {"PhotometricInterpretation": "MONOCHROME1" if negative else "MONOCHROME2"}
    if overlay and bits < 16:
        cells = cells & (2**bits - 1) | ((X + Y) % 7 == 0) << 15
    if slope != 1 or intercept:
        tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    if window:
        middle, span = stored.mean() * slope + intercept, np.ptp(stored) * abs(slope)
        center = middle + (window[0] - 0.5) * span
        window = round(center, 3), max(2, round(span * window[1], 3))
        tags |= {"WindowCenter": [window[0], 7], "WindowWidth": [window[1], 9]}
        tags["VOILUTFunction"] = function
    path = dicom(
        tmp_path / "film",
        (cells & 0xFFFF).astype("u2"),
        bits,
        PixelRepresentation=int(signed),
        **tags,
    )
    data = dcmread(path)
    if padded:
        data.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    if overlay and bits < 16:
        data.add_new((0x6000, 0x0102), "US", 15)  # OverlayBitPosition
    data.save_as(path)
    expected = shown(
        stored,
        padding=padding if padded else None,
        slope=slope,
        intercept=intercept,
        window=window,
        function=function,
        negative=negative,
    )
    np.testing.assert_allclose(read_image(path), expected, atol=2e-3)


def headless(path, *, meta=True, implicit=False, little=True):
    """Write again without preamble, or with a meta group that names no transfer syntax."""
    data, head, body = dcmread(path), DicomBytesIO(), DicomBytesIO()
    for file, how in ((head, (False, True)), (body, (implicit, little))):
        file.is_implicit_VR, file.is_little_endian = how
    if meta:
        del data.file_meta.TransferSyntaxUID
        write_file_meta_info(head, data.file_meta, enforce_standard=False)
    if not little:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    plain = Dataset()
    plain.update({tag: data[tag] for tag in data.keys()})  # noqa: SIM118
    write_dataset(body, plain)
    start = bytes(128) + b"DICM" if meta else b""
    path.write_bytes(start + head.getvalue() + body.getvalue())


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_dicom_without_preamble_or_transfer_syntax(tmp_path, meta, implicit, little):
    path = dicom(tmp_path / "film", DEEP >> 4)
    headless(path, meta=meta, implicit=implicit, little=little)
    np.testing.assert_allclose(read_image(path), scaled(DEEP >> 4), atol=1e-6)
    assert list(files_in(tmp_path)) == ["film"]


def jpeg2000(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True, **options)
    return file.getvalue()


@pytest.mark.parametrize("stored", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("coding", ["JPEG 2000", "lossless", "baseline"])
def test_compressed_pixels_have_the_depth_of_their_own_data(tmp_path, stored, coding):
    pixels, syntax, frame = {
        "JPEG 2000": (DEEP, JPEG2000Lossless, jpeg2000(DEEP)),
        "lossless": (DEEP, JPEGLosslessSV1, lossless_jpeg(DEEP >> 4, 12)),
        "baseline": (DEEP, JPEGBaseline8Bit, jpeg()),
    }[coding]
    path = dicom(tmp_path / "film", pixels, stored, syntax=syntax, frame=frame)
    np.testing.assert_allclose(read_image(path), scaled(PICTURE), atol=0.02)


def signed_bits(bits):
    return (scaled(PICTURE) * (2**bits - 1)).round().astype(int) - 2 ** (bits - 1)


CONTRADICTIONS = {  # what the file holds, and what its header says of it
    "deeper": (DEEP, 12, {}),
    "deeper by a bit": (DEEP >> 3, 12, {}),
    "called signed": (DEEP >> 4, 12, {"PixelRepresentation": 1}),
    "called signed, of all bits": (DEEP, 16, {"PixelRepresentation": 1}),
    "called unsigned": (signed_bits(14).astype("i2"), 12, {"PixelRepresentation": 0}),
    "called signed, compressed": (
        DEEP,
        16,
        {"PixelRepresentation": 1, "syntax": JPEG2000Lossless, "frame": jpeg2000(DEEP)},
    ),
    "of twice the bytes": (DEEP, 8, {"BitsAllocated": 8}),
    "of half the bytes": (PICTURE, 8, {"BitsAllocated": 16}),
    "of fewer rows": (DEEP, 16, {"Rows": 40}),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_no_noise_is_made_of_pixels_that_contradict_their_header(tmp_path, kind):
    pixels, bits, tags = CONTRADICTIONS[kind]
    path = dicom(tmp_path / "film", pixels, bits, **tags)
    with pytest.raises(UnreadableImage, match="BitsStored or PixelRep|PixelData is .* than Rows"):
        read_image(path)


def test_bits_that_only_an_overlay_explains_are_cut_off(tmp_path):
    """Whether or not its description was removed with the patient's name."""
    drawn = (DEEP >> 4) | ((X % 13 == 0) & (Y % 11 < 6)).astype(np.uint16) << 14
    path = dicom(tmp_path / "film", drawn, 12)
    np.testing.assert_allclose(read_image(path), scaled(DEEP >> 4), atol=1e-6)


@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("entries", "first", "type_of_first"),
    [(4096, 0, "US"), (1000, 500, "SS"), (3000, -1000, "SS"), (3000, -1000, "US")],
)
def test_tables_of_any_depth(tmp_path, name, depth, signed, entries, first, type_of_first):
    if type_of_first == "US":
        signed = signed or first < 0  # no unsigned pixel has such a table
    table = np.rint(np.linspace(0, 1, entries) ** 2 * (2**depth - 1)).astype(int)
    stored = signed_bits(12) + (0 if signed else 2048)
    item = Dataset()
    item.LUTDescriptor = [entries, first % 65536 if type_of_first == "US" else first, depth]
    item.LUTData = table.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = type_of_first, "OW"
    path = dicom(tmp_path / "film", stored.astype("i2" if signed else "u2"), 12, **{name: [item]})
    expected = scaled(table[(stored - first).clip(0, entries - 1)])
    np.testing.assert_allclose(read_image(path), expected, atol=1e-6)


def test_padding_may_be_a_range_a_text_or_of_the_wrong_sign(tmp_path):
    stored = signed_bits(12).astype("i2").clip(-1000, 1000)
    stored[:, 50:] = -2000
    for kind, first, last in (("SS", -2000, None), ("US", 63536, None), ("LO", "-2000", None),
                              ("SS", -1999, -2001), ("SS", -2048, -1500)):  # fmt: skip
        data = dcmread(dicom(tmp_path / "film", stored, 12))
        data.add_new("PixelPaddingValue", kind, first)
        if last is not None:
            data.add_new("PixelPaddingRangeLimit", kind, last)
        data.save_as(tmp_path / "film")
        shown = read_image(tmp_path / "film")
        assert not shown[:, 50:].any()
        np.testing.assert_allclose(shown[:, :50], scaled(stored[:, :50]), atol=1e-6)


@pytest.mark.parametrize(
    ("tags", "element"),
    [
        *(({name: None}, f"without {name}") for name in ("Rows", "Columns", "BitsStored")),
        *(({name: ""}, f"without {name}") for name in ("Rows", "PixelRepresentation")),
        ({"PixelData": None}, "without PixelData"),
        ({"PhotometricInterpretation": ""}, "without PhotometricInterpretation"),
        ({"PhotometricInterpretation": ["S3NTINEL", "2"]}, "PhotometricInterpretation is neither"),
        ({"PhotometricInterpretation": "S3NTINEL"}, "PhotometricInterpretation is neither"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is RGB"),
        ({"PresentationLUTShape": "INVERSE"}, "PresentationLUTShape"),
        ({"BitsAllocated": 32}, "BitsAllocated"),
        ({"BitsStored": 17}, "BitsStored"),
        ({"HighBit": 15}, "HighBit"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel"),
        ({"PixelPaddingValue": [1, 2]}, "PixelPaddingValue"),
        ({"WindowCenter": 9, "WindowWidth": 0}, "WindowWidth"),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction"),
        ({"RescaleSlope": [1, 2], "RescaleIntercept": 0}, "RescaleSlope"),
        ({"ModalityLUTSequence": [Dataset()]}, "ModalityLUTSequence"),
        ({"NumberOfFrames": 2}, "2 frames"),
    ],
)
def test_a_reason_names_the_element_and_quotes_nothing(tmp_path, tags, element):
    path = dicom(tmp_path / "film", DEEP >> 4, **tags)
    with pytest.raises(UnreadableImage, match=element) as caught:
        read_image(path)
    assert "S3NTINEL" not in str(caught.value)


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": ""},
        {"NumberOfFrames": ""},
        {"NumberOfFrames": 0},
        {"PlanarConfiguration": 1},
        {"SamplesPerPixel": None},
        {"HighBit": None},
        {"WindowCenter": 2000},
        {"WindowCenter": 2000, "WindowWidth": ""},
        {"WindowCenter": ["", ""], "WindowWidth": ["", ""], "VOILUTFunction": ""},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"VOILUTSequence": []},
        {"ModalityLUTSequence": []},
        {"PixelPaddingValue": ""},
        {"PresentationLUTShape": "IDENTITY"},
        {"PixelData": (DEEP >> 4).tobytes() + bytes(100)},
    ],
)
def test_what_is_optional_may_be_empty_or_odd(tmp_path, tags):
    path = dicom(tmp_path / "film", DEEP >> 4, **tags)
    np.testing.assert_allclose(read_image(path), scaled(DEEP >> 4), atol=1e-6)


def test_a_negative_that_says_so_twice_is_turned_once(tmp_path):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    path = dicom(tmp_path / "film", DEEP, 16, **tags)
    np.testing.assert_allclose(read_image(path), 1 - scaled(DEEP), atol=1e-6)


def test_a_fault_of_the_disk_is_not_taken_for_one_of_the_file(tmp_path, monkeypatch):
    path = dicom(tmp_path / "film", DEEP, 16)

    def failing(*args, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("pydicom.dcmread", failing)
    with pytest.raises(UnreadableImage, match="film") as caught:
        read_image(path)
    assert caught.value.__cause__.errno == errno.EIO  # what preparation looks for
