"""Distances to training images, and what they say of a generator that copies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ssl_gan_jax.augment import weak
from ssl_gan_jax.evaluation import generated
from ssl_gan_jax.evaluation.generated import frechet, memorisation, nearest, neighbourhoods


def images(n, seed, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 1), dtype=np.uint8)


@pytest.mark.parametrize("block", [1024, 3])
def test_nearest_is_the_root_mean_square_over_pixels_to_the_nearest(block, monkeypatch):
    monkeypatch.setattr(generated, "BLOCK", block)
    a, b = images(5, 0), images(7, 1)
    gaps = a.astype(float).reshape(5, 1, -1) - b.astype(float).reshape(1, 7, -1)
    np.testing.assert_allclose(nearest(a, b), np.sqrt((gaps**2).mean(-1)).min(1))


def brute(a, b, shift, flip):
    """The definition of `nearest`, pair by pair and shift by shift."""
    a, b = a[..., 0].astype(float), b[..., 0].astype(float)
    h, w = a.shape[1:]
    found = []
    for x in a:
        gaps = []
        for one, y in itertools.product((x, x[:, ::-1]) if flip else (x,), b):
            for i, j in itertools.product(range(-shift, shift + 1), repeat=2):
                over_x = one[max(0, -i) : h - max(0, i), max(0, -j) : w - max(0, j)]
                over_y = y[max(0, i) : h - max(0, -i), max(0, j) : w - max(0, -j)]
                gaps.append(np.sqrt(np.mean((over_x - over_y) ** 2)))
        found.append(min(gaps))
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_nearest_is_the_least_over_shifts_and_mirror_images_of_what_overlaps(shift, flip):
    a, b = images(4, 0, 9)[:, :7], images(6, 1, 9)[:, :7]
    np.testing.assert_allclose(nearest(a, b, shift, flip), brute(a, b, shift, flip))


@pytest.mark.parametrize(("size", "shift"), [(28, 2), (32, 3), (50, 6), (128, 12)])
def test_copies_that_were_moved_as_training_moves_images_are_found(size, shift):
    """Moved by `weak` itself, among many images; not those that were moved further."""
    blurred = gaussian_filter(images(170, 0, size).astype(float), (0, size / 40, size / 40, 0))
    real = np.clip((blurred - 127.5) * size / 8 + 127.5, 0, 255).astype(np.uint8)
    train, validation = real[:150], real[150:]
    moves = generated.shift_and_flip({"shift": shift, "flip": True})
    given = jnp.asarray(train[:10] / 127.5 - 1, jnp.float32)
    copies = np.asarray(weak(jax.random.key(0), given, **moves))
    scores = memorisation(copies, train, validation, **moves)
    assert scores["copies"] == 1 and scores["nearest_train"] < 1e-3
    assert memorisation(validation / 127.5 - 1, train, validation, **moves)["copies"] < 0.1
    assert memorisation(copies, train, validation)["copies"] < 0.5  # as they are


def test_the_moves_are_those_of_real_and_of_generated_images():
    assert generated.shift_and_flip({"shift": 3, "shift_fake": 5}) == {"shift": 5, "flip": False}
    assert generated.shift_and_flip({"flip": True}) == {"shift": 0, "flip": True}


def test_a_generator_that_copies_training_images_trips_it_and_a_sound_one_does_not():
    train, validation = images(300, 0), images(200, 1)
    copies = train[:64] / 127.5 - 1
    scores = memorisation(copies.astype(np.float32), train, validation)
    assert scores["copies"] == 1 and scores["nearest_train"] < 1e-3
    fresh = memorisation(images(64, 2) / 127.5 - 1, train, validation)
    assert fresh["copies"] <= 0.1
    assert fresh["nearest_train"] == pytest.approx(fresh["nearest_train_of_validation"], rel=0.1)


def test_without_validation_images_nothing_is_said():
    assert memorisation(np.zeros((4, 8, 8, 1)), images(9, 0), images(0, 1)) is None


def test_frechet_of_gaussians_is_the_closed_form():
    """0 of equal ones, |shift|^2 of moved ones, and (s - 1)^2 a direction of those scaled by s."""
    a = np.random.default_rng(0).normal(size=(500, 4))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + np.array([3, 0, 4, 0])) == pytest.approx(25, rel=1e-6)
    spread = np.trace(np.cov(a, rowvar=False))
    assert frechet(a - a.mean(0), 3 * (a - a.mean(0))) == pytest.approx(4 * spread, rel=1e-6)


def drawn(n, seed, features=4):
    return np.random.default_rng(seed).normal(size=(n, features))


def test_images_of_one_distribution_lie_among_each_other():
    scores = neighbourhoods(drawn(800, 0), drawn(800, 1), k=5)
    assert scores["density"] == pytest.approx(1, abs=0.1)
    assert scores["coverage"] == pytest.approx(1 - 2**-5, abs=0.03)
    assert min(scores["precision"], scores["recall"]) > 0.9


def test_collapsed_images_are_precise_and_cover_little_and_wild_ones_the_reverse():
    real = drawn(500, 0)
    one = neighbourhoods(0.05 * drawn(500, 1), real)  # all near the most likely image
    assert one["precision"] == 1 and one["density"] > 1.3
    assert one["recall"] < 0.1 and one["coverage"] < 0.3
    wild = neighbourhoods(5 * drawn(500, 1), real)
    assert wild["precision"] < 0.3 and wild["density"] < 0.1 and wild["recall"] > 0.9
    far = neighbourhoods(drawn(500, 1) + 100, real)
    assert set(far.values()) == {0.0}


def test_neighbourhoods_are_counted_as_defined():
    """On a line, with k = 1: real at 0, 1, 10 have balls of 1, 1, 9; generated at .5 and 30."""
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [30.0]])
    scores = neighbourhoods(fake, real, k=1)
    # .5 is in the balls of 0 and 1, and 9.5 away from 10; 30 is in none.
    assert scores["precision"] == 1 / 2 and scores["density"] == 2 / 2
    assert scores["coverage"] == 2 / 3
    assert scores["recall"] == 1  # both generated balls reach 29.5 far
