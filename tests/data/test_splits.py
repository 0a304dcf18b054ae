import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax.data import dataset, splits
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.data.sources import folder
from ssl_gan_jax.data.splits import draw_labels, split
from ssl_gan_jax.errors import UserError

patients = st.lists(st.integers(0, 60).map(str), min_size=1, max_size=120)


@given(patients, st.text(max_size=3))
def test_every_image_is_in_one_part_and_no_patient_in_two(patient, salt):
    """Trust 22."""
    part = split(patient, [""] * len(patient), salt=salt, val=0.2, test=0.2)
    assert set(part) <= {"train", "val", "test"}
    assert len(set(zip(patient, part, strict=True))) == len(set(patient))


@given(patients, patients)
def test_new_images_never_move_old_patients(old, new):
    """Trust 25."""
    before = split(old, [""] * len(old))
    after = split(old + new, [""] * len(old + new))
    np.testing.assert_array_equal(before, after[: len(old)])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of empty files for tables to name."""
    data = tmp_path_factory.mktemp("files")
    for i in range(30):
        (data / f"{i}.png").touch()
    return data


rows = st.tuples(st.integers(0, 9), st.sampled_from(("", "a", "b")))


@settings(max_examples=60)
@given(st.lists(rows, min_size=1, max_size=30), st.integers(1, 30), st.sampled_from(("", "test")))
def test_trust_22_and_25_random_tables_from_file_to_split(files, table, first, official):
    """Patients keep together, and stay where they are when rows are added to labels.csv."""

    def parts(table):
        lines = [
            f"{i}.png,{label},p{patient},{official if patient == 0 else ''}"
            for i, (patient, label) in enumerate(table)
        ]
        text = "\n".join(["path,label,patient_id,split", *lines])
        (files / "labels.csv").write_text(text)
        found = folder.index(files).rows
        part = split([row.patient for row in found], [row.split for row in found], val=0.3)
        return [(row.patient, row.path, name) for row, name in zip(found, part, strict=True)]

    # An official test set, once there is one, is the test set: begin with a row of it.
    table = [(0, ""), *table[:29]]
    before, after = parts(table[:first]), parts(table)
    assert after[: len(before)] == before
    assert len({(patient, part) for patient, _, part in after}) == len({p for p, _ in table})


def test_shares_and_salt():
    patient = [str(i) for i in range(20_000)]
    first, other = (split(patient, [""] * 20_000, salt=salt) for salt in ("", "x"))
    shares = [(first == name).mean() for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    assert (other[first == "test"] == "test").mean() < 0.2


def test_an_official_test_set_is_the_test_set_and_validation_comes_from_the_rest():
    patient = [str(i) for i in range(1000)]
    part = split(patient, ["train"] * 800 + ["test"] * 200)
    np.testing.assert_array_equal(part == "test", np.arange(1000) >= 800)
    assert 40 < (part == "val").sum() < 120
    without = split(patient[:800], [""] * 800)
    np.testing.assert_array_equal(part[:800] == "val", without == "val")


def test_an_official_validation_set_is_kept():
    part = split(list("abcdef"), ["train", "val", "test", "train", "val", "train"])
    assert part.tolist() == ["train", "val", "test", "train", "val", "train"]


@given(patients, st.lists(st.sampled_from(("", "train", "val", "test")), min_size=60, max_size=60))
def test_what_is_written_holds_and_the_rest_is_divided_by_patient(patient, given):
    """A patient's images for which nothing is written follow those for which something is."""
    of = [given[int(p) % 60] for p in patient]
    part = split(patient, of, val=0.4, test=0.3, train_stays=True)
    assert all(name == here for name, here in zip(of, part, strict=True) if name)
    half = [name if i % 2 else "" for i, name in enumerate(of)]
    part = split(patient, half, val=0.4, test=0.3, train_stays=True)
    assert len(set(zip(patient, part, strict=True))) == len(set(patient))
    assert all(name == here for name, here in zip(half, part, strict=True) if name)


