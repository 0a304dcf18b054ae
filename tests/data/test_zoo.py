"""Trust 12 to 20: malformed inputs, each of which ends in a named reason or a one-line error.

A kind is a name and a function that writes the file; `IMAGES` go through `read_image`, and all of
them at once through a preparation; `TABLES` and `REPORTS` end in a `UserError`.
"""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import tifffile
from made import RAMP, dicom, lossless_jpeg
from PIL import Image
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless

from ssl_gan_jax.data import records
from ssl_gan_jax.data.images import read_image
from ssl_gan_jax.data.pixels import UnreadableImage
from ssl_gan_jax.data.sources import chexpert, folder, nih14, openi
from ssl_gan_jax.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
HUGE = 60_000


def coded(format_, image=NOISE, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format_, **options)
    return file.getvalue()


def png(*chunks):
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def ihdr(width=48, height=48, depth=8, colour=0):
    return b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)


def jpeg_of_size(height, width, **options):
    raw = coded("JPEG", **options)
    at = raw.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    return raw[:at] + struct.pack(">2H", height, width) + raw[at + 4 :]


def jpeg2000_of_size(width, height):
    raw = coded("JPEG2000", no_jp2=True)
    return raw[:8] + struct.pack(">2I", width, height) + raw[16:]


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def tiff_tag(raw, tag, value):
    """Set a 16- or 32-bit tag of a little-endian TIFF."""
    at = raw.index(struct.pack("<H", tag) + b"\x04\0\x01\0\0\0" if tag < 258 else b"")
    return raw[: at + 8] + struct.pack("<I", value) + raw[at + 12 :]


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.png", coded("PNG"))
    return file.getvalue()


