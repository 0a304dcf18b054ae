"""Sources on small trees of the published layouts, and on the published tables."""

import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from absl import logging
from made import dicom
from PIL import Image

from ssl_gan_jax.commands import ending
from ssl_gan_jax.data import images, records, source, tables
from ssl_gan_jax.data.sources import chexpert, nih14, openi
from ssl_gan_jax.errors import Stopped, UserError


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10), np.uint8)).save(path)


def labels(index):
    return {row.path: row.label for row in index.rows}


# Open-i


def report(number, tags, *names):
    majors = "".join(f"<major>{tag}</major>" for tag in tags)
    figures = "".join(f'<parentImage id="CXR{number}_{name}"/>' for name in names)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/>'
        f"<MeSH>{majors}<automatic>normal</automatic></MeSH>{figures}</eCitation>"
    )


@pytest.fixture
def openi_dir(tmp_path):
    """Four reports with a frontal and a lateral image each, and one report without."""
    folder = tmp_path / "openi"
    for number, tags in enumerate(
        (
            ["normal"],
            ["Cardiomegaly/mild", "Opacity/lung"],
            ["Cardiomegaly/borderline"],
            ["normal", "Scoliosis"],
        ),
        start=1,
    ):
        names = f"IM-000{number}-1001", f"1_IM-000{number}-2001"
        (folder / openi.FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / openi.FOLDER / f"{number}.xml").write_text(report(number, tags, *names))
        write_image(folder / "NLMCXR_png" / f"CXR{number}_{names[0]}.png", number)
        write_image(folder / "NLMCXR_png" / f"{number}_{names[1][2:]}.dcm.png", 9 + number)
    (folder / openi.FOLDER / "5.xml").write_text(report(5, ["normal"]))
    views = "".join(
        f"{n},{n}_IM-000{n}-1001.dcm.png,Frontal\n{n},{n}_IM-000{n}-2001.dcm.png,Lateral\n"
        for n in range(1, 5)
    )
    (folder / openi.PROJECTIONS).write_text("uid,filename,projection\n" + views)
    return folder


def test_openi_takes_frontal_images_and_its_options_say_what_labels_mean(openi_dir):
    frontal = [f"NLMCXR_png/CXR{n}_IM-000{n}-1001.png" for n in range(1, 5)]

    def of(**options):
        return labels(openi.index(openi_dir, **options))

    assert of() == dict(zip(frontal, [0, 1, 1, -1], strict=True))
    assert of(borderline="drop", others="negative") == {frontal[0]: 0, frontal[1]: 1, frontal[3]: 0}
    assert of(positive="scoliosis", others="drop") == {frontal[0]: 0, frontal[3]: 1}
    assert len(of(views="all")) == 8
    for option in ("borderline", "others", "views", "positive"):
        with pytest.raises(UserError, match=f"options.{option}: no 'x'"):
            of(**{option: "x"})
    loaded = records.load("openi", openi_dir, 8)
    assert loaded.classes == ("normal", "cardiomegaly")
    assert loaded.patient.tolist() == ["1", "2", "3", "4"]


def test_openi_with_findings(openi_dir):
    def of(**options):
        index = openi.index(openi_dir, **{"findings": "all", **options})
        return index.classes, [row.label for row in index.rows]

    all_three = ("cardiomegaly", "opacity", "scoliosis")
    assert of() == (all_three, [(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1)])
    assert of(borderline="unlabelled")[1][2] == (-1, 0, 0)
    assert of(findings="scoliosis") == (("scoliosis",), [(0,), (0,), (0,), (1,)])
    with pytest.raises(UserError, match="options.borderline: no 'drop' among"):
        of(borderline="drop")
    (openi_dir / openi.FOLDER / "1.xml").write_text(report(1, ["no indexing"], "IM-0001-1001"))
    assert of()[1][:2] == [(-1, -1, -1), (1, 1, 0)]


def test_openi_from_the_archive_with_views_of_the_dicom_table(openi_dir):
    with tarfile.open(openi_dir / openi.ARCHIVE, "w:gz") as archive:
        archive.add(openi_dir / openi.FOLDER, openi.FOLDER)
    for path in (openi_dir / openi.FOLDER).iterdir():
        path.unlink()
    (openi_dir / openi.FOLDER).rmdir()
    (openi_dir / openi.PROJECTIONS).unlink()
    with pytest.raises(UserError, match="data.options.views to 'all'"):
        openi.index(openi_dir)
    (openi_dir / "nlmcxr_dicom_metadata.csv").write_text(
        "imageid,View Position\nCXR1_IM-0001-1001,PA\nCXR1_IM-0001-2001,LL\n"
        "CXR2_IM-0002-1001,AP\nCXR3_IM-0003-1001,\n"
    )
    assert [row.patient for row in openi.index(openi_dir).rows] == ["1", "2"]
    assert len(openi.index(openi_dir, views="not lateral").rows) == 7


