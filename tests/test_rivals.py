"""The methods without a generator, and Triple-GAN: where each term's gradient goes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import method_config, same, started

from ssl_gan_jax import train
from ssl_gan_jax.config import base
from ssl_gan_jax.losses import consistency, entropy, pull_away, ramp_up
from ssl_gan_jax.methods import fixmatch, mixmatch, triple_gan

LATER = 400  # steps, after which every ramp is over


def c_after(name, step=LATER, labels=None, **changes):
    """C's weights after one step from step `step`, and the metrics."""
    method, state, first = started(name, **changes)
    if labels is not None:
        first = first.replace(label=labels)
    after, metrics = jax.jit(method.train_step)(state.replace(step=jnp.int32(step)), first)
    return after.players["C"].params, metrics


def test_consistency_teaches_the_student_and_not_its_target():
    logits, q = jnp.array([[1.0, -1.0], [0.5, 2.0]]), jnp.array([[0.2, 0.8], [0.5, 0.5]])
    student, target = jax.grad(consistency, (0, 1))(logits, q)
    assert (student != 0).all() and (target == 0).all()
    p = jax.nn.softmax(logits)
    np.testing.assert_allclose(consistency(logits, q), jnp.square(p - q).sum(1).mean() / 2)
    assert consistency(logits, p) == 0


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("mean_teacher", "w"),
        ("fixmatch", "lambda_"),
        ("mixmatch", "lambda_"),
        ("triple_gan", "a_h"),
    ],
)
def test_the_unlabelled_term_moves_the_classifier(name, weight):
    changes = {"tau": 0.0} if name == "fixmatch" else {}
    without, _ = c_after(name, **changes, **{weight: 0.0})
    with_term, _ = c_after(name, **changes)
    assert not same(without, with_term)


@pytest.mark.parametrize("name", ["mean_teacher", "mixmatch"])
def test_a_ramp_begins_at_0_and_ends_at_the_weight(name):
    key = "w" if name == "mean_teacher" else "lambda"
    weights = [float(c_after(name, step)[1][key]) for step in (0, 200, 400, 900)]
    last = method_config(name)["w" if name == "mean_teacher" else "lambda_"]
    np.testing.assert_allclose(weights, [0, last / 2, last, last])
    assert ramp_up(jnp.int32(1), 0) == 1


def test_the_teacher_is_the_average_and_with_ema_0_the_student():
    for decay, same_weights in ((0.9, False), (0.0, True)):
        method, state, first = started("mean_teacher", ema=decay)
        step = jax.jit(method.train_step)
        for _ in range(2):
            state, _ = step(state, first)
        c = state.players["C"]
        assert same(c.params, c.ema["params"]) == same_weights
        # J compares with the average: another average gives another J at the same weights.
        moved = c.replace(ema=jax.tree.map(lambda x: x * 1.5, c.ema))
        j = [step(state.replace(players={"C": player}), first)[1]["J"] for player in (c, moved)]
        assert j[0] != j[1]


def test_fixmatch_keeps_what_reaches_the_threshold():
    q = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])
    logits = jnp.array([[0.3, -0.2], [1.0, 0.0], [0.5, 0.1]])
    got = fixmatch.loss_unlabeled(logits, q, 0.75)  # exactly the first one's
    log_p = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(got.loss, -(log_p[0, 0] + log_p[2, 1]) / 3, rtol=1e-6)
    np.testing.assert_allclose(got.mask_rate, 2 / 3)
    assert got.counts.tolist() == [1, 1]
    gradient = jax.grad(lambda x: fixmatch.loss_unlabeled(x, q, 0.75).loss)(logits)
    assert (gradient[1] == 0).all() and (gradient[jnp.array([0, 2])] != 0).all()
    nothing = jax.grad(lambda x: fixmatch.loss_unlabeled(x, q, 0.9).loss)(logits)
    assert (nothing == 0).all() and fixmatch.loss_unlabeled(logits, q, 0.9).loss == 0


def test_alignment_leaves_a_matched_distribution_alone_and_moves_others():
    q = jax.nn.softmax(jax.random.normal(jax.random.key(0), (64, 3)))
    np.testing.assert_allclose(fixmatch.aligned(q, q[::-1]), q, atol=1e-6)
    p = jnp.tile(jnp.array([[0.6, 0.3, 0.1]]), (8, 1))
    moved = fixmatch.aligned(q, p)
    np.testing.assert_allclose(moved.sum(1), 1, rtol=1e-6)
    assert jnp.abs(moved.mean(0) - p[0]).sum() < jnp.abs(q.mean(0) - p[0]).sum()


def test_a_relative_threshold_is_lower_where_labelled_images_are_uncertain():
    strict = c_after("fixmatch", tau=0.9)[1]["mask_rate"]
    relative = c_after("fixmatch", tau=0.9, relative=True)[1]["mask_rate"]
    assert relative > strict


