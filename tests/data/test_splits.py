import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_gan_jax.data.splits import draw_labels, split
from ssl_gan_jax.errors import UserError

patients = st.lists(st.integers(0, 60).map(str), min_size=1, max_size=120)


def members(patient, parts):
    return [set(np.asarray(patient)[part]) for part in parts]


@given(patients, st.text(max_size=3))
def test_every_image_is_in_one_part_and_no_patient_in_two(patient, salt):
    """Trust 22."""
    parts = split(patient, [""] * len(patient), salt=salt, val=0.2, test=0.2)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(patient)))
    train, val, test = members(patient, parts)
    assert not (train & val or train & test or val & test)


@given(patients, patients)
def test_new_images_never_move_old_patients(old, new):
    """Trust 25."""
    before = members(old, split(old, [""] * len(old)))
    after = members(old + new, split(old + new, [""] * len(old + new)))
    assert all(part <= grown for part, grown in zip(before, after, strict=True))


def test_shares_and_salt():
    patient = [str(i) for i in range(20_000)]
    first, other = (split(patient, [""] * 20_000, salt=salt) for salt in ("", "x"))
    np.testing.assert_allclose([len(part) / 20_000 for part in first], [0.8, 0.1, 0.1], atol=0.01)
    assert len(np.intersect1d(first.test, other.test)) < 0.2 * len(first.test)


def test_an_official_test_set_is_the_test_set_and_validation_comes_from_the_rest():
    patient = [str(i) for i in range(1000)]
    parts = split(patient, ["train"] * 800 + ["test"] * 200)
    np.testing.assert_array_equal(parts.test, np.arange(800, 1000))
    assert 40 < len(parts.val) < 120 and parts.val.max() < 800
    without = split(patient[:800], [""] * 800)
    np.testing.assert_array_equal(parts.val, without.val)


def test_an_official_validation_set_is_kept():
    parts = split(list("abcdef"), ["train", "val", "test", "train", "val", "train"])
    assert [part.tolist() for part in parts] == [[0, 3, 5], [1, 4], [2]]


@pytest.mark.parametrize(
    "official", [["train", "test", "test"], ["", "test", "test"], ["val", "", "test"]]
)
def test_a_patient_in_two_parts_is_fatal_and_not_named(official):
    """Trust 22."""
    with pytest.raises(UserError, match="images number . and .:?") as caught:
        split(["Jane Doe", "Jane Doe", "other"], official)
    assert "Jane" not in str(caught.value)


def test_bad_splits_and_shares():
    with pytest.raises(UserError, match="'training'"):
        split(["a"], ["training"])
    with pytest.raises(UserError, match="below 1"):
        split(["a"], [""], val=0.5, test=0.5)


LABEL = np.array([0, 1, -1, 1, 0] * 40)
POOL = np.arange(0, 150)


@given(st.integers(0, 2**63), st.integers(1, 60), st.integers(1, 60))
def test_exactly_n_of_each_class_and_nested(seed, n, m):
    small, large = sorted((n, m))
    a = draw_labels(LABEL, POOL, per_class=small, seed=seed)
    b = draw_labels(LABEL, POOL[::-1], images=2 * large, seed=seed)
    assert np.bincount(LABEL[a]).tolist() == [small] * 2
    assert np.bincount(LABEL[b]).tolist() == [large] * 2
    assert set(a) <= set(b) <= set(POOL) and (np.diff(b) > 0).all()


def test_seeds_differ_and_labels_outside_the_pool_do_not_matter():
    drawn = [draw_labels(LABEL, POOL, per_class=10, seed=seed) for seed in (0, 1)]
    assert not np.array_equal(*drawn)
    changed = LABEL.copy()
    changed[150:] = 0
    np.testing.assert_array_equal(draw_labels(changed, POOL, per_class=10, seed=0), drawn[0])


def test_no_budget_is_all_that_is_labelled():
    np.testing.assert_array_equal(
        draw_labels(LABEL, POOL, seed=0), np.flatnonzero(LABEL[:150] >= 0)
    )


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
        draw_labels(LABEL, POOL, seed=0, **budget)
