"""Another prior than in training: each function against simulated images of which all is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import prior_shift
from ssl_gan_jax.evaluation.calibration import choose_threshold, tempered

HALF = np.array([0.5, 0.5])


def scored(n, prior, seed=0, apart=2.0, train=HALF, moved=0.0):
    """Probabilities [n,2], exact at the prior `train`, and labels [n] at another; no sampling of y.

    A score is N(y * apart, 1); `moved` is added to those of the negative images alone.
    """
    rng = np.random.default_rng(seed)
    label = (np.arange(n) < round(prior * n)).astype(int)
    score = rng.normal(size=n) + apart * label + moved * (1 - label)
    logit = apart * score - apart**2 / 2 + np.log(train[1] / train[0])
    return tempered(np.stack([0 * logit, logit], 1), 1), label


def points(probs, label):
    """Operating points as a run stores them, with binomial intervals."""
    found = {}
    for name in ("youden", "sensitivity=0.8", "sensitivity=0.95", "specificity=0.9"):
        t, found[name] = choose_threshold(probs, label, name), {}
        for k, kind in ((1, "sensitivity"), (0, "specificity")):
            own = (probs[label == k, 1] >= t) == k
            wide = 1.96 * np.sqrt(own.mean() * (1 - own.mean()) / len(own))
            spans = {"value": own.mean(), "low": own.mean() - wide, "high": own.mean() + wide}
            found[name] |= {"threshold": t, kind: spans}
    return found


def found(probs):
    return prior_shift.estimate(probs, HALF)


priors = st.floats(0.05, 0.95)


@settings(max_examples=25, deadline=None)
@given(priors, priors, st.integers(0, 99))
def test_em_finds_the_prior_and_the_interval_holds_its_estimate(prior, train, seed):
    q = np.array([1 - train, train])
    probs, label = scored(4000, prior, seed, train=q)
    found = prior_shift.estimate(probs, q)
    assert found.sum() == pytest.approx(1) and found[1] == pytest.approx(label.mean(), abs=0.04)
    # The fixed point: the mean of the corrected probabilities.
    fixed = prior_shift.corrected(probs, q, found).mean(0)
    np.testing.assert_allclose(fixed, found, atol=1e-5)


def test_em_finds_the_prior_of_three_classes():
    rng, prior, train = np.random.default_rng(0), np.array([0.1, 0.3, 0.6]), np.ones(3) / 3
    label = rng.choice(3, 6000, p=prior)
    logits = 3 * (rng.normal(size=(6000, 3)) + 3 * np.eye(3)[label])  # log p(x | y), exactly
    found = prior_shift.estimate(tempered(logits, 1), train)
    np.testing.assert_allclose(found, np.bincount(label) / 6000, atol=0.02)


def test_the_interval_covers_the_prior_and_is_wider_where_patients_have_many_images():
    covered = 0
    for seed in range(20):
        probs, _ = scored(200, 0.3, seed)
        low, high = prior_shift.interval(probs, HALF, seed=seed)
        covered += low[1] <= 0.3 <= high[1]
    assert covered >= 17
    alike, patient = np.repeat(probs, 5, axis=0), np.repeat(np.arange(200), 5)
    of_images = prior_shift.interval(alike, HALF)
    of_patients = prior_shift.interval(alike, HALF, patient)
    assert np.ptp(of_images, 0)[1] < 0.6 * np.ptp(of_patients, 0)[1]
    np.testing.assert_allclose(np.ptp(of_patients, 0), np.ptp((low, high), 0), rtol=0.3)


@settings(max_examples=25, deadline=None)
@given(priors, priors, st.integers(0, 99))
def test_correction_with_the_training_prior_changes_nothing_and_can_be_undone(prior, train, seed):
    p, q = np.array([1 - prior, prior]), np.array([1 - train, train])
    probs, _ = scored(50, 0.5, seed)
    np.testing.assert_allclose(prior_shift.corrected(probs, q, q), probs, atol=1e-12)
    there = prior_shift.corrected(probs, q, p)
    np.testing.assert_allclose(there.sum(1), 1)
    np.testing.assert_allclose(prior_shift.corrected(there, p, q), probs, atol=1e-9)
    # Corrected probabilities are those of a classifier that learnt at the other prior.
    np.testing.assert_allclose(
        prior_shift.corrected(scored(50, 0.5, seed, train=q)[0], q, p),
        scored(50, 0.5, seed, train=p)[0],
        atol=1e-9,
    )


@settings(max_examples=25, deadline=None)
@given(priors, priors, st.floats(0.01, 0.99))
def test_a_kept_threshold_calls_the_same_images_positive(prior, train, threshold):
    p, q = np.array([1 - prior, prior]), np.array([1 - train, train])
    probs, _ = scored(200, 0.5)
    moved = prior_shift.moved_threshold(threshold, q, p, keep=True)
    called = prior_shift.corrected(probs, q, p)[:, 1] >= moved
    away = np.abs(probs[:, 1] - threshold) > 1e-9
    assert (called == (probs[:, 1] >= threshold))[away].all()
    for kept in (True, False):  # a threshold that no image reaches, or every image
        assert prior_shift.moved_threshold(1.5, q, p, kept) == 1.5
        assert prior_shift.moved_threshold(0.0, q, p, kept) == 0.0


def test_the_moved_point_of_youden_makes_the_fewest_errors():
    for train in (HALF, np.array([0.26, 0.74])):
        youden = choose_threshold(*scored(20000, 0.5, train=train), "youden")
        prior = np.array([0.9, 0.1])
        probs, label = scored(20000, 0.1, seed=1, train=train)
        new = prior_shift.corrected(probs, train, prior)[:, 1]
        threshold = prior_shift.moved_threshold(youden, train, prior)
        accuracy = [np.mean((new >= t) == label) for t in np.linspace(0, 1, 101)]
        assert threshold == pytest.approx(0.5, abs=0.05)
        assert np.mean((new >= threshold) == label) > max(accuracy) - 0.003
        assert np.mean((probs[:, 1] >= youden) == label) < max(accuracy) - 0.05


@pytest.mark.parametrize("prior", [0.05, 0.3, 0.6, 0.95])
def test_another_prior_is_no_drift(prior):
    validation = scored(600, 0.7)
    for seed in range(5):
        probs, _ = scored(500, prior, seed + 1)
        ood = np.random.default_rng(seed).uniform(0, 1.01, 500)  # 1 % above 1
        d = prior_shift.drift(probs[:, 1], ood, HALF, found(probs), points(*validation), 600)
        assert not d.vetoed and d.misfit < prior_shift.MISFIT and d.allowed == pytest.approx(0.02)


def test_images_that_moved_veto_the_estimate():
    """As on Kermany's test images: scores of normal images rise, and EM counts them."""
    validation = scored(600, 0.7, apart=4.0)
    near = np.full(600, 0.5)
    probs, _ = scored(600, 0.6, 1, apart=4.0, moved=2.0)
    assert found(probs)[1] > 0.7
    d = prior_shift.drift(probs[:, 1], near, HALF, found(probs), points(*validation), 600)
    assert d.vetoed and d.misfit > prior_shift.MISFIT and d.share == 0
    probs, _ = scored(600, 0.6, 1, apart=4.0)
    for share in (0.05, 1.0):  # features far from training's, whatever the scores
        far = np.where(np.arange(600) < share * 600, 2.0, 0.5)
        d = prior_shift.drift(probs[:, 1], far, HALF, found(probs), points(*validation), 600)
        assert d.vetoed and d.share == pytest.approx(share)
    assert prior_shift.drift(
        probs[:, 1], np.full(600, np.nan), HALF, HALF
    ).vetoed  # it cannot be known
    few = prior_shift.drift(probs[:20, 1], np.append(2.0, near[:19]), HALF, HALF)
    assert not few.vetoed and np.isnan(few.misfit)  # one of 20 may be


def test_the_training_prior_is_even_with_a_budget_and_that_of_the_labels_without():
    splits = {"labelled": {"classes": {"well": 30, "ill": 10}}}
    result = {"classes": ["well", "ill"], "labels_per_class": 5, "images": None, "splits": splits}
    assert prior_shift.training_prior(result).tolist() == [0.5, 0.5]
    result |= {"labels_per_class": None, "images": 10}
    assert prior_shift.training_prior(result).tolist() == [0.5, 0.5]
    result |= {"images": None}
    assert prior_shift.training_prior(result).tolist() == [0.75, 0.25]
    del result["splits"]
    with pytest.raises(UserError, match="earlier versions"):
        prior_shift.training_prior(result)
