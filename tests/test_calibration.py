"""Temperature, thresholds and OOD scores, each against its definition."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_gan_jax.data.dataset import Dataset
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.evaluation.calibration import Calibration, tempered
from ssl_gan_jax.training.result import fit_calibration


def drawn(n, seed=0, k=2):
    """Logits and labels drawn from them: calibrated as they are."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k))
    return logits, (tempered(logits, 1).cumsum(1) > rng.random((n, 1))).argmax(1)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_scale(scale, k):
    logits, label = drawn(4000, k=k)
    assert calibration.fit_temperature(scale * logits, label) == pytest.approx(scale, rel=0.1)


def test_temperature_lowers_the_calibration_error_of_logits_that_are_too_sure():
    logits, label = drawn(4000)
    error = [
        metrics.scores(tempered(3 * logits, t), label)["ece"]
        for t in (1, calibration.fit_temperature(3 * logits, label))
    ]
    assert error[1] < error[0] / 3


@pytest.mark.parametrize("n", [1, 2, 6])
def test_few_separated_images_do_not_make_sure(n):
    label = np.arange(n) % 2
    logits = 5.0 * np.eye(2)[label]
    probs = tempered(logits, calibration.fit_temperature(logits, label))
    assert probs.max() < 0.95


scores = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(scores, st.sampled_from([0.05, 0.5, 0.8, 0.9, 1.0]))
def test_fixed_sensitivity_is_reached_at_the_highest_threshold_that_reaches_it(pairs, target):
    """And fixed specificity at the lowest; many scores are equal, some 0 and some 1."""
    score, label = (np.array(part) for part in zip(*pairs, strict=True))
    if len(set(label)) < 2:
        return
    probs = np.stack([1 - score / 12, score / 12], 1)
    p = probs[:, 1]
    for kind, own, sign in (("sensitivity", p[label == 1], 1), ("specificity", p[label == 0], -1)):
        t = calibration.choose_threshold(probs, label, f"{kind}={target}")
        reached = [np.mean(own >= x if sign == 1 else own < x) for x in np.append(p, [t, 2.0])]
        others = [x for x, r in zip(np.append(p, [t, 2.0]), reached, strict=True) if r >= target]
        called = (p >= t).sum()
        assert called == (min if sign == 1 else max)((p >= x).sum() for x in others)


@pytest.mark.parametrize(("seed", "temperature"), [(0, 0.2), (1, 1.0), (2, 5.0)])
def test_tempered_thresholds_decide_as_the_raw_ones(seed, temperature):
    logits, label = drawn(60, seed)
    points = calibration.operating_points(logits, label, np.arange(60), temperature)
    assert set(points) == set(calibration.POINTS)
    for name, point in points.items():
        raw = calibration.choose_threshold(tempered(logits, 1), label, name)
        decisions = [
            metrics.decide(tempered(logits, temp), t)
            for temp, t in ((1, raw), (temperature, point["threshold"]))
        ]
        assert (decisions[0] == decisions[1]).all()
        spans = point["sensitivity"]
        assert spans["low"] <= spans["value"] <= spans["high"]


def features(n, seed=0):
    """A strong direction among 30, and weak noise."""
    rng = np.random.default_rng(seed)
    strong = np.random.default_rng(9).normal(size=(3, 30))
    return (rng.normal(size=(n, 3)) @ strong + 0.1 * rng.normal(size=(n, 30)) + 5).astype("f4")


def test_the_ood_score_is_the_mahalanobis_distance_of_a_covariance_of_few_directions():
    known, others, new = features(200), features(100, 1), features(50, 2) + np.float32(0.5)
    ood_detector = calibration.fit_ood_detector(known, others)
    covariance = np.cov(known.T.astype(float), bias=True)
    values, vectors = np.linalg.eigh(covariance)
    values[: -calibration.DIRECTIONS] = values[: -calibration.DIRECTIONS].mean()
    away = (new - known.mean(0)) @ vectors
    distance = (away**2 / values).sum(1)
    ratio = ood_detector.score(new) / distance
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    np.testing.assert_allclose(
        ood_detector.score(jnp.asarray(new)), ood_detector.score(new), rtol=1e-4
    )
    assert np.mean(ood_detector.score(others) > 1) == pytest.approx(0.01)
    assert (ood_detector.score(np.zeros((3, 30), "f4")) > 10).all()


