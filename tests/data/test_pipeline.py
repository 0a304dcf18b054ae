import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax.data import pipeline
from ssl_gan_jax.data.pipeline import batches
from ssl_gan_jax.errors import UserError

N = 700
IMAGE = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 1), np.uint8)
IMAGE[:, 0, 0, 0], IMAGE[:, 0, 1, 0] = np.divmod(np.arange(N), 256)  # each image tells its index
LABEL = np.arange(N, dtype=np.int64) % 3


def index_of(image):
    return image[:, 0, 0, 0].astype(int) * 256 + image[:, 0, 1, 0]


def run(labelled=range(30, 50), unlabelled=range(N), **options):
    options = {"batch_size": 8, "unlabeled_batch": 12, "seed": 3, "steps": 200} | options
    return list(batches(IMAGE, LABEL, np.array(labelled), np.array(unlabelled), **options))


def test_shapes_types_and_matching_labels():
    for batch in run(steps=20):
        assert batch.image.shape == (8, 4, 4, 1) and batch.image.dtype == np.uint8
        assert batch.unlabeled.shape == (12, 4, 4, 1) and batch.unlabeled.dtype == np.uint8
        assert batch.label.dtype == np.int32
        np.testing.assert_array_equal(batch.label, index_of(batch.image) % 3)


@pytest.mark.parametrize("start", [1, 63, 64, 150, 199])
def test_a_batch_does_not_depend_on_where_training_started(start):
    for whole, resumed in zip(run()[start:], run(start=start), strict=True):
        jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 900), st.integers(1, 40), st.integers(0, 2**40))
def test_every_epoch_shows_every_image_once_in_another_order(n, batch, seed):
    steps = -(-3 * n // batch)
    order = np.concatenate(list(pipeline._order(n, batch, (seed, 0), 0, steps)))
    epochs = order[: 3 * n].reshape(3, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (3, 1)))
    if n > 20:
        assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("n", [20, 600])  # either way of shuffling
def test_orders_do_not_repeat_and_favour_no_image(n):
    orders = np.stack(list(pipeline._order(n, n, (0, 0), 0, 500)))
    assert len(np.unique(orders, axis=0)) == 500
    first = np.bincount(orders[:, 0] * 20 // n, minlength=20)
    assert ((first - 25) ** 2 / 25).sum() < 45  # chi-squared, 19 degrees of freedom


def test_streams_and_seeds_differ():
    same = {"labelled": range(50), "unlabelled": range(50), "unlabeled_batch": 8, "steps": 1}
    (a,), (b,) = run(**same), run(**same, seed=4)
    assert not np.array_equal(index_of(a.image), index_of(a.unlabeled))
    assert not np.array_equal(index_of(a.image), index_of(b.image))


def test_processes_share_each_batch():
    parts = [run(process=(i, 4), steps=9) for i in range(4)]
    for whole, *shares in zip(run(steps=9), *parts, strict=True):
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *shares)
        jax.tree.map(np.testing.assert_array_equal, whole, joined)


def test_labels_of_the_unlabelled_stream_are_never_read(monkeypatch):
    """Trust 24."""
    before = run(steps=20)
    monkeypatch.setattr(
        sys.modules[__name__], "LABEL", np.where(np.isin(np.arange(N), range(30, 50)), LABEL, -99)
    )
    for a, b in zip(before, run(steps=20), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_no_unlabelled_images():
    assert run(unlabelled=(), unlabeled_batch=0, steps=1)[0].unlabeled.shape == (0, 4, 4, 1)
    with pytest.raises(UserError, match="unlabeled_batch=12"):
        run(unlabelled=np.zeros(0, int))
    with pytest.raises(UserError, match="3 processes"):
        run(process=(0, 3))


def test_tensorflow_waits_until_it_is_needed():
    modules = "images, pipeline, records, splits, tf_import"
    code = f"import sys; from ssl_gan_jax.data import {modules}; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"False\n"
