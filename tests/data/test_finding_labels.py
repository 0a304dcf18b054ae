"""Sources, draws and batches of images with several findings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl_gan_jax.config import base
from ssl_gan_jax.data import audit, dataset, pipeline, records
from ssl_gan_jax.data.sources import folder, nih14
from ssl_gan_jax.data.splits import draw_labels
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import groups

TABLE = """path,effusion,nodule,age,patient_id
a.png,1,0,33,p1
b.png,0,1.0,44,p2
c.png,,-1,55,p3
d.png,1,nan,66,p4
e.png,0,0,77,p5
"""


@pytest.fixture
def films(tmp_path):
    """A folder with a table of two findings."""
    rng = np.random.default_rng(0)
    for name in "abcde":
        pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text(TABLE)
    return tmp_path


def test_a_folder_with_a_column_for_each_finding(films, tmp_path):
    index = folder.index(films, findings="all")
    assert index.classes == ("effusion", "nodule")
    assert [row.label for row in index.rows] == [(1, 0), (0, 1), (-1, -1), (1, -1), (0, 0)]
    assert [dict(row.groups)["age"] for row in index.rows[:2]] == ["18-39", "40-64"]
    assert "findings: effusion 2 (of 4 known), nodule 1 (of 3 known)" in index.metadata.summary[0]
    assert folder.index(films, findings="Nodule").classes == ("nodule",)
    assert folder.index(films, findings=["nodule", "effusion"]).rows[0].label == (0, 1)
    loaded = records.load("folder", films, 8, cache_dir=tmp_path / "cache", findings="all")
    assert loaded.label.tolist() == [list(row.label) for row in index.rows]
    assert loaded.label.dtype == np.int32 and loaded.image.shape == (5, 8, 8, 1)
    again = records.load("folder", films, 8, cache_dir=tmp_path / "cache", findings="all")
    assert (again.label == loaded.label).all()
    report, _ = audit.audit(loaded, np.full(5, "train"))
    counts = {row["class"]: row["images"] for row in report["counts"]}
    assert counts == {"unlabelled": 1, "none": 1, "effusion": 2, "nodule": 1}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("b.png,0", "b.png,2"), {"findings": "all"}, "row 3, column 'effusion': '2' is none of"),
        (("b.png,0", "b.png,yes"), {"findings": "effusion"}, "row 3, column 'effusion': 'yes'"),
        ((), {"findings": "effusion,mass"}, "data.options.findings: no 'mass' among"),
        ((), {"findings": "nodule,nodule"}, "a finding is named twice"),
        ((), {"findings": "all", "positive": "nodule"}, "goes without classes and positive"),
        (("path", "weight"), {"findings": "all"}, "no column 'path'"),
    ],
)
def test_a_faulty_table_of_findings_names_file_and_row(films, change, options, message):
    if change:
        (films / "labels.csv").write_text(TABLE.replace(*change, 1))
    with pytest.raises(UserError, match=message):
        folder.index(films, **options)


CELLS = """path,label,weight
a.png,Effusion|nodule,70
b.png,No Finding,71
c.png,,72
d.png,effusion,73
e.png,nodule,74
"""


def test_a_folder_with_a_column_that_names_all_findings(films):
    table = films / "labels.csv"
    table.write_text(CELLS)
    index = folder.index(films, findings="all")
    assert index.classes == ("Effusion", "nodule")
    assert [row.label for row in index.rows] == [(1, 1), (0, 0), (-1, -1), (1, 0), (0, 1)]
    assert "not read: weight" in index.metadata.summary[0]
    assert folder.index(films, findings="nodule").rows[0].label == (1,)
    table.write_text(CELLS.replace("weight", "mass").replace(",70", ",1"))
    with pytest.raises(UserError, match="row 3, column 'mass': '71' is none of 1, 0"):
        folder.index(films, findings="mass")  # a column for each
    table.write_text(CELLS.replace("No Finding", "No Finding|nodule"))
    with pytest.raises(UserError, match=r"row 3, column 'label': .* a finding and its absence"):
        folder.index(films, findings="all")


def test_findings_need_a_table(films):
    (films / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"data.options.findings needs a table, labels.csv"):
        folder.index(films, findings="all")


def test_nih14_with_all_findings(real_data, tmp_path):
    data = real_data / "nih14"
    if not data.is_dir():
        pytest.skip("the films of nih14 are not here")
    index = nih14.index(data, findings="all")
    assert len(index.classes) == 14 and len(index.rows) == 1000
    shown = np.array([row.label for row in index.rows])
    assert shown[:, index.classes.index("effusion")].sum() == 170
    assert (shown.sum(1) == 0).sum() == 499  # without finding
    two = nih14.index(data, findings="Effusion,mass")
    assert two.classes == ("effusion", "mass")
    with pytest.raises(UserError, match="data.options.findings: no 'fever' among"):
        nih14.index(data, findings="fever")
    # The draw of a run, from the listing alone: 30 images show every finding of the training set.
    config = base("ssl_gan", data="nih14", size=8)
    config.data.images = 30
    label, count = shown.astype(np.int32), len(index.rows)
    listed = records._records(index, index.rows, np.empty((count, 0, 0, 1), np.uint8), ())
    drawn = dataset.assign(listed, config.data, 0)
    assert len(drawn.labeled) == 30
    pool = dataset.split_images(listed, config.data) == "train"
    possible, got = label[pool].any(0), listed.label[drawn.labeled].any(0)
    assert (got == possible).all()
    assert groups.splits(drawn)["labelled"]["classes"]["effusion"] >= 2


NAMES = np.array([f"i{k}" for k in range(60)])
LABELS = st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=20, max_size=60)


def draw(label, images, seed=0, names=None):
    names = NAMES[: len(label)] if names is None else names
    return draw_labels(label, np.arange(len(label)), names, names, images=images, seed=seed)


@given(LABELS, st.integers(0, 20))
def test_a_draw_shows_every_finding_is_nested_and_takes_labelled_images(rows, seed):
    label = np.array(rows)
    labelled = np.flatnonzero((label >= 0).any(1))
    before = np.zeros(0, int)
    for n in range(1, len(labelled) + 1):
        chosen = draw(label, n, seed)
        assert len(chosen) == n and set(before) <= set(chosen) <= set(labelled)
        if n >= 4:  # K + 1
            assert ((label[chosen] == 1).any(0) == (label == 1).any(0)).all()
        before = chosen
    with pytest.raises(UserError, match="cannot be drawn; the training set holds"):
        draw(label, len(labelled) + 1, seed)


@given(LABELS, st.integers(0, 59))
def test_a_draw_does_not_depend_on_the_order_of_images_and_hardly_on_one_of_them(rows, removed):
    label, names = np.array(rows), NAMES[: len(rows)]
    n = min(8, int((label >= 0).any(1).sum()))
    if not n:
        return
    chosen = set(names[draw(label, n)])
    turned = draw(label[::-1], n, names=names[::-1])
    assert set(names[::-1][turned]) == chosen
    keep = np.arange(len(label)) != removed
    if keep.all() or (label[keep] >= 0).any(1).sum() < n:
        return
    without = set(names[keep][draw(label[keep], n, names=names[keep])])
    if removed < len(names) and names[removed] not in chosen:
        shown = int((label[removed] == 1).sum()) or 1  # the orders that it was in
        assert len(chosen - without) <= shown * n  # others stay in their orders
    assert len(without) == n


def test_a_budget_a_class_is_refused():
    with pytest.raises(UserError, match="labels_per_class is of classes; .*data.images"):
        draw_labels(np.ones((4, 2), int), np.arange(4), NAMES[:4], NAMES[:4], per_class=1, seed=0)


def assigned(label, **changes):
    """A data set of images with these labels, as a run divides it."""
    n = len(label)
    names = np.array([f"i{k:03d}" for k in range(n)])
    blank = np.full(n, "")
    found = records.Records(
        np.zeros((n, 4, 4, 1), np.uint8), label, names, names, blank, blank, ("a", "b"), ()
    )
    config = base("ssl_gan", data="folder", size=4)
    config.data.update(**changes)
    return dataset.assign(found, config.data, 0)


def test_findings_without_images_are_named():
    label = np.random.default_rng(0).integers(0, 2, (100, 2)).astype(np.int32)
    assert not dataset.warnings(assigned(label))
    label[:, 1] = 0
    lines = dataset.warnings(assigned(label))
    assert len(lines) == 3 and all("known to show, or none to lack, b" in line for line in lines)
    dataset.check_classes(assigned(label))
    label[:, 0] = -1
    with pytest.raises(UserError, match="both show and lack a finding of a, b"):
        dataset.check_classes(assigned(label))
    with pytest.raises(UserError, match="data.only_class: with findings"):
        assigned(label, only_class="a")


def test_validation_may_have_no_more_labelled_images_than_training():
    label = np.random.default_rng(0).integers(0, 2, (200, 2)).astype(np.int32)
    drawn = assigned(label, images=5, validation="budget")
    assert len(drawn.labeled) == len(drawn.val) == 5
    assert dataset.summary(drawn.records) == []


def test_batches_hold_the_labels_of_each_finding():
    label = np.random.default_rng(0).integers(-1, 2, (12, 3))
    image = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    rows = np.arange(12)
    some = {"batch_size": 5, "unlabeled_batch": 0, "seed": 0, "steps": 4}
    for batch in pipeline.batches(image, label, rows, rows, **some):
        assert batch.label.shape == (5, 3) and batch.label.dtype == np.int32
        assert (batch.label == label[batch.image.ravel()]).all()
