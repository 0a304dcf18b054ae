import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ssl_gan_jax import losses
from ssl_gan_jax.methods import ssl_gan, three_n_gan

LOGITS = jax.random.normal(jax.random.key(0), (6, 3)) * 2
Y = jnp.array([0, 1, 0, 1, 1, 0])


def softmax(logits):
    e = np.exp(np.asarray(logits, np.float64))
    return e / e.sum(-1, keepdims=True)


def test_k_plus_1_terms_equal_the_softmax_that_the_paper_writes():
    p = softmax(LOGITS)  # K = 2, the third class is "generated"
    labelled = [-np.log(p[i, y] / (1 - p[i, 2])) for i, y in enumerate(Y)]
    unlabelled, generated = -np.log(1 - p[:, 2]), -np.log(p[:, 2])
    np.testing.assert_allclose(ssl_gan.loss_labeled(LOGITS, Y), np.mean(labelled), rtol=1e-4)
    np.testing.assert_allclose(ssl_gan.loss_unlabeled(LOGITS), unlabelled.mean(), rtol=1e-4)
    np.testing.assert_allclose(ssl_gan.loss_generated(LOGITS), generated.mean(), rtol=1e-4)


def test_k_logits_are_k_plus_1_with_the_last_at_0():
    shifted = LOGITS - LOGITS[:, 2:]  # the same softmax, its last logit 0
    for term in (ssl_gan.loss_unlabeled, ssl_gan.loss_generated):
        np.testing.assert_allclose(term(LOGITS), term(shifted), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_k_plus_1_terms_are_finite_far_out_and_so_are_their_gradients(scale):
    for term in (ssl_gan.loss_unlabeled, ssl_gan.loss_generated):
        value, grad = jax.value_and_grad(lambda x, t=term: t(x).sum())(LOGITS * scale)
        assert jnp.isfinite(value) and jnp.isfinite(grad).all()


def test_gradients_of_every_term():
    terms = [
        lambda x: ssl_gan.loss_labeled(x, Y),
        lambda x: ssl_gan.loss_unlabeled(x),
        lambda x: ssl_gan.loss_generated(x),
        lambda x: losses.cross_entropy(x, Y),
        lambda x: losses.bce_real(x) + losses.bce_fake(x),
        lambda x: losses.kl(jax.nn.log_softmax(x), jax.nn.log_softmax(x[::-1])),
    ]
    for term in terms:
        check_grads(term, (LOGITS,), order=1, modes=["rev"], rtol=1e-2)


def test_real_and_fake_terms_are_binary_cross_entropy():
    d = 1 / (1 + np.exp(-np.asarray(LOGITS[:, 0], np.float64)))
    np.testing.assert_allclose(losses.bce_real(LOGITS[:, 0]), -np.log(d).mean(), rtol=1e-5)
    np.testing.assert_allclose(losses.bce_fake(LOGITS[:, 0]), -np.log(1 - d).mean(), rtol=1e-5)


@pytest.mark.parametrize("mean", ["kept", "batch"])
def test_pseudo_label_by_hand(mean):
    logits = jnp.array([[3.0, 0.0], [0.1, 0.0], [0.0, 4.0], [0.0, 0.2]])
    got = losses.pseudo_label(logits, tau=0.9, mean=mean)
    nll = [-np.log(softmax(logits)[0, 0]), -np.log(softmax(logits)[2, 1])]
    np.testing.assert_allclose(got.loss, sum(nll) / {"kept": 2, "batch": 4}[mean], rtol=1e-5)
    assert got.mask_rate == 0.5 and got.counts.tolist() == [1, 1]


def test_no_gradient_through_a_pseudo_label():
    target = jax.nn.softmax(LOGITS)  # held constant
    grad = jax.grad(lambda x: losses.pseudo_label(x, 0.0, soft=True).loss)(LOGITS)
    expected = jax.grad(lambda x: -(target * jax.nn.log_softmax(x)).sum(-1).mean())(LOGITS)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_with_nothing_kept_loss_and_gradient_are_exactly_0():
    loss, grad = jax.value_and_grad(lambda x: losses.pseudo_label(x, 0.9999).loss)(LOGITS)
    assert loss == 0 and (grad == 0).all()


def test_kl_by_hand_and_its_zero():
    p, q = softmax(LOGITS), softmax(LOGITS[::-1])
    got = losses.kl(jnp.log(p), jnp.log(q))
    np.testing.assert_allclose(got, (p * np.log(p / q)).sum(-1).mean(), rtol=1e-4)
    assert losses.kl(jnp.log(p), jnp.log(p)) == 0


def test_marginal_kl_compares_batch_means_and_leaves_the_real_side_alone():
    real, fake = LOGITS, LOGITS[:, ::-1] * 0.5
    config = three_n_gan.Config()
    p, q = softmax(real).mean(0), softmax(fake).mean(0)
    got, (grad_real, grad_fake) = jax.value_and_grad(three_n_gan.loss_kl, (0, 1))(
        real, fake, config
    )
    np.testing.assert_allclose(got, (p * np.log(p / q)).sum(), rtol=1e-4)
    assert (grad_real == 0).all() and (grad_fake != 0).any()
    shuffled = three_n_gan.loss_kl(real, fake[jnp.array([3, 1, 0, 5, 4, 2])], config)
    np.testing.assert_allclose(got, shuffled, rtol=1e-5)  # it pairs nothing
