"""Metrics of a classifier and their confidence intervals, in NumPy.

Each metric has one definition, over weighted images. Equal weights give its value; the integer
weights of a bootstrap over patients give its interval. The tests compare each definition with
scikit-learn's.

Two classes: index 1 is the positive class, and an image is called positive if
`probs[:, 1] >= threshold`. More classes: the decision is the argmax, AUROC and AUPRC are macro
averages of each class against the rest, and threshold, sensitivity and specificity are None.

AUROC and AUPRC rank images by `log_odds`, because probabilities near 1 round to 1 and tie. Balanced
accuracy is the mean recall of the classes that the images have. The expected calibration error puts
the largest probability into 15 bins of equal width, closed on the right, and compares the bin's
mean with the share of images whose argmax is correct; it does not depend on the threshold.

None means undefined. AUROC, AUPRC and balanced accuracy are undefined for a bootstrap replicate
without images of a class that the data have; AUROC and AUPRC also if the data lack a class.

Labels [N,K] are of several findings: findings.py.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ssl_gan_jax import targets
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import atomic_write, csv_cell

METRICS = ("accuracy", "balanced_accuracy", "auroc", "auprc", "sensitivity", "specificity", "ece")
# What `report` adds for two classes: the same metrics at threshold .5, which needs no validation
# images, because labels are drawn evenly over the classes.
AT_HALF = {f"{name}_at_half": name for name in ("accuracy", "sensitivity", "specificity")}
ECE_BINS = 15
_CHUNK = 2**20  # weights that the bootstrap holds in memory: 8 MB


def logits_of(
    predict_fn: Callable[[np.ndarray], Any], images: np.ndarray, batch_size: int
) -> np.ndarray:
    """Logits `[N,K]` of `images`, as `batched` gives them. UserError if they are not finite."""
    (joined,) = batched(lambda x: (predict_fn(x),), images, batch_size)
    if bad := np.count_nonzero(~np.isfinite(joined).all(axis=1)):
        raise UserError(
            f"predictions of {bad} of {len(joined)} images are not finite: the weights have "
            "diverged; go back to an earlier checkpoint or lower the learning rate"
        )
    return joined


def batched(
    function: Callable[[np.ndarray], Sequence[Any]], images: np.ndarray, batch_size: int = 64
) -> list[np.ndarray]:
    """Each output of `function`, float64 [N,...], for uint8 `images` [N,H,W,1].

    `function` takes `[batch_size,H,W,1]` float32 in [-1,1]. The last batch is padded to that size,
    so that a jitted function compiles once; the outputs for the padding are dropped.
    """
    parts = []
    for start in range(0, max(len(images), 1), batch_size):  # no images: one batch, for its shapes
        part = np.asarray(images[start : start + batch_size])
        padded = np.zeros((batch_size, *part.shape[1:]), np.uint8)
        padded[: len(part)] = part
        outputs = function(to_float(padded))
        parts.append([np.asarray(x, np.float64)[: len(part)] for x in outputs])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def log_odds(probs: np.ndarray, logits: np.ndarray | None = None) -> np.ndarray:
    """`[N,K]`: the log-odds of each class against the others, which rank images without ties.

    They come from `logits` `[N,K]` of any scale if given, else from `probs` `[N,K]`. Probabilities
    keep log-odds from -745 to 745: the small one stays exact if the large one rounds to 1.
    """
    if logits is None:
        logits = np.log(np.maximum(probs, np.nextafter(0, 1)))
    logits = np.asarray(logits, np.float64)
    others = (np.delete(logits, k, axis=1) for k in range(logits.shape[1]))
    return logits - np.stack([logsumexp(rest, axis=1) for rest in others], axis=1)


@targets.findings_in("ssl_gan_jax.evaluation.findings")
def scores(
    probs: np.ndarray,
    label: np.ndarray,
    threshold: float = 0.5,
    logits: np.ndarray | None = None,
) -> dict[str, Any]:
    """n, threshold and the seven METRICS of `probs` `[N,K]` against `label` `[N]` in 0..K-1.

    All are fractions in [0,1]; None if undefined. `logits` rank the images, see `log_odds`.
    Raises ValueError for labels out of range or probabilities that are not finite.
    """
    probs, label = _checked(probs, label)
    values = weighted_metrics(probs, label, threshold, np.ones((1, len(label))), logits)
    return {
        "n": len(label),
        "threshold": float(threshold) if probs.shape[1] == 2 else None,
        **{name: None if np.isnan(value[0]) else float(value[0]) for name, value in values.items()},
    }


@targets.findings_in("ssl_gan_jax.evaluation.findings")
def choose_threshold(probs: np.ndarray, label: np.ndarray) -> float:
    """The threshold that maximises Youden's J = sensitivity + specificity - 1.

    `probs` `[N,2]` and `label` `[N]` must be those of validation images. The threshold lies midway
    between two neighbouring scores; of equally good thresholds it is the nearest to 0.5. It is 0.5
    if the images do not have both classes.
    """
    probs, label = _checked(probs, label)
    if probs.shape[1] != 2:
        raise ValueError(f"a threshold needs two classes, not {probs.shape[1]}")
    positives = int(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return 0.5
    scores, rank = np.unique(probs[:, 1], return_inverse=True)
    edges = np.concatenate([[0.0], scores, [1.0]])
    middle = (edges[:-1] + edges[1:]) / 2
    # The midpoint of two adjacent floats rounds to one of them: keep it above the lower.
    middle = np.where(middle > edges[:-1], middle, edges[1:])
    # How many images of each class lie below each candidate: integers, so ties are exact.
    below = [
        np.append(0, np.cumsum(np.bincount(rank[label == c], minlength=len(scores))))
        for c in (0, 1)
    ]
    youden = below[0] * positives - below[1] * negatives
    best = middle[youden == youden.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def bootstrap_intervals(
    probs: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray | Sequence,
    threshold: float = 0.5,
    *,
    logits: np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float | None, float | None]]:
    """95 % percentile intervals of METRICS, from resampling patients with all their images.

    `patient` `[N]` holds an id for each image. An interval leaves out the replicates in which its
    metric is undefined; it is (None, None) if none is left, or for fewer than two patients.
    """
    probs, label = _checked(probs, label)
    if len(patient) != len(label):
        raise ValueError(f"{len(patient)} patient ids for {len(label)} images")
    parts = [
        weighted_metrics(probs, label, threshold, weight, logits)
        for weight in _bootstrap_weights(patient, replicates, seed)
    ]
    return {name: _interval([part[name] for part in parts]) for name in METRICS}


def _bootstrap_weights(
    patient: np.ndarray | Sequence, replicates: int, seed: int
) -> Iterator[np.ndarray]:
    """How often each replicate holds each image, `[R,N]`, in chunks of replicates.

    A replicate draws as many patients as there are, with replacement. An image is in it as often as
    its patient. Yields nothing for fewer than two patients.
    """
    ids, owner = np.unique(np.asarray(patient), return_inverse=True)
    rng, n = np.random.default_rng(seed), len(ids)
    rows = max(1, _CHUNK // max(1, len(owner)))
    for start in range(0, replicates if n > 1 else 0, rows):
        drawn = rng.integers(n, size=(min(rows, replicates - start), n))
        times = np.stack([np.bincount(patients, minlength=n) for patients in drawn])
        yield times[:, owner].astype(np.float64)


def _interval(parts: Sequence[np.ndarray]) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of the defined values in `parts`; (None, None) without any."""
    values = [value for part in parts for value in part[~np.isnan(part)]]
    return tuple(np.percentile(values, [2.5, 97.5]).tolist()) if values else (None, None)