def test_openi_two_files_of_one_image(openi_dir):
    write_image(openi_dir / "again" / "1_IM-0001-1001.png")
    with pytest.raises(UserError, match="the same name"):
        openi.index(openi_dir)


def test_openi_real_reports(real_data):
    reports = openi.reports(real_data / "labels")
    found = [openi.finding(report.tags, "cardiomegaly") for report in reports]
    assert len(reports) == 3955 and sum(not report.images for report in reports) == 104
    assert found.count("negative") == 1391
    assert (found.count("positive"), found.count("borderline")) == (375 - 47, 47)
    names = [openi.image_key(name) for report in reports for name in report.images]
    assert len(set(names)) == len(names) == 7470
    views = openi._views(real_data / "labels")
    assert set(views) < set(names) and len(views) == 7469


# NIH and CheXpert


def test_nih14(tmp_path):
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    rows = [
        "00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,No Finding,1,1,58,M,AP,2894,2729,0.143,0.143",
        "00000002_000.png,Effusion,0,2,80,M,PA,2500,2048,0.171,0.171",
        "00000003_000.png,Hernia,0,3,81,F,PA,2582,2991,0.143,0.143",
    ]
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows, ""]))
    names = [f"images_00{i}/images/{row[:16]}" for i, row in enumerate(rows[:3])]
    for name in names:
        write_image(tmp_path / name)
    assert labels(nih14.index(tmp_path)) == dict(zip(names, [1, 0, -1], strict=True))
    assert labels(nih14.index(tmp_path, "effusion", view="PA")) == {names[0]: 1, names[2]: 1}
    assert labels(nih14.index(tmp_path, others="drop")) == {names[0]: 1, names[1]: 0}
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    loaded = records.load("nih14", tmp_path, 8)
    assert loaded.split.tolist() == ["train", "train", "test"]
    assert loaded.patient.tolist() == ["1", "1", "2"]


def test_nih14_real_table(real_data):
    entries = nih14.entries(real_data / "labels")
    found = np.array([row.label for row in entries])
    assert len(entries) == 112_120 and len({row.patient for row in entries}) == 30_805
    assert [int((found == k).sum()) for k in (0, 1, -1)] == [60_361, 2_776, 48_983]


def test_chexpert(tmp_path):
    release = tmp_path / "CheXpert-v1.0-small"
    train = ["", "1.0", "0.0", "-1.0", ""]  # of which the last one says No Finding
    lines = [
        f"CheXpert-v1.0-small/train/patient0000{i}/study1/view1_frontal.jpg,F,60,Frontal,AP,"
        f"{'1.0' if i == 4 else ''},{value}"
        for i, value in enumerate(train)
    ]
    lines.append(
        "CheXpert-v1.0-small/train/patient00009/study1/view2_lateral.jpg,F,60,Lateral,,,1.0"
    )
    valid = (
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,M,73,Frontal,AP,0.0,1.0"
    )
    for line in (*lines, valid):
        write_image(tmp_path / line.partition(",")[0])
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly"
    (release / "train.csv").write_text("\n".join([header, *lines]))
    (release / "valid.csv").write_text("\n".join([header, valid]))
    for folder in (tmp_path, release):
        index = chexpert.index(folder)
        assert [row.label for row in index.rows] == [-1, 1, 0, -1, 0, 1]
        assert [row.split for row in index.rows] == ["train"] * 5 + ["test"]
        assert index.rows[0].patient == "patient00000" and all(map(os.path.isfile, index.files))
    index = chexpert.index(tmp_path, uncertain="positive", unmentioned="drop")
    assert [row.label for row in index.rows] == [1, 0, 1, 0, 1]


def test_chexpert_with_findings(tmp_path):
    """Their values in train.csv are 1, 0, -1 and a blank, and blanks of a film without finding."""
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Support Devices\n"
    cells = ["0.0,1.0,0.0", ",-1.0,", "1.0,,1.0"]
    for name, split in (("train.csv", "train"), ("valid.csv", "valid")):
        films = [f"{split}/patient0000{i}/study1/view1_frontal.jpg" for i in range(3)]
        lines = [f"{film},F,60,Frontal,AP,{c}" for film, c in zip(films, cells, strict=True)]
        (tmp_path / name).write_text(header + "\n".join(lines))
        for film in films:
            write_image(tmp_path / film)

    def of(**options):
        index = chexpert.index(tmp_path, **{"findings": "all", **options})
        return index.classes, [row.label for row in index.rows if row.split == "train"]

    both = ("edema", "support devices")
    assert of() == (both, [(1, 0), (-1, -1), (0, 1)])  # U-Ignore
    assert of(uncertain="positive")[1] == [(1, 0), (1, -1), (0, 1)]  # U-Ones
    zeros = of(uncertain="negative", unmentioned="negative")
    assert zeros[1] == [(1, 0), (0, 0), (0, 1)]  # U-Zeros
    assert of(findings="Support Devices") == (both[1:], [(0,), (-1,), (1,)])
    with pytest.raises(UserError, match="options.uncertain: no 'drop' among"):
        of(uncertain="drop")
    with pytest.raises(UserError, match="options.findings: no 'no finding' among edema, support"):
        of(findings="No Finding")


