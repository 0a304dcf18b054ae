import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import exposure

from ssl_gan_jax.data import images
from ssl_gan_jax.data.images import prepare, read_image
from ssl_gan_jax.data.pixels import UnreadableImage

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))  # [8,256], black on the left


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["x.png", "x.jpeg", "x.tif", "x.bmp.png"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gray_levels_survive_every_format_and_coding(tmp_path, name, mode):
    image = read_image(saved(tmp_path, Image.fromarray(RAMP).convert(mode), name))
    assert image.dtype == np.float32 and image.shape == RAMP.shape
    np.testing.assert_allclose(image, RAMP / 255, atol=0.02)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_alpha_and_palettes(tmp_path, mode):
    image = Image.fromarray(RAMP)
    image = image.convert("P") if mode == "P" else image.convert("LA").convert(mode)
    path = saved(tmp_path, image, "x.tif" if mode == "PA" else "x.png")
    np.testing.assert_allclose(read_image(path), RAMP / 255, atol=1e-6)


def test_a_shuffled_palette_is_looked_up(tmp_path):
    image = Image.fromarray(255 - RAMP, mode="P")
    image.putpalette(np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 3).tobytes())
    np.testing.assert_allclose(read_image(saved(tmp_path, image, "x.png")), RAMP / 255, atol=1e-6)


def test_cmyk_is_not_inverted(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP).convert("RGB").convert("CMYK"), "x.jpg")
    np.testing.assert_allclose(read_image(path), RAMP / 255, atol=0.03)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bits_keep_their_levels_though_few_are_used(tmp_path, name):
    """Trust 12."""
    dark = RAMP.astype(np.uint16) * 3 + 100  # ten bits in use: "may appear black"
    image = read_image(saved(tmp_path, Image.fromarray(dark), name))
    assert len(np.unique(image)) == 256 and image.min() == 0 and image.max() == 1
    for equalize in ("hist", "none"):
        assert len(np.unique(prepare(image, 256, equalize))) >= 200


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_negative_films_are_turned_positive(tmp_path, dtype, order):
    """Trust 13, for TIFF."""
    twins = []
    for photometric, pixels in (("minisblack", RAMP), ("miniswhite", 255 - RAMP)):
        path = tmp_path / f"{photometric}.tif"
        tifffile.imwrite(path, pixels.astype(dtype), photometric=photometric, byteorder=order)
        twins.append(read_image(path))
    np.testing.assert_array_equal(*twins)
    np.testing.assert_allclose(twins[0], RAMP / 255, atol=1e-6)


TURNED = {  # by EXIF's orientation: what a viewer shows of the stored rows
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("name", ["8.tif", "16.tif", "packed.tif", "x.png", "x.jpeg"])
def test_images_are_turned_as_viewers_do(tmp_path, name, orientation):
    stored = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 51, np.ones((8, 8), np.uint8))
    image = Image.fromarray(stored.astype(np.uint16) if name == "16.tif" else stored)
    exif = Image.Exif()
    exif[274] = orientation
    packed = {"compression": "tiff_lzw"} if name == "packed.tif" else {}
    shown = read_image(saved(tmp_path, image, name, exif=exif, **packed))
    np.testing.assert_allclose(shown, TURNED[orientation](stored) / 255, atol=0.02)


@pytest.mark.parametrize("kind", ["colour.tif", "colour.png", "alpha.png"])
def test_deep_colour_is_refused_rather_than_cut_to_8_bits(tmp_path, kind):
    path, channels = tmp_path / kind, 2 if "alpha" in kind else 3
    pixels = np.stack([RAMP.astype(np.uint16) * 16] * channels, -1)
    if kind.endswith("tif"):
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:  # Pillow writes none
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        kind_of_png = {2: 4, 3: 2}[channels]  # gray and alpha; colour
        head = np.array(RAMP.shape[::-1], ">u4").tobytes() + bytes([16, kind_of_png, 0, 0, 0])
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            len(data).to_bytes(4, "big") + tag + data + zlib.crc32(tag + data).to_bytes(4, "big")
            for tag, data in chunks
        ))  # fmt: skip
    with pytest.raises(UnreadableImage, match="16 bits in colour or with alpha"):
        read_image(path)
    assert images.read_header(path).bits == 16


