"""Scores of several runs whose test images overlap: means over runs, intervals over patients too.

Runs of one method with other seeds test other draws of the same patients. A t-interval over seeds
takes them for independent, and knows nothing of the patients that are not among them. Here runs and
patients are drawn with replacement, each for itself, and a patient is drawn for all runs at once
(the pigeonhole bootstrap of Owen 2007).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_gan_jax.evaluation.metrics import weighted_metrics


class Scored(NamedTuple):
    """The test images of a run: predictions, truth, and whose they are."""

    probs: np.ndarray  # [T,K]
    label: np.ndarray  # [T] int
    patient: np.ndarray  # [T] str
    threshold: float


class Pooled(NamedTuple):
    """A mean over runs, and its 95 % interval."""

    mean: float
    low: float
    high: float


def pooled(
    runs: Sequence[Scored],
    metrics: Sequence[str],
    baseline: Sequence[Scored] = (),
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Pooled]:
    """Each metric's mean over `runs`; minus that over `baseline`, if given.

    `baseline` has a run for each of `runs`, with the same test images. A replicate leaves out the
    runs in which its metric is undefined, such as AUROC of one class.
    """
    ids = np.unique(np.concatenate([run.patient for run in runs]))
    rng, n, p = np.random.default_rng(seed), len(runs), len(ids)
    # The first row is the sample itself: each run and each patient once.
    of_run = _times(rng, replicates, n)
    of_patient = _times(rng, replicates, p)

    def values(run: Scored) -> np.ndarray:
        weight = of_patient[:, np.searchsorted(ids, run.patient)]
        found = weighted_metrics(run.probs, run.label, run.threshold, weight)
        return np.stack([found[name] for name in metrics])  # [metrics,R+1]

    each = np.stack([values(run) for run in runs], -1)  # [metrics,R+1,n]
    if baseline:
        each = each - np.stack([values(run) for run in baseline], -1)
    count = of_run * ~np.isnan(each)
    with np.errstate(invalid="ignore"):  # no run of a replicate has the metric
        mean = (np.nan_to_num(each) * count).sum(-1) / count.sum(-1)
    spans = np.nanpercentile(mean[:, 1:], [2.5, 97.5], axis=1)
    rows = np.stack([mean[:, 0], *spans], axis=1).tolist()
    return {name: Pooled(*row) for name, row in zip(metrics, rows, strict=True)}


def _times(rng: np.random.Generator, replicates: int, n: int) -> np.ndarray:
    """How often each of n is drawn, [replicates + 1, n]; in the first row once each."""
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=replicates)
    return np.concatenate([np.ones((1, n)), drawn])
