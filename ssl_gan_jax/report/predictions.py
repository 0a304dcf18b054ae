"""What one run said of its test images: read back from predictions.csv, counted and drawn."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_gan_jax.evaluation.metrics import ECE_BINS, csv_cell, log_odds
from ssl_gan_jax.report.tables import Table, number

POINTS = np.linspace(0, 1, 101)  # false positive rates at which ROC curves are averaged
WORST = 10  # errors that are named
Curve = tuple[np.ndarray, np.ndarray]


class Predictions(NamedTuple):
    """Of N labelled test images."""

    classes: list[str]
    path: list[str]
    label: np.ndarray  # [N] int
    probs: np.ndarray  # [N,K] float64
    decision: np.ndarray  # [N] int, at the run's threshold


def read(path: Path) -> Predictions | None:
    """What `evaluate.write_predictions` wrote; None where it is not readable."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        classes = [name[2:] for name in head if name.startswith("p_")]
        index = {csv_cell(name): k for k, name in enumerate(classes)}
        rows = [row for row in rows if row[1]]
        probs = np.array([row[2 : 2 + len(classes)] for row in rows], np.float64)
        label, decision = ([index[row[at]] for row in rows] for at in (1, 2 + len(classes)))
    except (OSError, ValueError, KeyError, IndexError, csv.Error):
        return None
    if not probs.size or not np.isfinite(probs).all():
        return None
    return Predictions(
        classes, [row[0] for row in rows], np.array(label), probs, np.array(decision)
    )


def confusion(p: Predictions) -> Table:
    """How many images of each class were called what."""
    counts = np.zeros((len(p.classes),) * 2, int)
    np.add.at(counts, (p.label, p.decision), 1)
    rows = [[name, *map(str, row)] for name, row in zip(p.classes, counts.tolist(), strict=True)]
    return Table("Confusion, test images", ["is", *(f"called {c}" for c in p.classes)], rows)


def worst_errors(p: Predictions) -> Table:
    """The wrong decisions whose own class was given the least probability, by file name."""
    own = p.probs[np.arange(len(p.label)), p.label]
    order = np.argsort(own, kind="stable")
    wrong = [i for i in order if p.decision[i] != p.label[i]][:WORST]
    rows = [
        [p.path[i], p.classes[p.label[i]], p.classes[p.decision[i]], number(own[i])] for i in wrong
    ]
    return Table(
        "Worst errors, test images", ["file", "is", "called", "probability of its class"], rows
    )


def roc(p: Predictions) -> Curve | None:
    """False and true positive rates [P] of two classes, from 0 to 1; None where undefined."""
    positive = p.label == 1
    if p.probs.shape[1] != 2 or not 0 < positive.sum() < len(positive):
        return None
    score = log_odds(p.probs)[:, 1]
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    last = np.append(score[1:] != score[:-1], True)  # equal scores form one step
    fp, tp = (np.append(0, np.cumsum(hit)[last]) for hit in (~positive, positive))
    return fp / fp[-1], tp / tp[-1]


def roc_curves(predictions: Sequence[Predictions]) -> list[Curve]:
    """One for each run where it is defined, and last the mean of their true positive rates."""
    curves = [curve for p in predictions if (curve := roc(p))]
    if not curves:
        return []
    mean = np.mean([np.interp(POINTS, x, y) for x, y in curves], axis=0)
    return [*curves, (np.append(0, POINTS), np.append(0, mean))]


def reliability_curves(predictions: Sequence[Predictions]) -> list[Curve]:
    """One for each run over evaluate's ECE bins, and last that of all runs' images together."""
    sums = [reliability(p) for p in predictions]
    all_sums = [*sums, sum(sums)] if sums else []
    return [(s[1, s[0] > 0] / s[0, s[0] > 0], s[2, s[0] > 0] / s[0, s[0] > 0]) for s in all_sums]


def reliability(p: Predictions) -> np.ndarray:
    """[3,ECE_BINS]: images of each bin, sum of their largest probabilities, how many are right."""
    top = p.probs.max(axis=1)
    bins = np.clip(np.ceil(top * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    right = p.probs.argmax(axis=1) == p.label
    return np.stack([np.bincount(bins, w, ECE_BINS) for w in (np.ones_like(top), top, right)])
