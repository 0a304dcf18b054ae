import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from absl import logging
from PIL import Image

from ssl_gan_jax.data import images, records, splits
from ssl_gan_jax.data.sources import folder
from ssl_gan_jax.data.sources.kermany import patient_key
from ssl_gan_jax.errors import UserError


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10), np.uint8)).save(path)


@pytest.fixture
def data(tmp_path):
    """A folder of two classes of three images, and one unlabelled image."""
    for i, path in enumerate(["a/1", "a/2", "a/deep/3", "b/1", "b/2", "b/3", "unlabelled/1"]):
        write_image(tmp_path / "data" / f"{path}.png", i)
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded."""
    names, read = [], images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: names.append(path.name) or read(path))
    return names


def table(data, text, encoding="utf-8"):
    (data / "labels.csv").write_bytes(text.encode(encoding))


# The cache


def test_prepared_once_and_again_when_anything_changes(data, decoded, tmp_path):
    def count(**options):
        decoded.clear()
        records.load("folder", data, options.pop("size", 8), cache_dir=tmp_path / "c", **options)
        return len(decoded)

    assert count() == 7
    assert count() == 0
    assert count(size=9) == count(equalize="none") == count(classes=("b", "a")) == 7
    write_image(data / "b" / "4.png")
    assert count() == 8 and count() == 0
    os.utime(data / "b" / "4.png", ns=(1, 1))
    assert count() == 8


def test_a_preparation_that_stops_halfway_does_not_count(data, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(images, "prepare", stop)
        records.load("folder", data, 8, cache_dir=tmp_path / "c")
    assert len(records.load("folder", data, 8, cache_dir=tmp_path / "c").label) == 7


def test_the_cache_can_be_useless(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="SSL_GAN_JAX_CACHE"):
        records.load("folder", data, 8, cache_dir=tmp_path / "file")
    first = records.load("folder", data, 8, cache_dir=tmp_path / "c")
    (copy,), (shard,) = ((tmp_path / "c").rglob(name) for name in ("images.npz", "*.tfrecord*"))
    written = copy.read_bytes()
    for bad in (written[:500], written[:-300] + b"x" * 30 + written[-270:]):
        copy.write_bytes(bad)
        with pytest.raises(UserError, match="delete it"):
            records.load("folder", data, 8, cache_dir=tmp_path / "c")
    copy.unlink()  # as in caches of earlier versions, and for those who may not write there
    again = records.load("folder", data, 8, cache_dir=tmp_path / "c")
    np.testing.assert_array_equal(again.image, first.image)
    assert copy.read_bytes() == written
    copy.unlink()
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(UserError, match="delete it"):
        records.load("folder", data, 8, cache_dir=tmp_path / "c")


def test_prepared_images_are_read_without_tensorflow(data, tmp_path):
    program = """
