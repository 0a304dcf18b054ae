"""What a player does, whatever its network: it can be called, learns, and generates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from tiny import same

from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.player import Player, adam

KEY = jax.random.key(0)
X = jnp.tanh(jax.random.normal(jax.random.key(1), (6, 16, 16, 1)))
OTHER = 0.3 * jnp.tanh(jax.random.normal(jax.random.key(2), (4, 16, 16, 1))) - 0.5


def discriminator(norm="batch", **changes):
    net = Discriminator(2, width=4, norm=norm, **changes)
    return Player.create(net, adam(1e-2, 0.5), 0.9, KEY, X)


def mean_of_all(*logits):
    loss = sum(x.mean() for x in logits)
    return loss, {"loss": loss}


@pytest.mark.parametrize("norm", ["batch", "weight"])
def test_batches_of_one_call_do_not_see_each_other(norm):
    d = discriminator(norm)
    both = d(X, OTHER, key=KEY)
    for logits, x in zip(both, (X, OTHER), strict=True):
        np.testing.assert_allclose(logits, d(x, key=KEY), rtol=1e-4, atol=1e-6)
    features = d.features(X, OTHER, key=KEY)
    np.testing.assert_allclose(features[1], d.features(OTHER, key=KEY), rtol=1e-4, atol=1e-6)


def test_a_network_without_batch_statistics_runs_once_for_all_batches():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            calls.append(len(x))
            return nn.Dense(1)(x.reshape(len(x), -1)), x

    d = Player.create(Counted(), adam(1e-2, 0.5), 0.9, KEY, X)
    calls.clear()
    logits = d(X, OTHER, key=KEY)
    assert calls == [10] and [len(part) for part in logits] == [6, 4]


def test_a_player_is_unchanged_by_calls_and_by_learning():
    d = discriminator()
    before = jax.tree.map(jnp.copy, d)
    d(X, OTHER, key=KEY)
    learned, metrics = d.learn(mean_of_all, X, OTHER, key=KEY, step=jnp.int32(0))
    assert same(d, before) and not same(learned.params, before.params)
    assert not same(learned.stats, before.stats) and set(metrics) == {"loss"}


def test_running_statistics_are_those_of_the_tracked_batches():
    d = discriminator()
    first, _ = d.learn(mean_of_all, X, key=KEY, step=jnp.int32(0))
    tracked, _ = d.learn(mean_of_all, X, OTHER, key=KEY, step=jnp.int32(0), tracked=1)
    both, _ = d.learn(mean_of_all, X, OTHER, key=KEY, step=jnp.int32(0))
    for a, b in zip(jax.tree.leaves(first.stats), jax.tree.leaves(tracked.stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert not same(both.stats, tracked.stats)


def test_noise_differs_between_the_batches_of_a_call_and_between_keys():
    d = discriminator(noise=0.5)
    first, second = d(X, X, key=KEY)
    assert not same(first, second)
    assert not same(d(X, key=KEY), d(X, key=jax.random.key(9)))


def test_generated_images_teach_the_generator_in_one_forward_pass():
    g = Player.create(Generator(16, width=4), adam(1e-2, 0.5), 0.9, KEY, jnp.ones((6, 5)))
    z, d = jax.random.normal(KEY, (6, 5)), discriminator()

    def loss(images):
        value = d(2 * images, key=KEY).mean()
        return value, {"loss": value}

    learned, _ = g.generate(z, KEY).learn(loss, jnp.int32(0))
    through = g.generate(z, KEY, then=lambda images: 2 * images)
    assert (through.images == 2 * g.generate(z, KEY).images).all()
    by_hand = jax.grad(lambda params: loss(g.replace(params=params).generate(z, KEY).images)[0])(
        g.params
    )
    expected = g.update(by_hand, g.generate(z, KEY).stats, jnp.int32(0))
    for a, b in zip(jax.tree.leaves(learned), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
