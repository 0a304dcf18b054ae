"""Distances to training images, and what they say of a generator that copies."""

import numpy as np
import pytest

from ssl_gan_jax import quality
from ssl_gan_jax.quality import frechet, memorisation, nearest


def images(n, seed, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 1), dtype=np.uint8)


@pytest.mark.parametrize("block", [1024, 3])
def test_nearest_is_the_root_mean_square_over_pixels_to_the_nearest(block, monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", block)
    a, b = images(5, 0), images(7, 1)
    gaps = a.astype(float).reshape(5, 1, -1) - b.astype(float).reshape(1, 7, -1)
    np.testing.assert_allclose(nearest(a, b), np.sqrt((gaps**2).mean(-1)).min(1))


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
