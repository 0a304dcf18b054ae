"""What augmentation may do to a radiograph, and what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax import augment
from ssl_gan_jax.augment import strong, weak

SIDE = 32


def chest() -> jax.Array:
    """[1,32,32,1]: dark, with a bright spine, a heart to its right and a bright, wide abdomen."""
    rows, cols = jnp.mgrid[:SIDE, :SIDE] / SIDE
    spine = jnp.abs(cols - 0.5) < 0.06
    heart = (rows - 0.6) ** 2 + (cols - 0.63) ** 2 < 0.15**2
    x = jnp.where(spine | heart | (rows > 0.8), 0.7, -0.7)
    return x[None, :, :, None]


def correlation(a, b) -> np.ndarray:
    """Pearson's between each image of a and the one image b."""
    return np.array([np.corrcoef(np.ravel(x), np.ravel(b))[0, 1] for x in a])


@pytest.mark.parametrize("axis", [0, 1])
def test_strong_neither_mirrors_nor_inverts_and_stays_in_range(axis):
    """A ramp still rises in its direction: a mirrored one falls, and so does its negative."""
    ramp = jnp.linspace(-1, 1, SIDE).reshape((SIDE, 1) if axis == 0 else (1, SIDE))
    x = jnp.broadcast_to(ramp[None, ..., None], (300, SIDE, SIDE, 1))
    views = np.asarray(strong(jax.random.key(0), x))
    assert views.shape == x.shape and views.dtype == x.dtype
    assert views.min() >= -1 and views.max() <= 1
    assert (correlation(views, x[0]) > 0.5).all()


def test_strong_views_differ_between_images_and_keys_and_not_for_one_key():
    x = jnp.tile(chest(), (8, 1, 1, 1))
    a, b = strong(jax.random.key(0), x), strong(jax.random.key(1), x)
    assert (a == strong(jax.random.key(0), x)).all()
    assert len(np.unique(np.asarray(a).reshape(8, -1), axis=0)) == 8
    assert (np.asarray(a) != np.asarray(b)).any((1, 2, 3)).all()


def test_at_most_a_quarter_of_an_image_is_covered():
    x = jnp.tile(jnp.linspace(-1, 1, SIDE)[None, :, None, None], (300, 1, SIDE, 1))
    views = np.asarray(strong(jax.random.key(0), x))[..., 0]
    shares = []
    for view in views:
        _, counts = np.unique(view[(view > -1) & (view < 1)].round(6), return_counts=True)
        shares.append(counts.max() / view.size)
    assert max(shares) <= 0.25 + 0.06 and max(shares) > 0.15  # rows of equal pixels are 1/32 each


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_gradient_passes_through_and_is_finite_also_at_the_ends_of_the_range(value):
    x = jnp.full((16, SIDE, SIDE, 1), value)
    gradient = jax.grad(lambda x: jnp.square(strong(jax.random.key(0), x)).sum())(x)
    assert jnp.isfinite(gradient).all()
    if value == 0:
        assert (gradient != 0).any()


def test_an_affine_map_of_nothing_changes_nothing_and_a_quarter_turn_is_one():
    x = jax.random.uniform(jax.random.key(0), (3, 9, 9))
    at = jnp.zeros((3, 1, 1))
    np.testing.assert_allclose(augment._affine(x, at), x, atol=1e-6)
    np.testing.assert_allclose(
        augment._affine(x, at + 90), jnp.rot90(x, -1, axes=(1, 2)), atol=1e-5
    )


def test_a_blur_keeps_a_constant_image_to_its_edges():
    x = jnp.full((2, 9, 7), 0.3)
    np.testing.assert_allclose(augment._blur(x, jnp.array([0.2, 3.0])[:, None, None]), x, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_weak_rotation_is_small(seed):
    x = chest()
    (view,) = weak(jax.random.key(seed), x, shift=0, degrees=7.0)
    assert correlation([view], x)[0] > 0.85


def test_shift_moves_whole_pixels_and_repeats_edges():
    x = jnp.arange(2 * 6 * 6, dtype=jnp.float32).reshape(2, 6, 6, 1)
    found = set()
    for seed in range(30):
        for before, after in zip(x, weak(jax.random.key(seed), x, shift=2), strict=True):
            moves = [
                (dy, dx)
                for dy in range(-2, 3)
                for dx in range(-2, 3)
                if (
                    after
                    == jnp.pad(before, ((2, 2), (2, 2), (0, 0)), "edge")[
                        2 + dy : 8 + dy, 2 + dx : 8 + dx
                    ]
                ).all()
            ]
            assert len(moves) == 1
            found.add(moves[0])
    assert len(found) > 15  # of 25


def test_flip_mirrors_some_and_is_off_by_default():
    x = jnp.broadcast_to(jnp.arange(4.0).reshape(1, 1, 4, 1), (40, 4, 4, 1))
    flipped = (weak(jax.random.key(0), x, shift=0, flip=True) == x[:, :, ::-1]).all((1, 2, 3))
    assert 5 < flipped.sum() < 35
    assert (weak(jax.random.key(0), x, shift=0) == x).all()