# Two hospitals, many files, other formats


def test_sites_join_data_sets_and_keep_patients_apart(openi_dir, tmp_path):
    for name in ("own/normal/1.png", "own/large heart/1.png", "own/large heart/2.png"):
        write_image(tmp_path / name)
    options = {
        "sites": {"a": "openi", "own": "folder"},
        "dirs": {"a": "openi"},
        "options": {"a": {"others": "drop"}, "own": {"classes": ("normal", "large heart")}},
    }
    with pytest.raises(UserError, match="site 'own' has the classes .*data.options.classes"):
        records.load("sites", tmp_path, 8, **options)
    loaded = records.load("sites", tmp_path, 8, **options, classes=("normal", "heart"))
    assert loaded.site.tolist() == ["a"] * 3 + ["own"] * 3
    assert loaded.label.tolist() == [0, 1, 1, 1, 1, 0] and loaded.classes == ("normal", "heart")
    assert loaded.patient[0] == "a/1" and loaded.path[0].startswith("a/NLMCXR_png/")
    with pytest.raises(UserError, match="data.options.dirs: no 'b'"):
        records.load("sites", tmp_path, 8, sites={"own": "folder"}, dirs={"b": "x"})


def test_two_folders_are_two_sites(tmp_path):
    for name in ("north/a/1.dcm", "north/b/deep/2.png", "south/a/1.png", "south/b/1.png"):
        (dicom if name.endswith("dcm") else write_image)(tmp_path / name)
    loaded = records.load("sites", tmp_path, 8)
    assert loaded.site.tolist() == ["north", "north", "south", "south"]
    assert loaded.label.tolist() == [0, 1, 0, 1]


def test_ten_thousand_files_below_many_folders(tmp_path):
    names = [f"d{i % 50}/{i}.png" for i in range(10_000)]
    for i in range(50):
        (tmp_path / f"d{i}").mkdir()
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT))
    text = "".join(f"{name},{i % 3},p{i % 999}\n" for i, name in enumerate(names))
    (tmp_path / "labels.csv").write_text("path,label,patient_id\n" + text)
    index = records.list_source("folder", tmp_path)
    assert len(index.rows) == 10_000 and index.classes == ("0", "1", "2")
    assert len(list(images.files_in(tmp_path))) == 10_000


def test_a_table_is_not_unpacked_without_limit(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr(tables, "_MAX_BYTES", 2**20)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(bytes(2**21)))
    with pytest.raises(UserError, match="more than 1 MB"):
        list(tables.read(tmp_path / "x.csv.gz", ("a",)))