def test_sharpening_keeps_the_order_and_the_sum():
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (16, 4)))
    np.testing.assert_allclose(mixmatch.sharpen(p, 1.0), p, rtol=1e-4)
    sharp = mixmatch.sharpen(p, 0.5)
    np.testing.assert_allclose(sharp, p**2 / (p**2).sum(1, keepdims=True), rtol=1e-4)
    assert (sharp.max(1) >= p.max(1)).all() and (sharp.argmax(1) == p.argmax(1)).all()


def test_mixup_stays_nearer_to_the_first_of_a_pair_and_within_both():
    x = jax.random.uniform(jax.random.key(0), (32, 4, 4, 1), minval=-1)
    p = jax.nn.one_hot(jnp.arange(32) % 3, 3)
    order = jax.random.permutation(jax.random.key(1), 32)
    images, labels = mixmatch.mixup(jax.random.key(2), x, p, order, 0.75)
    assert images.shape == x.shape and labels.shape == p.shape
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)
    assert (jnp.take_along_axis(labels, p.argmax(1)[:, None], 1) >= 0.5).all()
    low, high = jnp.minimum(x, x[order]), jnp.maximum(x, x[order])
    assert ((images >= low - 1e-6) & (images <= high + 1e-6)).all()
    to_first, to_other = (jnp.abs(images - y).sum((1, 2, 3)) for y in (x, x[order]))
    assert (to_first <= to_other + 1e-4).all()


def test_triple_gans_discriminator_reads_the_label():
    logits, y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])
    assert triple_gan.pair_logit(logits, y).tolist() == [2.0, 3.0]


def test_triple_gans_generated_images_teach_the_classifier_after_the_ramp_alone():
    early = [c_after("triple_gan", step=0, a_p=a_p)[0] for a_p in (0.0, 1.0)]
    late = [c_after("triple_gan", step=LATER, a_p=a_p)[0] for a_p in (0.0, 1.0)]
    assert same(*early) and not same(*late)


def test_entropy_and_pull_away_by_hand():
    np.testing.assert_allclose(entropy(jnp.zeros((3, 4))), np.log(4), rtol=1e-6)
    assert entropy(jnp.array([[90.0, -90.0]])) < 1e-6
    f = jax.random.normal(jax.random.key(0), (5, 7))
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    cos = [f[i] @ f[j] / (jnp.linalg.norm(f[i]) * jnp.linalg.norm(f[j])) for i, j in pairs]
    np.testing.assert_allclose(pull_away(f), np.mean(np.square(cos)), rtol=1e-5)


@functools.cache
def ssl_gan_after(**changes):
    """The players after a step, and the metrics."""
    method, state, first = started("ssl_gan", **changes)
    after, metrics = jax.jit(method.train_step)(state, first)
    return after.players, metrics


@pytest.mark.parametrize(
    ("option", "player"),
    [("consistency", "D"), ("entropy", "D"), ("manifold", "D"), ("pull_away", "G")],
)
def test_each_added_term_of_ssl_gan_moves_its_player_by_its_weight(option, player):
    without, plain = ssl_gan_after()
    with_term, metrics = ssl_gan_after(student="strong", teacher="average", **{option: 3.0})
    assert all(jnp.isfinite(value) for value in metrics.values())
    assert not same(without[player].params, with_term[player].params)
    if player == "D":
        term = metrics[f"L_{option}"]
        assert term > 0 and f"L_{option}" not in plain
        np.testing.assert_allclose(metrics["L"] - plain["L"], 3 * term, rtol=1e-3)


def test_ssl_gans_teacher_is_the_average_of_its_discriminator():
    method, state, first = started("ssl_gan", consistency=1.0, teacher="average")
    step = jax.jit(method.train_step)
    d = state.players["D"]
    moved = d.replace(ema=jax.tree.map(lambda x: x * 1.5, d.ema))
    terms = [
        step(state.replace(players={**state.players, "D": player}), first)[1]["L_consistency"]
        for player in (d, moved)
    ]
    assert terms[0] != terms[1]


@pytest.mark.parametrize("name", ["mean_teacher", "fixmatch", "mixmatch", "triple_gan"])
def test_each_learns_the_phantom_better_than_chance(name, tmp_path):
    config = base(name, data="phantom", size=16)
    config.data.update(labels_per_class=100, test=0.4, options={"images": 600, "site": "A"})
    config.method.update(width=8, shift=1, ema=0.98)
    rates = [key for key in config.method if key.startswith("lr")]
    config.method.update(dict.fromkeys(rates, 2e-3))
    if "ramp" in config.method:
        config.method.ramp = 40
    config.train.update(steps=100, batch_size=16, evaluate_every=50, log_every=50)
    assert train.run(config, tmp_path)["test"]["auroc"]["low"] > 0.5
