"""Scores pooled over runs that share patients."""

import numpy as np
import pytest

from ssl_gan_jax.evaluation import metrics
from ssl_gan_jax.evaluation.pooled import Scored, pooled

METRICS = ("accuracy", "auroc")


def run_on(seed, patients, noise=1.0, images=1):
    """A run on all images of these patients, with predictions of its own."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(patients, images)
    label = (patient % 2).astype(int)
    p = 1 / (1 + np.exp(-(2.0 * label - 1 + noise * rng.normal(size=len(label)))))
    return Scored(np.stack([1 - p, p], 1), label, patient.astype(str), 0.5)


def width(found, metric="accuracy"):
    return found[metric].high - found[metric].low


def test_one_run_has_the_bootstrap_over_patients():
    run = run_on(0, np.arange(200), images=3)
    found = pooled([run], METRICS)
    scores = metrics.report(run.probs, run.label, run.patient)
    for name in METRICS:
        assert found[name].mean == pytest.approx(scores[name]["value"])
        assert found[name].low == pytest.approx(scores[name]["low"], abs=0.01)
        assert found[name].high == pytest.approx(scores[name]["high"], abs=0.01)


def test_more_runs_on_the_same_patients_do_not_make_more_patients():
    """Equal runs add nothing; on patients of their own they would."""
    patients = np.arange(100)
    one = run_on(0, patients)
    same = width(pooled([one] * 8, METRICS))
    assert same == pytest.approx(width(pooled([one], METRICS)), rel=0.1)
    others = [run_on(s, patients + 100 * s) for s in range(8)]
    assert width(pooled(others, METRICS)) < 0.6 * same


def test_runs_count_as_drawn_too():
    """Two seeds that differ by much make a wide interval, however many patients there are."""
    good, bad = run_on(0, np.arange(5000), noise=0.1), run_on(1, np.arange(5000), noise=20.0)
    assert width(pooled([good, bad], METRICS)) > 0.4


def test_differences_are_of_runs_on_the_same_images():
    runs = [run_on(s, np.arange(60)) for s in range(4)]
    found = pooled(runs, METRICS, runs)
    assert all(tuple(found[name]) == (0, 0, 0) for name in METRICS)
    worse = [run._replace(probs=run.probs[:, ::-1]) for run in runs]
    found = pooled(runs, METRICS, worse)
    assert found["auroc"].low > 0
    assert found["auroc"].mean == pytest.approx(
        pooled(runs, METRICS)["auroc"].mean - pooled(worse, METRICS)["auroc"].mean
    )


def test_a_run_whose_metric_is_undefined_is_left_out():
    one_class = run_on(0, 2 * np.arange(20))
    run = run_on(1, np.arange(40))
    assert pooled([run, one_class], METRICS)["auroc"].mean == pooled([run], METRICS)["auroc"].mean