def test_the_content_decides_not_the_suffix(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP), "x.png").rename(tmp_path / "x.jpeg")
    np.testing.assert_allclose(read_image(path), RAMP / 255, atol=1e-6)


def damaged(tmp_path, kind):
    path = tmp_path / "x.png"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no image")
    elif kind == "frames":
        noise.save(path, format="TIFF", save_all=True, append_images=[noise, noise])
    elif kind == "bomb":  # 30000 x 30000 pixels in a header, and next to nothing after it
        noise.save(path)
        raw = bytearray(path.read_bytes())
        raw[16:24] = (30_000).to_bytes(4, "big") * 2
        raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
        path.write_bytes(raw)
    elif kind == "rare bomb":
        tifffile.memmap(path, shape=(9, 9), dtype=np.float16).flush()
        raw = path.read_bytes()
        for tag in (256, 257):  # width and length: one 32- or 16-bit value each
            at = raw.index(tag.to_bytes(2, "little") + b"\x04\0" + b"\x01\0\0\0") + 8
            raw = raw[:at] + (30_000).to_bytes(4, "little") + raw[at + 4 :]
        path.write_bytes(raw)
    elif kind == "nan":
        tifffile.imwrite(path, np.full((4, 4), np.nan, np.float32))
    else:  # truncated
        noise.save(path, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "empty"),
        ("text", "not a PNG"),
        ("frames", "3 frames"),
        ("bomb", "pixels according to its header"),
        ("rare bomb", "pixels according to its header"),
        ("nan", "NaN"),
        ("PNG", "OSError|SyntaxError|EOF"),
        ("JPEG", "JPEG: Premature end"),
        ("TIFF", "OSError|SyntaxError|EOF|ValueError"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(tmp_path, kind, reason):
    """Trust 15 and 16."""
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_image(damaged(tmp_path, kind))
    assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)


def test_a_jpeg_that_is_whole_is_read_however_it_is_coded(tmp_path):
    for options in (
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"format": "TIFF", "compression": "jpeg"},
    ):
        path = saved(tmp_path, Image.fromarray(RAMP), "x.jpg", **options)
        path.write_bytes(path.read_bytes() + b"\0\0")  # as archives pad files
        np.testing.assert_allclose(read_image(path), RAMP / 255, atol=0.02)


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("equalize", images.EQUALIZE)
def test_a_constant_image_stays_finite(tmp_path, dtype, equalize):
    """Trust 14."""
    image = read_image(saved(tmp_path, Image.fromarray(np.full((9, 9), 7, dtype)), "x.png"))
    assert np.isfinite(image).all()
    assert len(np.unique(prepare(image, 4, equalize))) == 1


def test_equalisation_is_that_of_scikit_image():
    image = np.random.default_rng(0).beta(2, 9, (50, 50)).astype(np.float32)
    levels = np.rint(image * 65535).astype(np.uint16)
    expected = np.rint(exposure.equalize_hist(levels) * 255)
    np.testing.assert_allclose(prepare(image, 50, "hist")[..., 0], expected, atol=1)


def test_native_size_is_left_alone_and_oblong_images_are_squashed():
    square = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(
        prepare(square.astype(np.float32) / 255, 28, "none")[..., 0], square
    )
    squashed = prepare((RAMP / 255).astype(np.float32), 8, "none")
    assert squashed.shape == (8, 8, 1) and squashed.dtype == np.uint8
    np.testing.assert_allclose(squashed[0, :, 0], np.arange(8) * 32 + 15.5, atol=4)