@pytest.mark.parametrize(("n", "f"), [(4, 2), (2, 40), (5, 1), (2, 3), (40, 300)])
def test_the_ood_score_of_few_or_equal_images_is_finite(n, f):
    rng = np.random.default_rng(0)
    for known in (rng.normal(size=(n, f)), np.ones((n, f))):
        ood_detector = calibration.fit_ood_detector(known, rng.normal(size=(3, f)))
        assert np.isfinite(ood_detector.score(rng.normal(size=(7, f)))).all()


def test_a_saved_calibration_is_loaded_and_a_damaged_one_refused(tmp_path):
    logits, label = drawn(50)
    ood_detector = calibration.fit_ood_detector(features(20), features(10))
    made = calibration.fit(logits, label, np.arange(50), ood_detector)
    calibration.save(tmp_path, made)
    loaded = calibration.load(tmp_path, 0.7)
    assert (
        loaded.temperature == made.temperature and loaded.operating_points == made.operating_points
    )
    assert all((a == b).all() for a, b in zip(loaded.ood_detector, ood_detector, strict=True))
    for name in ("calibration.npz", "calibration.json"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"{name}.*ssl_gan_jax.calibration"):
            calibration.load(tmp_path, 0.7)
        (tmp_path / name).write_bytes(content)


def test_without_calibration_the_runs_threshold_holds(tmp_path):
    assert calibration.load(tmp_path, 0.7).threshold() == 0.7
    assert calibration.load(tmp_path, None).threshold() == 0.5


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_balanced_point_is_a_half_whatever_the_images_say(temperature):
    logits, label = drawn(60, 0)
    points = calibration.operating_points(logits, label, np.arange(60), temperature)
    assert points["balanced"]["threshold"] == pytest.approx(0.5)
    old = calibration.Calibration(temperature, {"youden": {"threshold": 0.3}}, None)
    assert old.threshold("balanced") == 0.5 and old.threshold() == 0.3


def test_operating_points_are_found_however_they_are_written():
    made = Calibration(1.0, {"sensitivity=0.9": {"threshold": 0.2}}, None)
    assert made.threshold("sensitivity=.90") == 0.2
    for wrong in ("sensitivity=.91", "sensitivity=high", "youdn"):
        with pytest.raises(UserError, match="operating point"):
            made.threshold(wrong)


def test_another_site_is_out_of_distribution_even_if_it_was_trained_on():
    image = np.random.default_rng(0).integers(0, 100, (90, 4, 4, 1), np.uint8)
    image[60:] += 150  # the target's
    source, validation, target = np.split(np.arange(90), 3)
    site = np.repeat(["source", "target"], [60, 30])
    label, blank = np.arange(90) % 2, np.repeat("", 90)
    found = Records(image, label, np.arange(90).astype(str), blank, blank, site, ("a", "b"), ())

    def classify(_, x):
        features = x.reshape(len(x), -1)
        return features[:, :2], features

    dataset = Dataset(found, labeled=source, unlabeled=target, val=validation, test=None)
    fitted, _ = fit_calibration(classify, None, dataset)
    _, features = metrics.batched(functools.partial(classify, None), image)
    score = fitted.ood_detector.score(features)
    assert (score[validation] < 1).mean() > 0.8
    assert (score[target] > 1).all()
    assert fitted.validation["other_sites"] == 30
    here, _ = fit_calibration(classify, None, dataset._replace(unlabeled=source))
    assert "other_sites" not in here.validation