def test_a_line_ends_where_spreadsheets_end_it(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\none\u2028two,\x0b\u0085\nthree,4\n")
    read = [cells["a"] for _, cells in tables.read(tmp_path / "x.csv", ("a", "b"))]
    assert read == ["one\u2028two", "three"]


# Preparation


@pytest.mark.parametrize("equalize", images.EQUALIZE)
def test_padding_keeps_proportions(equalize):
    image = np.tile(np.linspace(0.1, 1, 40, dtype=np.float32), (80, 1))  # [80,40]
    square = images.prepare(image, 16, equalize, "pad")[..., 0]
    assert square.shape == (16, 16) and not square[:, :4].any() and not square[:, 12:].any()
    assert (square[8, 4:12] > 0).all() and (np.diff(square[8, 5:11].astype(int)) > 0).all()
    assert images.prepare(image[:, :1], 16, "none", "pad").any()


def test_clahe_evens_out_contrast():
    x = np.linspace(0, 1, 128)
    dark = (0.1 * x[:, None] + 0.02 * np.sin(60 * x)[None]).clip(0).astype(np.float32)
    even = images.prepare(dark, 128, "clahe")
    assert even.std() > images.prepare(dark, 128, "none").std()
    assert len(np.unique(even)) >= 200


def test_aspect_has_a_cache_of_its_own(tmp_path):
    write_image(tmp_path / "data" / "a" / "1.png")
    squashed, padded = (
        records.load("folder", tmp_path / "data", 8, aspect=aspect).image
        for aspect in images.ASPECT
    )
    assert squashed[0, :, -1].any() and not padded[0, :, -1].any()  # 10 wide and 12 high
    with pytest.raises(UserError, match="data.aspect"):
        records.load("folder", tmp_path / "data", 8, aspect="crop")


N = source.CHUNK + 36  # images: a whole chunk and a part of one
PREPARE = """
import os, signal, sys
from ssl_gan_jax.data import images, records
read, names = images.read_image, []
def read_and_count(path):
    if path.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    names.append(path)
    return read(path)
images.read_image = read_and_count
records.load("folder", sys.argv[1], 8, cache_dir=sys.argv[2])
print(len(names))
"""


@pytest.fixture
def many(tmp_path):
    """N images, the fourth of which cannot be read."""
    for i in range(N):
        write_image(tmp_path / "data" / "a" / f"{i:04d}.png", i)
    (tmp_path / "data" / "a" / "0003.png").write_bytes(b"no image")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded."""
    names, read = [], images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: names.append(path.name) or read(path))
    return names


def prepared_once(many, cache):
    loaded = records.load("folder", many, 8, cache_dir=cache, max_unreadable=0.1)
    assert [path for path, _ in loaded.quarantined] == ["a/0003.png"]
    left = {path.name for path in (cache / "folder").glob("*/*")}
    assert left == {"1.0.2", "lock", "metadata.json"}  # no parts, nothing incomplete
    return loaded.image


def test_a_killed_preparation_goes_on_and_two_processes_share_one(many, tmp_path, decoded):
    def start(dies_at=""):
        command = [sys.executable, "-c", PREPARE, str(many), str(tmp_path / "c"), dies_at]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    assert start(dies_at=f"{N - 1:04d}.png").wait() == -signal.SIGKILL
    assert list((tmp_path / "c").rglob("incomplete*"))
    both = [start(), start()]
    counts = sorted(int(process.communicate()[0]) for process in both)
    assert counts == [0, N - source.CHUNK]
    shared = prepared_once(many, tmp_path / "c")
    assert not decoded
    np.testing.assert_array_equal(shared, prepared_once(many, tmp_path / "fresh"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_preparation_at_once_and_keeps_what_is_done(
    many, tmp_path, decoded, monkeypatch, number
):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    counted = images.read_image

    def interrupted(path):
        if len(decoded) == source.CHUNK + 1:
            os.kill(os.getpid(), number)
        return counted(path)

    try:
        asked = ending.on_signal()  # as `main` does
        with monkeypatch.context() as patch, pytest.raises(Stopped, match="are kept"):
            patch.setattr(images, "read_image", interrupted)
            records.load("folder", many, 8, cache_dir=tmp_path / "c")
        assert not asked()
        os.kill(os.getpid(), number)  # afterwards it is `main`'s again
        assert asked()
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    decoded.clear()
    prepared_once(many, tmp_path / "c")
    assert len(decoded) == N - source.CHUNK


def test_a_spreadsheet_takes_no_name_of_an_unreadable_file_for_a_formula(tmp_path):
    write_image(tmp_path / "data" / "a" / "1.png")
    (tmp_path / "data" / "=a").mkdir()
    (tmp_path / "data" / "=a" / "1.png").write_bytes(b"no image")
    for _ in range(2):
        loaded = records.load("folder", tmp_path / "data", 8, cache_dir=tmp_path, max_unreadable=1)
        assert loaded.path.tolist() == ["a/1.png"] and loaded.quarantined[0][0] == "=a/1.png"
    (written,) = tmp_path.rglob("quarantine.csv")
    assert "\n'=a/1.png," in written.read_text()


def test_a_damaged_part_is_made_again(tmp_path):
    (tmp_path / "0.npz").write_bytes(b"PK\3\4 damaged")
    assert source._load_part(tmp_path / "0.npz") is None
    np.savez(tmp_path / "0.npz", image=np.array([object()]), reason=np.array([""]))
    assert source._load_part(tmp_path / "0.npz") is None


def test_a_bar_on_a_terminal_and_lines_elsewhere(tmp_path, monkeypatch, capfd):
    write_image(tmp_path / "data" / "a" / "1.png")
    monkeypatch.setattr(logging, "log_every_n_seconds", lambda *args: print(args, file=sys.stderr))
    records.load("folder", tmp_path / "data", 8)
    assert "1, 1)" in capfd.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    records.load("folder", tmp_path / "data", 9)
    assert "Preparing 1 images" in capfd.readouterr().err
