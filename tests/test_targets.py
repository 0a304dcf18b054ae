"""Several findings in one image: the losses against their definitions, and every method."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import METHODS, batch, method_config, same

import ssl_gan_jax
from ssl_gan_jax import losses, methods, targets
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.methods import ssl_gan
from ssl_gan_jax.targets import CLASSES, FINDINGS

OUT = jax.random.normal(jax.random.key(0), (6, 4)) * 2  # a_1..a_3 and b
LABEL = jnp.array([[1, 0, 1], [0, 0, 0], [1, -1, 0], [-1, -1, 1], [1, 1, 1], [-1, -1, -1]])
ABLE = [name for name in METHODS if name not in ("mixmatch", "triple_gan")]


def test_the_axes_of_the_labels_say_which_kind_they_are():
    assert targets.of(LABEL) is FINDINGS and targets.of(LABEL[:, 0]) is CLASSES
    assert targets.of(np.zeros((3, 1))) is FINDINGS


def test_z_is_the_sum_over_all_label_vectors():
    a, b = np.asarray(OUT[:, :-1], np.float64), np.asarray(OUT[:, -1], np.float64)
    vectors = np.array(list(itertools.product([0, 1], repeat=3)))  # [8,3]
    s = b[:, None] + (a[:, None] * (vectors - 0.5)).sum(-1)  # [6,8]
    np.testing.assert_allclose(FINDINGS.real_logit(OUT), np.log(np.exp(s).sum(1)), rtol=1e-5)
    p = np.exp(s) / np.exp(s).sum(1, keepdims=True)  # of each vector, given that it is real
    for k in range(3):
        present = p[:, vectors[:, k] == 1].sum(1)
        np.testing.assert_allclose(jax.nn.sigmoid(OUT[:, k]), present, rtol=1e-5)
        two = jax.nn.softmax(FINDINGS.choices(OUT[:, :-1]))[:, k]
        np.testing.assert_allclose(two, np.stack([1 - present, present], 1), rtol=1e-4)
    # The loss of a label vector is the mean over its findings of -log p(y_k | x).
    y = LABEL[:2]
    whole = [-np.log(p[i, (vectors == np.asarray(y[i])).all(1)][0]) for i in range(2)]
    got = ssl_gan.loss_labeled(OUT[:2], y)
    np.testing.assert_allclose(got, np.sum(whole) / 6, rtol=1e-5)


def test_one_finding_is_the_loss_of_two_classes():
    classes = jax.random.normal(jax.random.key(1), (6, 3)) * 3  # l_0, l_1, l_fake
    l_0, l_1, fake = classes.T
    findings = jnp.stack([l_1 - l_0, (l_0 + l_1) / 2 - fake], axis=1)
    y = jnp.array([0, 1, 1, 0, 1, 0])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(FINDINGS.real_logit(findings), CLASSES.real_logit(classes))
    close(ssl_gan.loss_labeled(findings, y[:, None]), ssl_gan.loss_labeled(classes, y))
    for term in (ssl_gan.loss_unlabeled, ssl_gan.loss_generated):
        close(term(findings, FINDINGS), term(classes))
    p, q = FINDINGS.choices(findings[:, :1]), classes[:, :2]
    close(losses.entropy(p), losses.entropy(q))
    close(losses.consistency(p, jax.nn.softmax(-p)), losses.consistency(q, jax.nn.softmax(-q)))
    for mean in ("kept", "batch"):
        got, expected = (losses.pseudo_label(x, 0.8, mean) for x in (p, q))
        jax.tree.map(close, got, expected)


def test_labels_that_are_not_known_have_no_part():
    def loss(out, y):
        return losses.cross_entropy(out, y)

    known = np.asarray(LABEL) >= 0
    p = np.asarray(jax.nn.sigmoid(OUT[:, :3]), np.float64)
    terms = -np.log(np.where(np.asarray(LABEL) == 1, p, 1 - p))
    np.testing.assert_allclose(loss(OUT[:, :3], LABEL), terms[known].mean(), rtol=1e-5)
    grad = jax.grad(loss)(OUT[:, :3], LABEL)
    assert ((grad != 0) == known).all()
    nothing, grad = jax.value_and_grad(loss)(OUT[:, :3], -jnp.ones_like(LABEL))
    assert nothing == 0 and (grad == 0).all()


def test_real_images_are_pushed_to_neither_side():
    """z is even in every a_k: the reason of the -1/2."""
    flipped = OUT * jnp.array([-1, 1, -1, 1])
    np.testing.assert_allclose(FINDINGS.real_logit(OUT), FINDINGS.real_logit(flipped), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_terms_are_finite_far_out_and_so_are_their_gradients(scale):
    terms = (
        lambda x: ssl_gan.loss_labeled(x, LABEL),
        lambda x: ssl_gan.loss_unlabeled(x, FINDINGS),
        lambda x: ssl_gan.loss_generated(x, FINDINGS),
    )
    for term in terms:
        value, grad = jax.value_and_grad(term)(OUT * scale)
        assert jnp.isfinite(value) and jnp.isfinite(grad).all()
        if scale == 1:
            check_grads(term, (OUT,), order=1, modes=["rev"], rtol=1e-2)


def started(name, label, **changes):
    method = ssl_gan_jax.build(method_config(name, num_classes=3, **changes))
    first = batch(name).replace(label=label)
    return method, jax.jit(method.init)(jax.random.key(0), first), first


@pytest.mark.parametrize("name", ABLE)
def test_every_method_that_can_takes_a_step_and_predicts_each_finding(name):
    added = {"consistency": 1.0, "entropy": 0.1, "manifold": 1e-3, "pull_away": 0.8}
    changes = {"tau": 0.0} if "tau" in method_config(name) else {}
    changes |= added if name == "ssl_gan" else {}
    label = jnp.concatenate([LABEL, LABEL[:2]]).astype(jnp.int32)
    method, state, first = started(name, label, **changes)
    step = jax.jit(method.train_step)
    after, metrics = step(state, first)
    assert all(jnp.isfinite(v) and v.shape == () for v in metrics.values())
    for player in state.players:
        assert not same(state.players[player].params, after.players[player].params)
    if method.classify:
        assert method.classify(after, first.image)[0].shape == (8, 3)
        other, _ = step(state, first.replace(label=1 - jnp.maximum(label, 0)))
        player = "C" if "C" in state.players else "D"
        assert not same(after.players[player].params, other.players[player].params)


@pytest.mark.parametrize("name", sorted({*METHODS} - {*ABLE}))
def test_a_method_without_such_a_loss_is_refused_by_name(name):
    label = jnp.zeros((8, 3), jnp.int32)
    with pytest.raises(UserError, match=f"{name} cannot learn several findings; dcgan, .*ssl_gan"):
        started(name, label)
    assert not hasattr(methods._module(name), "FINDINGS")


def test_d_without_its_last_output_is_refused():
    with pytest.raises(UserError, match="method.k_logits"):
        started("ssl_gan", jnp.zeros((8, 3), jnp.int32), k_logits=True)