IDAT = (b"IDAT", zlib.compress(b"\0" * 48 * 49))
IMAGES = {
    "empty": b"",
    "one byte": b"\x89",
    "zeros": bytes(1000),
    "noise": NOISE.tobytes(),
    "text": b"no image",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n%%EOF",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "zip": zipped(),
    "pickle": pickle.dumps(NOISE),
    "numpy": b"\x93NUMPY\x01\0" + bytes(200),
    "gif of frames": coded("GIF", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "png signature": png(),
    "png truncated": coded("PNG")[:900],
    "png without its last chunks": coded("PNG")[:-40],
    "png without pixels": png(ihdr(), (b"IEND", b"")),
    "png of no width": png(ihdr(width=0), IDAT, (b"IEND", b"")),
    "png of depth 3": png(ihdr(depth=3), IDAT, (b"IEND", b"")),
    "png of damaged pixels": png(ihdr(), (b"IDAT", b"x\x9c" + bytes(90)), (b"IEND", b"")),
    "png of too few pixels": png(ihdr(), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")),
    "png with a wrong checksum": coded("PNG")[:29] + b"\0\0\0\0" + coded("PNG")[33:],
    "png bomb": png(ihdr(HUGE, HUGE), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")),
    "png animated": coded("PNG", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "jpeg signature": b"\xff\xd8\xff\xe0",
    "jpeg truncated": coded("JPEG")[:700],
    "jpeg without its end": coded("JPEG")[:-300],
    "jpeg of more rows than it holds": jpeg_of_size(96, 48),
    "jpeg of one more row of blocks": jpeg_of_size(49, 48),
    "jpeg of fewer rows than it holds": jpeg_of_size(40, 48),
    "jpeg of more columns": jpeg_of_size(48, 480),
    "jpeg, progressive, of more rows": jpeg_of_size(96, 48, progressive=True),
    "jpeg truncated, with an end": coded("JPEG")[:-300] + b"\xff\xd9",
    "jpeg with a hole": coded("JPEG")[:1200] + coded("JPEG")[1400:],
    "jpeg of damaged pixels": coded("JPEG")[:1200] + bytes(200) + coded("JPEG")[1400:],
    "jpeg of no height": jpeg_of_size(0, 48),
    "jpeg bomb": jpeg_of_size(HUGE, HUGE),
    "tiff signature": b"II*\0",
    "tiff truncated": coded("TIFF")[:200],
    "tiff pointing outside": b"II*\0" + struct.pack("<I", 10**6),
    "tiff of no tags": b"II*\0\x08\0\0\0\0\0" + bytes(8),
    "tiff pointing at itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "tiff of damaged jpeg": coded("TIFF", compression="jpeg").replace(
        coded("TIFF", compression="jpeg")[1200:1300], bytes(100)
    ),
    "tiff of frames": tiff(np.stack([NOISE] * 3), photometric="minisblack"),
    "tiff bomb": tiff_tag(tiff_tag(tiff(NOISE.astype("f2")), 256, HUGE), 257, HUGE),
    "tiff of nan": tiff(np.full((4, 4), np.nan, "f4")),
    "tiff of infinity": tiff(np.array([[0, np.inf]], "f4")),
    "tiff of complex numbers": tiff(np.ones((4, 4), "c8")),
    "tiff of three float planes": tiff(np.ones((4, 4, 3), "f2"), photometric="rgb"),
}
COMPRESSED = {"syntax": JPEGBaseline8Bit, "pixels": NOISE, "bits": 8}
LOSSLESS = {"syntax": JPEGLosslessSV1}
J2K = {"syntax": JPEG2000Lossless, "pixels": NOISE, "bits": 8}
DICOM = {
    "dicom signature": bytes(128) + b"DICM",
    "dicom truncated in the tags": ({}, RAMP.tobytes(), b""),
    "dicom without its end": ({}, RAMP[-2:].tobytes(), b""),
    "dicom without pixels": {"PixelData": None},
    "dicom of empty pixels": {"PixelData": b""},
    "dicom of too few pixels": {"PixelData": bytes(99)},
    "dicom without rows": {"Rows": None},
    "dicom of no rows": {"Rows": 0},
    "dicom of many rows": {"Rows": 500},
    "dicom bomb": {"Rows": HUGE, "Columns": HUGE},
    "dicom without depth": {"BitsStored": None},
    "dicom of 17 bits": {"BitsStored": 17},
    "dicom of 32 bits": {"BitsAllocated": 32, "BitsStored": 32},
    "dicom without photometric": {"PhotometricInterpretation": None},
    "dicom in colour": {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
    "dicom of unknown photometric": {"PhotometricInterpretation": "MONOCHROME9"},
    "dicom of two samples": {"SamplesPerPixel": 2},
    "dicom of frames": {"NumberOfFrames": 3},
    "dicom of frames in words": ({"NumberOfFrames": 1234}, b"1234", b"many"),
    "dicom of no window width": {"WindowCenter": 9, "WindowWidth": 0},
    "dicom of a window in words": (
        {"WindowCenter": 9, "WindowWidth": 1234},
        b"1234",
        b"wide",
    ),
    "dicom of an unknown window": {
        "WindowCenter": 9,
        "WindowWidth": 9,
        "VOILUTFunction": "CUBIC",
    },
    "dicom seen through the wrong window": {"WindowCenter": 60_000, "WindowWidth": 9},
    "dicom of slope zero": {"RescaleSlope": 0, "RescaleIntercept": 0},
    "dicom of slope nan": {"RescaleSlope": "nan", "RescaleIntercept": 0},
    "dicom of two slopes": {"RescaleSlope": [1, 2], "RescaleIntercept": 0},
    "dicom with burned-in text": {"BurnedInAnnotation": "YES"},
    "dicom deflated": {"syntax": UID("1.2.840.10008.1.2.1.99")},
    "dicom of an unknown syntax": ({}, b"10008.1.2.1\0", b"10008.9.9.9\0"),
    "dicom of a film": {"frame": b"ab", "syntax": UID("1.2.840.10008.1.2.4.100")},
    "dicom of damaged rle": {"frame": bytes(64), "syntax": RLELossless},
    "dicom of damaged jpeg": COMPRESSED | {"frame": b"\xff\xd8" + bytes(90) + b"\xff\xd9"},
    "dicom of truncated jpeg": COMPRESSED | {"frame": coded("JPEG")[:700]},
    "dicom of a smaller jpeg": COMPRESSED | {"frame": coded("JPEG", NOISE[:40])},
    "dicom of a jpeg of more rows than it holds": COMPRESSED
    | {"pixels": np.tile(NOISE, (2, 1)), "frame": jpeg_of_size(96, 48)},
    "dicom of truncated lossless jpeg": LOSSLESS | {"frame": lossless_jpeg(RAMP, 12)[:900]},
    "dicom of lossless jpeg without its table": LOSSLESS
    | {"frame": lossless_jpeg(RAMP, 12).replace(b"\xff\xc4", b"\xff\xe4")},
    "dicom jpeg bomb": COMPRESSED | {"frame": jpeg_of_size(HUGE, HUGE)},
    "dicom of truncated jpeg 2000": J2K | {"frame": coded("JPEG2000", no_jp2=True)[:600]},
    "dicom jpeg 2000 bomb": J2K | {"frame": jpeg2000_of_size(HUGE, HUGE)},
    "dicom of no jpeg 2000": J2K | {"frame": b"text\xff\xd9"},
}


def write(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere.png")
    else:
        how = (IMAGES | DICOM)[kind]
        if isinstance(how, bytes):
            path.write_bytes(how)
        elif isinstance(how, dict):
            dicom(path, **how)
        else:  # what pydicom would not write
            tags, old, new = how
            raw = dicom(path, **tags).read_bytes()
            assert old in raw
            path.write_bytes(raw.replace(old, new))
    return path


KINDS = [*IMAGES, *DICOM, "pipe", "folder", "dangling link"]


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_trust_15_and_16_no_image_without_a_reason(tmp_path, kind):
    with pytest.raises(UnreadableImage) as caught:
        read_image(write(tmp_path / "x.png", kind))
    reason = str(caught.value)
    assert reason and "\n" not in reason and str(tmp_path) not in reason and len(reason) < 250
    if "bomb" in kind:
        assert "header" in reason


def test_trust_15_the_whole_zoo_is_quarantined_by_name(tmp_path):
    good = write_good(tmp_path / "data", 3)
    kinds = {kind: f"zoo/{i:03d}.png" for i, kind in enumerate(KINDS)}
    (tmp_path / "data" / "zoo").mkdir()
    for kind, name in kinds.items():
        write(tmp_path / "data" / name, kind)
    with pytest.raises(UserError, match=f"of {len(kinds) - 1 + len(good)} images cannot be read"):
        records.load("folder", tmp_path / "data", 8, cache_dir=tmp_path / "c")
    loaded = records.load(
        "folder", tmp_path / "data", 8, cache_dir=tmp_path / "c", max_unreadable=1
    )
    assert sorted(loaded.path) == good
    assert {path for path, _ in loaded.quarantined} == {*kinds.values()} - {kinds["folder"]}


def write_good(data, count):
    (data / "a").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.roll(NOISE, i)).save(data / "a" / f"{i}.png")
    return [f"a/{i}.png" for i in range(count)]


def test_trust_12_and_14_a_dicom_keeps_its_levels_and_a_constant_one_is_finite(tmp_path):
    assert len(np.unique(read_image(dicom(tmp_path / "x")))) == 256
    constant = read_image(dicom(tmp_path / "x", np.full_like(RAMP, 7)))
    assert not constant.any()


HEAD = "Image Index,Finding Labels,Follow-up #,Patient ID,View Position\n"
CHEX = "Path,Sex,Frontal/Lateral,No Finding,Cardiomegaly\n"
AT = "CheXpert-v1.0-small/train/patient1/study1/x.jpg"
TABLES = {  # kind: source, table, content, expected message
    "utf-16 of nothing": (folder, "labels.csv", "path,label\n".encode("utf-16"), "no image"),
    "binary": (folder, "labels.csv", coded("PNG"), "labels.csv"),
    "zeros ": (folder, "labels.csv", b"path,label\n\0\0,\0\n", "row 2, column 'path'|NUL"),
    "semicolons and commas": (folder, "labels.csv", b"path;label\na/0.png,x\n", "not 2 columns"),
    "a spreadsheet": (folder, "Labels.xlsx", b"PK", "Labels.xlsx: .* save it as labels.csv"),
    "column twice": (folder, "labels.csv", b"path,label,label\na/0.png,x,y\n", "two columns"),
    "endless cell": (folder, "labels.csv", b"x" * 200_000, "row 1: field larger"),
    "endless cell below": (folder, "labels.csv", b"path,label\n" + b"x" * 200_000, "row 2: field"),
    "open quote": (folder, "labels.csv", b'path,label\n"a/0.png,x\n', "row 2: "),
    "a folder": (folder, "labels.csv", b"path,label\na,x\n", "there is no file 'a'"),
    "outside": (folder, "labels.csv", b"path,label\na/../../x.png,x\n", "inside the folder"),
    "trust 20: latin-1, CRLF": (
        folder,
        "labels.csv",
        "path,label\r\na/0.png,m\xf6nch\r\na/9.png,x\r\n".encode("latin-1"),
        "row 3, column 'path': there is no file",
    ),
    "no gzip": (nih14, "Data_Entry_2017.csv.gz", HEAD.encode(), "cannot be read"),
    "truncated gzip": (
        nih14,
        "Data_Entry_2017.csv.gz",
        gzip.compress(HEAD.encode() * 99)[:-9],
        "cannot be read",
    ),
    "no patient": (nih14, "Data_Entry_2017.csv", HEAD + "a,Mass,0,,PA\n", "row 2, .*'patient id'"),
    "no finding": (nih14, "Data_Entry_2017.csv", HEAD + "a,,0,1,PA\n", "row 2, .*'finding labels'"),
    "found and not": (nih14, "Data_Entry_2017.csv", HEAD + "a,Mass|No Finding,0,1,PA\n", "row 2, "),
    "nothing of the kind": (
        nih14,
        "Data_Entry_2017.csv",
        HEAD + "a,Hernia,0,1,PA\n",
        "positive: no 'cardiomegaly' among hernia",
    ),
    "short row": (nih14, "Data_Entry_2017.csv", HEAD + "a,Mass\n", "row 2: not 5 columns"),
    "unknown value": (chexpert, "train.csv", f"{CHEX}{AT},F,Frontal,,2\n", "row 2, .*'2' is none"),
    "nobody": (chexpert, "train.csv", CHEX + "train/x.jpg,F,Frontal,,1\n", "row 2, .*no patient"),
    "no such column": (chexpert, "train.csv", "Path,Sex\n", "no column 'frontal/lateral'"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_trust_20_faults_of_tables_are_located(tmp_path, kind):
    source, name, content, message = TABLES[kind]
    write_good(tmp_path, 2)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        source.index(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


XML = '<eCitation><MeSH><major>normal</major></MeSH><parentImage id="CXR1_IM-1-1"/></eCitation>'
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
LAUGHS = f'<!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]>' + XML.replace("normal", "&l9;")
SYSTEM = '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + XML.replace("normal", "&x;")


def tgz(*members, damage=lambda raw: raw):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content.encode()))
    return damage(gzip.compress(file.getvalue()))


def sparse(size, count=1):
    """Members that hold nothing, and say that they unpack to `size` bytes each."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(count):
            info = tarfile.TarInfo(f"{i}.xml")
            info.pax_headers = {
                "GNU.sparse.major": "0",
                "GNU.sparse.minor": "1",
                "GNU.sparse.size": str(size),
                "GNU.sparse.map": f"{size},0",
            }
            tar.addfile(info)
    return gzip.compress(file.getvalue())


LINK, HARD, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
REPORTS = {  # kind: archive, expected message
    "trust 17: only a link": (tgz(("1.xml", (LINK, "/etc/hostname"))), "no report"),
    "trust 17: only a hard link": (tgz(("1.xml", (HARD, "../../secret.xml"))), "no report"),
    "trust 17: only a device": (tgz(("1.xml", (DEVICE, ""))), "no report"),
    "trust 17: 1000:1": (gzip.compress(bytes(2**28 + 2**20), 1), "more than 256 MB"),
    "trust 17: a sparse member": (sparse(2**31), "0.xml holds more than 1 MB"),
    "trust 17: many sparse members": (sparse(2**20, 257), "reports hold more than 256 MB"),
    "no archive": (b"text", "cannot be read"),
    "no tar": (gzip.compress(b"text" * 999), "cannot be read"),
    "empty": (b"", "cannot be read|no report"),
    "empty tar": (tgz(), "no report"),
    "truncated": (tgz(("1.xml", XML), damage=lambda raw: raw[:-20]), "cannot be read"),
    "trust 18: entity bomb": (tgz(("1.xml", LAUGHS)), "1.xml is no report .*Forbidden"),
    "trust 18: entity of a file": (tgz(("1.xml", SYSTEM)), "1.xml is no report .*Forbidden"),
    "broken": (tgz(("1.xml", XML[:50])), "1.xml is no report .*ParseError"),
    "unknown encoding": (tgz(("1.xml", f'<?xml version="1.0" encoding="x"?>{XML}')), "1.xml is no"),
    "something else": (tgz(("1.xml", "<html/>")), "1.xml is no report .*no MeSH"),
    "unlinked": (tgz(("1.xml", XML)), "no .*cardiomegaly"),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_trust_17_and_18_archives_and_xml(tmp_path, kind):
    archive, message = REPORTS[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / openi.ARCHIVE).write_bytes(archive)
    with pytest.raises(UserError, match=message) as caught:
        openi.index(tmp_path / "in", views="all")
    assert "\n" not in str(caught.value)


def test_trust_17_nothing_is_written_outside_or_anywhere(tmp_path):
    names = ("../../1.xml", "/tmp/2.xml", "a/3.xml", "C:\\4.xml")
    (tmp_path / openi.ARCHIVE).write_bytes(tgz(*((name, XML) for name in names)))
    before = sorted(tmp_path.parent.rglob("*"))
    assert len(openi.reports(tmp_path)) == 4
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_the_zoo_is_large():
    assert len(KINDS) >= 60 and len(TABLES) + len(REPORTS) >= 30
