"""Test predictions of a run, from predictions.csv: tables and curves."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_curve

from ssl_gan_jax.evaluation.calibration import tempered
from ssl_gan_jax.evaluation.metrics import ECE_BINS, csv_cell, log_odds
from ssl_gan_jax.report.rows import read_json
from ssl_gan_jax.report.tables import Table, number

RATES = np.linspace(0, 1, 101)  # false positive rates at which ROC curves are averaged
WORST = 10  # errors in the table
Curve = tuple[np.ndarray, np.ndarray]


class Predictions(NamedTuple):
    """The predictions for N labelled test images."""

    classes: list[str]
    path: list[str]
    label: np.ndarray  # [N] int
    probs: np.ndarray  # [N,K] float64
    decision: np.ndarray  # [N] int, at the run's threshold


def read(folder: Path) -> Predictions | None:
    """The predictions.csv of a run's folder; None if it cannot be read."""
    try:
        with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        if head[1] != "label":
            return None  # of several findings in an image
        classes = [name[2:] for name in head if name.startswith("p_")]
        index = {csv_cell(name): k for k, name in enumerate(classes)}
        rows = [row for row in rows if row[1]]
        probs = np.array([row[2 : 2 + len(classes)] for row in rows], np.float64)
        label, decision = ([index[row[column]] for row in rows] for column in (1, 2 + len(classes)))
    except (OSError, ValueError, KeyError, IndexError, csv.Error):
        return None
    if not probs.size or not np.isfinite(probs).all():
        return None
    paths = [row[0] for row in rows]
    return Predictions(classes, paths, np.array(label), probs, np.array(decision))


def read_calibrated(folder: Path) -> Predictions | None:
    """The predictions after temperature scaling; None if the run has no temperature."""
    p = read(folder)
    try:
        temperature = read_json((folder / "calibration.json").read_bytes())["temperature"]
        if not 0 < temperature < np.inf:
            return None
        logits = np.log(np.maximum(p.probs, np.nextafter(0, 1)))
        return p._replace(probs=tempered(logits, temperature))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def counts(p: Predictions) -> np.ndarray:
    """[K,K]: images of each true class (rows) and predicted class (columns)."""
    return confusion_matrix(p.label, p.decision, labels=range(len(p.classes)))


def confusion(p: Predictions) -> Table:
    """`counts` as a table."""
    rows = [[name, *map(str, row)] for name, row in zip(p.classes, counts(p).tolist(), strict=True)]
    return Table("Confusion, test images", ["is", *(f"called {c}" for c in p.classes)], rows)


def worst_errors(p: Predictions) -> Table:
    """The wrong decisions with the smallest probability of the true class, by file name."""
    of_truth = p.probs[np.arange(len(p.label)), p.label]
    order = np.argsort(of_truth, kind="stable")
    wrong = [i for i in order if p.decision[i] != p.label[i]][:WORST]
    name = p.classes
    rows = [[p.path[i], name[p.label[i]], name[p.decision[i]], number(of_truth[i])] for i in wrong]
    header = ["file", "is", "called", "probability of its class"]
    return Table("Worst errors, test images", header, rows)


def roc(p: Predictions) -> Curve | None:
    """False and true positive rates [P] of two classes, from 0 to 1; None if undefined."""
    if len(p.classes) != 2 or len(set(p.label)) < 2:
        return None
    fp, tp, _ = roc_curve(p.label, log_odds(p.probs)[:, 1], drop_intermediate=False)
    return fp, tp


def roc_curves(predictions: Sequence[Predictions]) -> list[Curve]:
    """The curve of each run that has one, and last the mean of their true positive rates."""
    curves = [curve for p in predictions if (curve := roc(p))]
    if not curves:
        return []
    mean = np.mean([np.interp(RATES, x, y) for x, y in curves], axis=0)
    return [*curves, (np.append(0, RATES), np.append(0, mean))]


def reliability_curves(predictions: Sequence[Predictions]) -> list[Curve]:
    """The curve of each run, and last that of the images of all runs."""
    if not predictions:
        return []
    pooled = (np.concatenate(x) for x in zip(*map(confidence, predictions), strict=True))
    return [*(reliability(*confidence(p)) for p in predictions), reliability(*pooled)]


def confidence(p: Predictions) -> Curve:
    """The largest probability of each image, and whether its class is correct; both [N]."""
    return p.probs.max(axis=1), p.probs.argmax(axis=1) == p.label


def reliability(largest: np.ndarray, correct: np.ndarray) -> Curve:
    """Mean probability and share correct in each bin of the calibration error with images."""
    share, mean = calibration_curve(correct, largest, n_bins=ECE_BINS, pos_label=True)
    return mean, share