import sys
from ssl_gan_jax.data import records
records.load("folder", sys.argv[1], 8, cache_dir=sys.argv[2])
print(*{"tensorflow", "tensorflow_datasets"} & {*sys.modules})
"""
    command = [sys.executable, "-c", program, data, tmp_path / "c"]
    said = [subprocess.run(command, capture_output=True, text=True).stdout for _ in range(2)]
    assert "tensorflow" in said[0] and said[1] == "\n"


def test_it_is_quiet_and_leaves_the_images_alone(data, capfd):
    before = sorted(data.rglob("*"))
    records.load("folder", data, 8)
    out, err = capfd.readouterr()
    assert sorted(data.rglob("*")) == before
    assert out == "" and "tensorflow" not in err.lower() and "download" not in err.lower()


# Unreadable images


def test_unreadable_images_are_quarantined_up_to_a_limit(data, cache, caplog):
    """Trust 15."""
    (data / "b" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 8 images .*b/broken\.png: not a PNG"):
        records.load("folder", data, 8)
    logging.use_python_logging(quiet=True)
    loaded = records.load("folder", data, 8, max_unreadable=0.2)
    assert len(loaded.label) == 7
    ((path, reason),) = loaded.quarantined
    assert path == "b/broken.png" and "not a PNG" in reason
    assert "1 of 8" in caplog.text
    assert any(path in file.read_text() for file in cache.rglob("quarantine.csv"))


def test_a_passing_fault_of_the_disk_is_not_kept_as_a_fault_of_the_file(data, cache, monkeypatch):
    start = images._start

    def failing(path):
        if path.name == "3.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return start(path)

    monkeypatch.setattr(images, "_start", failing)
    with pytest.raises(UserError, match="Permission denied: '.*3.png'; mend that, and run again"):
        records.load("folder", data, 8, max_unreadable=1)
    monkeypatch.setattr(images, "_start", start)
    assert len(records.load("folder", data, 8).label) == 7


def test_linked_folders_are_followed_once_and_strange_names_refused(data, tmp_path):
    (data / "c").symlink_to(tmp_path / "elsewhere")
    write_image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "elsewhere" / "round").symlink_to(data)
    found = list(images.files_in(data))
    assert found.count("c/1.png") == 1 and len(found) == 8
    os.rename(data / "b" / "1.png", os.fsencode(data) + b"/b/m\xf6nch.png")
    with pytest.raises(UserError, match=r"m\\udcf6nch\.png': not a name in UTF-8"):
        list(images.files_in(data))


def test_nothing_readable(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    with pytest.raises(UserError, match="a/x.png: the file is empty"):
        records.load("folder", tmp_path, 8, max_unreadable=1)


# Names and places


def test_unknown_names_are_answered_with_the_nearest(data):
    with pytest.raises(UserError, match="did you mean 'kermany'"):
        records.load("kermani", data, 8)
    with pytest.raises(UserError, match="did you mean 'classes'"):
        records.load("folder", data, 8, clases=())
    with pytest.raises(UserError, match="equalize"):
        records.load("folder", data, 8, equalize="histogram")


@pytest.mark.parametrize("name", sorted(set(records.names()) - {"phantom"}))
def test_a_missing_folder_or_layout_says_what_is_expected(name, tmp_path):
    with pytest.raises(UserError, match="data.dir"):
        records.load(name, tmp_path / "absent", 8)
    with pytest.raises(UserError, match=str(tmp_path)):
        records.load(name, tmp_path, 8)


# Your own folder


def test_sub_folders_are_classes(data):
    loaded = records.load("folder", str(data), 8)
    assert loaded.image.shape == (7, 8, 8, 1) and loaded.image.dtype == np.uint8
    assert loaded.classes == ("a", "b") and loaded.label.dtype == np.int32
    assert loaded.label.tolist() == [0, 0, 0, 1, 1, 1, -1]
    assert loaded.path.tolist()[2:4] == ["a/deep/3.png", "b/1.png"]
    assert loaded.patient.tolist() == loaded.path.tolist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_of_any_spreadsheet(data, encoding, newline):
    """Trust 20."""
    lines = ["Path,label,patient_id,split", "a/1.png,mönch,p1,train", "a/2.png,,p1,train", ""]
    table(data, newline.join([*lines[:3], "b\\1.png,10,p2,TEST", ""]), encoding)
    loaded = records.load("folder", data, 8)
    assert loaded.classes == ("10", "mönch")
    assert loaded.label.tolist() == [1, -1, 0]
    assert loaded.patient.tolist() == ["p1", "p1", "p2"]
    assert loaded.split.tolist() == ["train", "train", "test"]


def test_numbers_are_ordered_by_value_and_classes_can_be_prescribed(data):
    table(data, "path,label\na/1.png,10\na/2.png,9\n")
    assert folder.index(data).classes == ("9", "10")
    assert folder.index(data, classes=("10", "9", "8")).rows[0].label == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'"),
        ("path,score\na/1.png,x\n", "no column 'label' among .*'score'"),
        ("path,label,class\na/1.png,x,x\n", "two columns, 'label' and 'class'"),
        ("path,label,PatientID,patient_id\na/1.png,x,1,1\n", "'PatientID' and 'patient_id'"),
        ("path,label\na/1.png,Mass|Effusion\n", "row 2, column 'label': several findings"),
        ("path,label\n", "lists no image"),
        ("path,label\na/1.png,x\na/1.png,x\n", "row 3, column 'path': .* also in row 2"),
        ("path,label\na/1.png,x\n./a/1.png,x\n", "row 3, column 'path': .* also in row 2"),
        ("path,label\na/9.png,x\n", "row 2, column 'path': there is no file 'a/9.png'"),
        ("path,label\n../x.png,x\n", "row 2, column 'path': .* inside the folder"),
        ("path,label\n/etc/passwd,x\n", "row 2, column 'path': .* inside the folder"),
        ("path,label\nC:\\x.png,x\n", "row 2, column 'path': .* inside the folder"),
        ("path,label\n,x\n", "row 2, column 'path': .* inside the folder"),
        ("path,label,split\na/1.png,x,third\n", "row 2, column 'split': 'third'"),
        ("path,label\na/1.png\n", "row 2: not 2 columns"),
        ("path,label\na/1.png,x,y\n", "row 2: not 2 columns"),
        ('path,label\n"a/1.png"b,x\n', "row 2: "),
        (
            "path,label,patient_id,split\na/1.png,x,Jane,train\na/2.png,x,Jane,test\n",
            "row 3, column 'split': 'test', but the same patient is 'train' in row 2",
        ),
    ],
)
def test_faults_of_a_table_are_located(data, text, message):
    """Trust 20."""
    table(data, text)
    with pytest.raises(UserError, match=message) as caught:
        records.load("folder", data, 8)
    assert "Jane" not in str(caught.value)


def test_a_label_outside_the_prescribed_classes(data):
    table(data, "path,label\na/1.png,x\na/2.png,z\n")
    with pytest.raises(UserError, match="row 3, column 'label': unknown label 'z', known are x, y"):
        records.load("folder", data, 8, classes=("x", "y"))


# Published data sets


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("person1946_bacteria_4874.jpeg", "bacteria-1946"),
        ("person1946_virus_1.jpeg", "virus-1946"),
        ("person1_virus_11_2.jpeg", "virus-1"),
        ("IM-0115-0001.jpeg", "im-0115"),
        ("IM-0115-0001-0002.jpeg", "im-0115"),
        ("NORMAL2-IM-0115-0001.jpeg", "normal2-im-0115"),
        ("BACTERIA-1008087-0001.jpeg", "bacteria-1008087"),
        ("NORMAL-1008087-0002.jpeg", "normal-1008087"),
    ],
)
def test_patients_in_kermany_names(name, key):
    assert patient_key(name) == key


def test_a_kermany_name_without_a_patient():
    with pytest.raises(UserError, match="scan7.jpeg"):
        patient_key("scan7.jpeg")


def test_kermany(real_data):
    index = records.list_source("kermany", real_data)
    assert {index.read(row).shape for row in index.rows[::400]} == {(224, 224)}
    rows = np.array([row[:5] for row in index.rows])
    _, label, patient, official, _ = rows.T
    assert len(rows) == 5856
    counts = {part: np.bincount(label[official == part].astype(int)) for part in set(official)}
    assert {part: count.tolist() for part, count in counts.items()} == {
        "train": [1341 + 8, 3875 + 8],
        "test": [234, 390],
    }
    part = splits.split(patient, official)
    splits.check_disjoint(patient, part)
    assert (part == "test").sum() == 624 and 400 < (part == "val").sum() < 650


def test_kermany_may_be_named_by_its_inner_folder(real_data):
    from ssl_gan_jax.data.sources import kermany

    outer, inner = kermany.index(real_data), kermany.index(real_data / "chest_xray")
    assert [row.patient for row in outer.rows] == [row.patient for row in inner.rows]
    assert inner.rows[0].path.startswith("train/NORMAL/")
    two = kermany.index(real_data, sites=True)  # to adapt from one to the other
    assert [row.site for row in two.rows] == [row.split for row in outer.rows]
    assert {row.split for row in two.rows} == {""}


def test_shenzhen_and_montgomery(real_data):
    loaded = records.load("nlm_tb", real_data, 16)
    assert loaded.image.mean() == pytest.approx(127.5, abs=8)  # equalised
    counts = {
        site: np.bincount(loaded.label[loaded.site == site]).tolist()
        for site in np.unique(loaded.site)
    }
    assert counts == {"shenzhen": [326, 336], "montgomery": [80, 58]}


def test_pneumonia_mnist(real_data):
    index = records.list_source("pneumonia_mnist", real_data)
    with np.load(real_data / "pneumoniamnist" / "pneumoniamnist.npz") as arrays:
        for part in ("train", "val", "test"):
            rows = [row for row in index.rows if row.split == part]
            labels = arrays[f"{part}_labels"][:, 0]
            np.testing.assert_array_equal([row.label for row in rows], labels)
            last = index.read(rows[-1]) * 255
            np.testing.assert_array_equal(last, arrays[f"{part}_images"][-1])


def test_mnist_and_a_pickled_array(tmp_path):
    """Trust 19."""
    path, picture = tmp_path / "mnist.npz", np.zeros((3, 28, 28), np.uint8)
    arrays = {
        "x_train": picture,
        "x_test": picture,
        "y_train": np.arange(3),
        "y_test": np.arange(3),
    }
    np.savez(path, **arrays)
    loaded = records.load("mnist", tmp_path, 28, equalize="none")
    assert len(loaded.classes) == 10 and loaded.label.tolist() == [0, 1, 2] * 2
    for fault, message in (
        (arrays | {"y_test": np.array([object()])}, "cannot be read"),
        ({"x_train": picture}, "cannot be read"),
        (arrays | {"y_test": np.arange(2)}, "labels of test"),
        (arrays | {"y_train": np.arange(8, 11)}, "labels of train"),
    ):
        np.savez(path, **fault)
        with pytest.raises(UserError, match=f"mnist.npz.* {message}"):
            records.load("mnist", tmp_path, 28)


def test_plco_tables(tmp_path):
    from ssl_gan_jax.data.sources import plco

    (tmp_path / "lung_screen_data_1.csv").write_text(
        "\ufeffplco_id,study_yr,xry_result,an_cardiac\nA,0,1,0\nA,1,2,1\nB,0,4,1\nC,0,1,.N\n"
    )
    linkage = tmp_path / "lung_xryimg25_data_1.csv"
    linkage.write_text(
        "plco_id,study_yr,image_file_name\nA,0,A0_1\nA,0,a0_2.TIF\nA,1,A1.tif\nB,0,B0\nC,0,C0\nC,0,X\n"
    )
    for name in ("a0_1.tif", "A0_2.tif", "batch2/A1.TIF", "B0.tif", "C0.tif"):
        write_image(tmp_path / name)
    loaded = records.load("plco", tmp_path, 8)
    assert loaded.path.tolist() == ["A0_2.tif", "C0.tif", "a0_1.tif", "batch2/A1.TIF"]
    assert loaded.label.tolist() == [0, -1, 0, 1]
    assert loaded.patient.tolist() == ["A", "C", "A", "A"]
    linkage.write_text("plco_id,assoc_visit_syr,image_file_name\nA,1,A1\n")
    assert [row.label for row in plco.index(tmp_path).rows] == [1]
    linkage.write_text("plco_id,year,image_file_name\nA,1,A1\n")
    with pytest.raises(UserError, match="no column 'study_yr or assoc_visit_syr' among .*'year'"):
        plco.index(tmp_path)