@pytest.mark.parametrize(
    "official", [["train", "test", "test"], ["val", "train", "test"], ["test", "val", ""]]
)
def test_a_patient_in_two_parts_is_fatal_and_not_named(official):
    """Trust 22."""
    patient = np.array(["Jane Doe", "Jane Doe", "other"])
    with pytest.raises(UserError, match="images number 0 in .* and 1 in") as caught:
        splits.check_disjoint(patient, split(patient, official))
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "label", "message"),
    [
        (("ill",), [0, 0, 0], "two classes, and there is ill"),
        ((), [-1, -1, -1], "two classes, and there is none"),
        (("a", "b", "c"), [0, 0, 2], "no labelled training image of class 'b'"),
    ],
)
def test_data_that_teach_no_classifier_are_refused(classes, label, message):
    text = np.array(list("xyz"))
    found = Records(
        image=np.zeros((3, 1, 1, 1), np.uint8),
        label=np.array(label, np.int32),
        patient=text,
        path=text,
        split=text,
        site=text,
        classes=classes,
        quarantined=(),
    )
    rows = np.flatnonzero(found.label >= 0)
    with pytest.raises(UserError, match=message):
        dataset.check_classes(dataset.Dataset(found, rows, rows, rows[:0], rows[:0]))


def test_bad_splits_and_shares():
    with pytest.raises(UserError, match="'training'"):
        split(["a"], ["training"])
    with pytest.raises(UserError, match="below 1"):
        split(["a"], [""], val=0.5, test=0.5)


def test_of_one_class_alone_validation_and_test_are_of_it_too(monkeypatch):
    text = np.array([str(i) for i in range(60)])
    found = Records(
        image=np.zeros((60, 1, 1, 1), np.uint8),
        label=np.arange(60, dtype=np.int32) % 3 - 1,
        patient=text,
        path=text,
        split=np.full(60, ""),
        site=text,
        classes=("x", "y"),
        quarantined=(),
    )
    monkeypatch.setattr(dataset, "load", lambda data, check: found)
    opened = dataset.open_dataset(DATA | {"only_class": "y"}, 0)
    for rows in opened[1:]:
        assert len(rows) and set(found.label[rows]) == {1}


DATA = {
    "split_seed": 0,
    "source_site": "",
    "target_site": "",
    "val": 0.2,
    "test": 0.2,
    "pool": "all",
    "adapt": "none",
    "only_class": "",
    "labels_per_class": 0,
    "images": 0,
}


def test_source_and_target_take_the_parts_of_m_table_2(monkeypatch):
    n = 50
    text = np.array([str(i) for i in range(n)])
    found = Records(
        image=np.zeros((n, 1, 1, 1), np.uint8),
        label=np.arange(n, dtype=np.int32) % 2,
        patient=text,
        path=text,
        split=np.full(n, ""),
        site=np.array(["a"] * 30 + ["b"] * 20),
        classes=("x", "y"),
        quarantined=(),
    )
    assert set(dataset.split_images(found, DATA)) == {"train", "val", "test"}
    transfer = DATA | {"source_site": "a", "target_site": "b"}
    part = dataset.split_images(found, transfer)
    assert set(part[:30]) == {"train", "val"} and set(part[30:]) == {"adapt", "test"}
    half = dataset.split_images(found, transfer | {"target_test": 0.5})
    assert (half == "test").sum() > (part == "test").sum() and set(half[30:]) == {"adapt", "test"}
    with pytest.raises(UserError, match="data.source_site is not"):
        dataset.split_images(found, DATA | {"target_site": "b"})
    with pytest.raises(UserError, match="data.target_site: no 'c' among a, b"):
        dataset.split_images(found, transfer | {"target_site": "c"})
    monkeypatch.setattr(dataset, "load", lambda data, check: found)
    choices = ("none", "target", "mixture", False, True)  # the last two are of earlier versions
    opened = {adapt: dataset.open_dataset(transfer | {"adapt": adapt}, 0) for adapt in choices}
    for one in opened.values():
        np.testing.assert_array_equal(one.labeled, np.flatnonzero(part == "train"))
        np.testing.assert_array_equal(one.test, np.flatnonzero(part == "test"))
    both = np.flatnonzero((part == "train") | (part == "adapt"))
    target = np.flatnonzero(part == "adapt")
    for adapt, wanted in zip(choices, (both[:0], target, both, both[:0], both), strict=True):
        wanted = wanted if len(wanted) else opened[adapt].labeled
        np.testing.assert_array_equal(opened[adapt].unlabeled, wanted)
    with pytest.raises(UserError, match=r"data\.adapt: no 'true'"):
        dataset.open_dataset(transfer | {"adapt": "true"}, 0)
    with pytest.raises(UserError, match=r"data\.target_site"):
        dataset.open_dataset(DATA | {"adapt": "target"}, 0)
    with pytest.raises(UserError, match="no training images"):
        dataset.open_dataset(transfer | {"source_site": "b", "val": 0.799999}, 0)
    upper = dataset.split_images(
        found, transfer | {"source_site": "b"}
    )  # the target's own patients
    np.testing.assert_array_equal(upper == "test", part == "test")
    assert not upper[:30].any() and set(upper[part == "adapt"]) == {"train", "val"}