@targets.findings_in("ssl_gan_jax.evaluation.findings")
def report(
    probs: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray | Sequence,
    threshold: float = 0.5,
    *,
    logits: np.ndarray | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """n, patients, threshold, and `{"value", "low", "high"}` for each of METRICS; JSON-ready.

    For two classes also for each of AT_HALF. Arguments as `bootstrap_intervals`.
    """

    def with_intervals(threshold: float) -> dict[str, Any]:
        values = scores(probs, label, threshold, logits)
        intervals = bootstrap_intervals(
            probs, label, patient, threshold, logits=logits, replicates=replicates, seed=seed
        )
        return values | {
            name: {"value": values[name], "low": low, "high": high}
            for name, (low, high) in intervals.items()
        }

    found = with_intervals(threshold)
    if found["threshold"] is not None:
        half = with_intervals(0.5)
        found |= {name: half[metric] for name, metric in AT_HALF.items()}
    return found | {"patients": len(np.unique(np.asarray(patient)))}


def decide(probs: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The class index `[N]` that `probs` `[N,K]` stand for; K > 2 ignores `threshold`."""
    return (probs[:, 1] >= threshold).astype(int) if probs.shape[1] == 2 else probs.argmax(axis=1)


@targets.findings_in("ssl_gan_jax.evaluation.findings")
def write_predictions(
    path: str | Path,
    names: Sequence[str],
    label: Sequence[int],
    probs: np.ndarray,
    classes: Sequence[str],
    threshold: float = 0.5,
) -> None:
    """Writes predictions.csv: path, label, p_<class> of each class, decision; a row per image.

    `label` holds class indices, and -1 for an unlabelled image, whose cell stays empty.
    Probabilities have all their digits, so that metrics can be computed from the file.
    """
    probs = np.asarray(probs, np.float64)
    with atomic_write(path, newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "label", *(f"p_{name}" for name in classes), "decision"])
        rows = zip(names, label, probs.tolist(), decide(probs, threshold), strict=True)
        for name, truth, row, decision in rows:
            true_class = classes[truth] if truth >= 0 else ""
            table.writerow(
                [csv_cell(name), csv_cell(true_class), *row, csv_cell(classes[decision])]
            )


def weighted_metrics(
    probs: np.ndarray,
    label: np.ndarray,
    threshold: float,
    weight: np.ndarray,
    logits: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Each of METRICS, `[R]`, under each row of image weights `[R,N]`; NaN if undefined."""
    classes = probs.shape[1]
    if not len(label):
        return {name: np.full(len(weight), np.nan) for name in METRICS}
    truth = np.eye(classes)[label]
    hits = weight @ (truth * (decide(probs, threshold) == label)[:, None])  # [R,K]
    count = weight @ truth
    total = count.sum(axis=1)
    recall = np.full_like(hits, np.nan)
    np.divide(hits, count, out=recall, where=count > 0)

    ranked, score = [1] if classes == 2 else range(classes), log_odds(probs, logits)
    auroc, auprc = np.mean([_areas(score[:, c], label == c, weight) for c in ranked], axis=0)

    confidence = probs.max(axis=1)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    excess = confidence - (probs.argmax(axis=1) == label)
    gaps = weight @ (np.eye(ECE_BINS)[bins] * excess[:, None])  # [R,bins]

    undefined = np.full(len(weight), np.nan)
    return {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": recall[:, truth.any(axis=0)].mean(axis=1),
        "auroc": auroc,
        "auprc": auprc,
        "sensitivity": recall[:, 1] if classes == 2 else undefined,
        "specificity": recall[:, 0] if classes == 2 else undefined,
        "ece": np.abs(gaps).sum(axis=1) / total,
    }


def _areas(
    score: np.ndarray, positive: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision, each `[R]`, by one sort and weighted running sums.

    Equal scores are one step of the curve, so their order does not matter. Both are NaN if all
    positives, or all negatives, have weight 0 in a row of `weight` `[R,N]`.
    """
    order = np.argsort(-score, kind="stable")
    score, positive, weight = score[order], positive[order], weight[:, order]
    steps = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    d_tp = np.add.reduceat(weight * positive, steps, axis=1)  # positives in each step
    d_fp = np.add.reduceat(weight * ~positive, steps, axis=1)
    tp, fp = np.cumsum(d_tp, axis=1), np.cumsum(d_fp, axis=1)
    p, n = tp[:, -1], fp[:, -1]
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)

    def share(area: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(area, whole, out=np.full_like(area, np.nan), where=p * n > 0)

    # Trapezoids: a step is d_fp wide, and rises from tp - d_tp to tp; half of the sum is its mean.
    auroc = share((d_fp * (tp - d_tp / 2)).sum(axis=1), p * n)
    auprc = share((d_tp * precision).sum(axis=1), p)  # a step gains d_tp / p recall
    return auroc, auprc


def _checked(probs: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs, label = np.asarray(probs, np.float64), np.asarray(label).astype(int)
    if probs.ndim != 2 or probs.shape[1] < 2 or label.shape != probs.shape[:1]:
        raise ValueError(f"expected probs [N,K] and label [N], got {probs.shape}, {label.shape}")
    if not np.isfinite(probs).all():
        raise ValueError("probabilities are not all finite")
    if len(label) and not (label.min() >= 0 and label.max() < probs.shape[1]):
        raise ValueError(f"labels must be in 0..{probs.shape[1] - 1}: leave out unlabelled images")
    return probs, label
