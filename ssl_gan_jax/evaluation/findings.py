"""Scores and calibration of images with several findings: each finding as two classes.

A finding is scored by `metrics` and `calibration` as the class "present" against "absent", on the
images in which it is known. `targets.findings_in` sends labels [N,K] from their functions to those
of the same name here, with probabilities and logits [N,K], and thresholds [K] or one for all.

The metrics of all findings together are means over the findings that the images both show and lack
(over all if there is none, so without AUROC and AUPRC). The interval of a mean comes from one
bootstrap over all patients; a replicate's mean leaves out findings that it leaves undefined.
"""

import csv
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.evaluation.metrics import METRICS
from ssl_gan_jax.files import atomic_write, csv_cell


class Finding(NamedTuple):
    """What metrics of two classes take, of the n images in which a finding is known."""

    known: np.ndarray  # [N] bool
    probs: np.ndarray  # [n,2]
    label: np.ndarray  # [n] in {0, 1}
    threshold: float
    logits: np.ndarray | None  # [n,2]

    @property
    def is_learnable(self) -> bool:
        """Whether some images show it, and others lack it."""
        return len(np.unique(self.label)) == 2


def each(
    probs: np.ndarray,
    label: np.ndarray,
    threshold: float | Sequence[float] = 0.5,
    logits: np.ndarray | None = None,
) -> Iterator[Finding]:
    """The findings of `probs` and `label`, [N,K]."""
    probs, label = np.asarray(probs, np.float64), np.asarray(label)
    if probs.shape != label.shape:
        raise ValueError(f"expected probs and label [N,K], got {probs.shape}, {label.shape}")
    if not np.isfinite(probs).all():
        raise ValueError("probabilities are not all finite")
    for k, t in enumerate(np.broadcast_to(threshold, label.shape[1]).tolist()):
        known = label[:, k] >= 0
        p = probs[known, k]
        of_finding = None if logits is None else pairs(logits[known, k])
        yield Finding(known, np.stack([1 - p, p], axis=1), label[known, k], t, of_finding)


def scored(found: Sequence[Finding]) -> Sequence[Finding]:
    """The findings that have a part in the means."""
    return [f for f in found if f.is_learnable] or found


def pairs(logit: np.ndarray) -> np.ndarray:
    """The logits [N,2] of "absent" and "present" for those [N] of a finding."""
    return np.stack([-logit / 2, logit / 2], axis=1)


def scores(
    probs: np.ndarray,
    label: np.ndarray,
    threshold: float | Sequence[float] = 0.5,
    logits: np.ndarray | None = None,
) -> dict[str, Any]:
    """n, the number of findings that images both show and lack, and the means of METRICS."""
    found = list(each(probs, label, threshold, logits))
    parts = [_weighted(f, np.ones((1, len(label)))) for f in scored(found)]
    values = {name: _mean([part[name] for part in parts]) for name in METRICS}
    return {
        "n": int((np.asarray(label) >= 0).any(axis=1).sum()),
        "threshold": None,
        "findings_scored": sum(f.is_learnable for f in found),
        **{k: None if np.isnan(v[0]) else float(v[0]) for k, v in values.items()},
    }


def report(
    probs: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray | Sequence,
    threshold: float | Sequence[float] = 0.5,
    *,
    logits: np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """As `metrics.report`; in "findings", the report of each, with the number that are present."""
    patient, found = np.asarray(patient), list(each(probs, label, threshold, logits))
    values = scores(probs, label, threshold, logits)
    how = {"replicates": replicates, "seed": seed}
    chunks = [
        [_weighted(f, weight) for f in scored(found)]
        for weight in metrics._bootstrap_weights(patient, replicates, seed)
    ]
    for name in METRICS:
        low, high = metrics._interval([_mean([f[name] for f in chunk]) for chunk in chunks])
        values[name] = {"value": values[name], "low": low, "high": high}
    reports = [
        metrics.report(f.probs, f.label, patient[f.known], f.threshold, logits=f.logits, **how)
        | {"present": int(f.label.sum())}
        for f in found
    ]
    return values | {"patients": len(np.unique(patient)), "findings": reports}


def choose_threshold(probs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The threshold of each finding, [K]; .5 for one that the images do not both show and lack."""
    return np.array([metrics.choose_threshold(f.probs, f.label) for f in each(probs, label)])


def decisions(
    probs: np.ndarray, threshold: float | Sequence[float], findings: Sequence[str]
) -> list[str]:
    """The findings of each image whose probability reaches the threshold: "a|b", or "none"."""
    shown = (np.asarray(probs) >= threshold).tolist()
    names = ([name for name, is_on in zip(findings, row, strict=True) if is_on] for row in shown)
    return ["|".join(some) or "none" for some in names]


def write_predictions(
    path: str | Path,
    names: Sequence[str],
    label: np.ndarray,
    probs: np.ndarray,
    classes: Sequence[str],
    threshold: float | Sequence[float] = 0.5,
) -> None:
    """Writes predictions.csv: path, label_<finding> and p_<finding> of each, decision.

    A label is 1 or 0, or empty if it is not known.
    """
    head = ["path", *(f"label_{k}" for k in classes), *(f"p_{k}" for k in classes), "decision"]
    truth = [["" if y < 0 else y for y in row] for row in np.asarray(label).tolist()]
    called = decisions(probs, threshold, classes)
    rows = zip(names, truth, np.asarray(probs, np.float64).tolist(), called, strict=True)
    with atomic_write(path, newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        table.writerows([csv_cell(name), *y, *p, csv_cell(call)] for name, y, p, call in rows)


def fit(
    logits: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    ood_detector: calibration.OodDetector | None,
) -> calibration.Calibration:
    """As `calibration.fit`, a temperature and operating points for each finding.

    A finding that the images do not both show and lack keeps the temperature 1 and threshold .5.
    """
    fitted = []
    for f in each(np.zeros(label.shape), label, logits=logits):
        if f.is_learnable:
            fitted.append(calibration.fit(f.logits, f.label, patient[f.known], None))
        else:
            fitted.append(calibration.Calibration(1.0, {}, None, {}))
    errors = [c.validation for c in fitted if c.validation]
    validation = {"n": len(label), "patients": len(np.unique(patient))}
    for key in ("ece_before", "ece"):
        validation[key] = float(np.mean([e[key] for e in errors])) if errors else None
    parts = [{k: getattr(c, k) for k in calibration.OF_FINDING} for c in fitted]
    return calibration.Calibration(1.0, {}, ood_detector, validation, parts)


def _weighted(f: Finding, weight: np.ndarray) -> dict[str, np.ndarray]:
    """METRICS of a finding, under weights [R,N] of all images."""
    with np.errstate(invalid="ignore"):  # a replicate without an image in which it is known
        return metrics.weighted_metrics(f.probs, f.label, f.threshold, weight[:, f.known], f.logits)


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean [R] of values [R] that are defined; NaN if none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
        return np.nanmean(values, axis=0)