@given(labels=st.integers(1, 40), seed=st.integers(0, 99))
def test_validation_may_have_no_more_labels_than_training(labels, seed):
    n = 400
    text = np.array([str(i) for i in range(n)])
    label, split = np.arange(n, dtype=np.int32) % 2, np.full(n, "")
    found = Records(np.zeros((n, 1, 1, 1), np.uint8), label, text, text, split, split, "xy", ())
    budget = DATA | {"labels_per_class": labels, "validation": "budget"}
    small = dataset.assign(found, budget, seed)
    every = dataset.assign(found, budget | {"validation": "all"}, seed)
    assert set(small.val) <= set(every.val) and (small.labeled == every.labeled).all()
    held = np.bincount(label[every.val], minlength=2)
    wanted = min(labels, *held) if min(held) else None
    if wanted:
        assert np.bincount(label[small.val]).tolist() == [wanted] * 2
    np.testing.assert_array_equal(small.test, every.test)


LABEL = np.array([0, 1, -1, 1, 0] * 40)
POOL = np.arange(0, 150)
NAMES = np.array([f"{i}.png" for i in range(400)])


def draw(label, pool, **budget):
    return draw_labels(label, pool, NAMES[: len(label)], NAMES[: len(label)], **budget)


@given(st.sets(st.integers(0, 399), min_size=60), st.sets(st.integers(0, 399)), st.integers(0, 9))
def test_images_that_come_change_the_draw_by_themselves_alone(old, new, seed):
    """Or go, as unreadable ones do; wherever they stand among the others."""

    def drawn(images):
        names = NAMES[sorted(images)]
        label = np.array([LABEL[i % 5] for i in sorted(images)])
        chosen = draw_labels(label, np.arange(len(names)), names, names, per_class=5, seed=seed)
        return set(names[chosen])

    try:
        before, after = drawn(old), drawn(old | new)
    except UserError:  # fewer than five of a class
        return
    assert after - before <= set(NAMES[sorted(new)])
    assert len(before - after) == len(after - before)


@given(st.integers(0, 2**63), st.integers(1, 60), st.integers(1, 60))
def test_exactly_n_of_each_class_and_nested(seed, n, m):
    small, large = sorted((n, m))
    a = draw(LABEL, POOL, per_class=small, seed=seed)
    b = draw(LABEL, POOL[::-1], images=2 * large, seed=seed)
    assert np.bincount(LABEL[a]).tolist() == [small] * 2
    assert np.bincount(LABEL[b]).tolist() == [large] * 2
    assert set(a) <= set(b) <= set(POOL) and (np.diff(b) > 0).all()


def test_seeds_differ_and_labels_outside_the_pool_do_not_matter():
    drawn = [draw(LABEL, POOL, per_class=10, seed=seed) for seed in (0, 1)]
    assert not np.array_equal(*drawn)
    changed = LABEL.copy()
    changed[150:] = 0
    np.testing.assert_array_equal(draw(changed, POOL, per_class=10, seed=0), drawn[0])


def test_no_budget_is_all_that_is_labelled():
    np.testing.assert_array_equal(draw(LABEL, POOL, seed=0), np.flatnonzero(LABEL[:150] >= 0))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"per_class": 61}, "class 0: 60, class 1: 60"),
        ({"per_class": 0}, "class 0: 60"),
        ({"images": 5}, "evenly over 2 classes"),
        ({"images": 4, "per_class": 2}, "not both"),
    ],
)
def test_budgets_that_cannot_be_given(budget, message):
    with pytest.raises(UserError, match=message):
        draw(LABEL, POOL, seed=0, **budget)
