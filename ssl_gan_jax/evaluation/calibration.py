"""Calibration on validation images: temperature, operating points, OOD detector.

Test images are not used. All functions but `save` and `load` are pure, in NumPy.

Temperature (Guo et al. 2017): softmax(logits / T), T by maximum likelihood. The targets are
smoothed (Platt 1999), so that few or perfectly separated images do not drive T to zero. For two
classes the thresholds are tempered too, so decisions stay as they were.

OOD score: the Mahalanobis distance between an image's features (the input of the classifier's last
layer) and those of training images. The covariance has a few main directions and one variance for
all other directions (probabilistic PCA, Tipping & Bishop 1999). 1 % of the validation and held-out
training images have a score above 1; an image with a score above 1 is out of distribution.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, log_softmax, logit, softmax

from ssl_gan_jax import targets
from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.evaluation import metrics
from ssl_gan_jax.files import atomic_write, write_json

DIRECTIONS = 16  # main directions of the features
QUANTILE = 0.99  # share of in-distribution images that are not flagged
POINTS = (
    *("youden", "balanced"),
    *("sensitivity=0.8", "sensitivity=0.9", "sensitivity=0.95", "sensitivity=0.99"),
    *("specificity=0.8", "specificity=0.9", "specificity=0.95", "specificity=0.99"),
)
OF_FINDING = ("temperature", "operating_points", "validation")
REPAIR = "make it again with python -m ssl_gan_jax.calibration"


class OodDetector(NamedTuple):
    """The score of features f [F] is scale |f - mean|^2 - |directions (f - mean)|^2."""

    mean: np.ndarray  # [F] float32
    directions: np.ndarray  # [R,F] float32
    scale: np.ndarray  # [] float32

    def score(self, features: Any) -> Any:  # noqa: ANN401
        """Features [N,F] -> [N], in NumPy or JAX; above 1 is out of distribution."""
        centred = features - self.mean
        return self.scale * (centred**2).sum(-1) - ((centred @ self.directions.T) ** 2).sum(-1)


class Calibration(NamedTuple):
    """What `predict` needs in addition to the weights."""

    temperature: float
    operating_points: Mapping[str, Mapping[str, Any]]  # {} unless there are two classes
    ood_detector: OodDetector | None
    validation: Mapping[str, Any] = {}
    """Images, patients, and calibration errors there; "other_sites": training images of others."""
    findings: Sequence[Mapping[str, Any]] = ()  # OF_FINDING of each, if an image may have several

    @property
    def scale(self) -> float | np.ndarray:
        """What logits [N,K] are divided by: the temperature, or that of each finding, [K]."""
        each = [finding["temperature"] for finding in self.findings]
        return np.array(each, np.float32) if each else self.temperature

    def threshold(self, point: str = "youden") -> float | np.ndarray:
        """The threshold of an operating point, such as "sensitivity=.95"; "balanced" is .5.

        That of each finding, [K], if an image may have several; .5 for one that validation images
        do not both show and lack.

        Raises:
          UserError: the run has no such operating point.
        """
        if self.findings:
            points = [finding["operating_points"] for finding in self.findings]
            each = [Calibration(1.0, of, None).threshold(point) if of else 0.5 for of in points]
            return np.array(each)
        kind, _, target = point.partition("=")
        with contextlib.suppress(ValueError):  # not a number: `check_choice` refuses it
            point = f"{kind}={float(target):g}" if target else kind
        if point == "balanced" or (point == "youden" and not self.operating_points):
            return 0.5
        check_choice("operating point", point, self.operating_points)
        return self.operating_points[point]["threshold"]

    def as_json(self) -> dict[str, Any]:
        """The content of calibration.json; of the OOD detector, only whether there is one."""
        content = self._asdict()
        left_out = {"ood_detector", *(() if self.findings else ("findings",))}
        return {k: v for k, v in content.items() if k not in left_out} | {
            "familiar": self.ood_detector is not None  # the detector's key since version 0.1
        }


def tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities softmax(logits / T), [N,K]."""
    return softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The T between 1/20 and 20 that makes `label` [N] most likely given `logits` [N,K]."""
    from scipy.optimize import minimize_scalar  # here: loading it would delay the first step

    n, k = logits.shape
    count = np.bincount(label, minlength=k)[label][:, None]
    target = np.where(np.eye(k, dtype=bool)[label], count + 1, 1) / (count + k)

    def loss(log_t: float) -> float:
        return -(target * log_softmax(logits / np.exp(log_t), axis=1)).sum() / n

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(20), np.log(20))).x))


def choose_threshold(probs: np.ndarray, label: np.ndarray, point: str) -> float:
    """The threshold of an operating point on `probs` [N,2] and `label` [N].

    "sensitivity=X": the highest at which at least X of the positives are called positive.
    "specificity=X": the lowest at which at least X of the negatives are called negative.
    "youden": `metrics.choose_threshold`. These three lie midway between two neighbouring scores.
    "balanced": .5, which needs no images, because labels are drawn evenly over the classes.
    """
    if point == "balanced":
        return 0.5
    if point == "youden" or len(np.unique(label)) < 2:
        return metrics.choose_threshold(probs, label)
    kind, _, target = point.partition("=")
    score = probs[:, 1]
    edges = np.concatenate([[0.0], np.unique(score), [1.0]])
    of_class = np.sort(score[label == (kind == "sensitivity")])
    enough = int(np.ceil(float(target) * len(of_class) - 1e-9))
    if kind == "sensitivity":
        high = of_class[len(of_class) - enough]  # the lowest score that is called positive
        low = edges[np.searchsorted(edges, high) - 1]
    else:
        low = of_class[enough - 1]  # the highest score that is called negative
        high = edges[np.searchsorted(edges, low, side="right")] if low < 1 else np.nextafter(1, 2)
    middle = (low + high) / 2
    return float(middle if middle > low else high)


def operating_points(
    logits: np.ndarray, label: np.ndarray, patient: np.ndarray, temperature: float
) -> dict[str, dict[str, Any]]:
    """The threshold of each of POINTS on tempered probabilities, and its scores.

    `logits` [N,2], `label` [N], `patient` [N]. The same images choose the threshold and give
    sensitivity and specificity, each with a 95 % interval from a bootstrap over patients.
    """
    probs, points = tempered(logits, 1.0), {}
    for name in POINTS:
        raw = choose_threshold(probs, label, name)
        report = metrics.report(probs, label, patient, raw)
        points[name] = {  # a threshold above 1 calls no image positive, and stays above 1
            "threshold": float(expit(logit(raw) / temperature) if raw < 1 else raw),
            "sensitivity": report["sensitivity"],
            "specificity": report["specificity"],
        }
    return points


def fit_ood_detector(features: np.ndarray, held_out: np.ndarray) -> OodDetector:
    """Fits `features` [N,F], N > 1; QUANTILE of `held_out` [M,F], M > 0, get a score below 1."""
    from sklearn.decomposition import PCA  # here: loading it would delay the first step

    features = np.asarray(features, np.float64)
    n, f = features.shape
    r = max(0, min(DIRECTIONS, n - 2, f - 1))
    pca = PCA(r, svd_solver="full").fit(features)
    variance = np.maximum(pca.singular_values_**2 / n, 1e-12)
    # The mean over all f - r other directions; pca.noise_variance_ is over at most n - 1 - r.
    noise_variance = max((features.var(0).sum() - variance.sum()) / (f - r), 1e-12)
    # The precision is I / noise_variance - directions^T directions.
    gain = np.maximum(1 / noise_variance - 1 / variance, 0)
    directions = pca.components_ * np.sqrt(gain)[:, None]
    raw = OodDetector(pca.mean_, directions, np.asarray(1 / noise_variance))
    limit = max(float(np.quantile(raw.score(np.asarray(held_out, np.float64)), QUANTILE)), 1e-12)
    parts = pca.mean_, directions / np.sqrt(limit), raw.scale / limit
    return OodDetector(*(np.asarray(part, np.float32) for part in parts))


@targets.findings_in("ssl_gan_jax.evaluation.findings")
def fit(
    logits: np.ndarray, label: np.ndarray, patient: np.ndarray, ood_detector: OodDetector | None
) -> Calibration:
    """The calibration of validation images: `logits` [N,K], `label` [N], `patient` [N]; N > 0."""
    temperature, points = fit_temperature(logits, label), {}
    if logits.shape[1] == 2:
        points = operating_points(logits, label, patient, temperature)
    validation = {
        "n": len(label),
        "patients": len(np.unique(patient)),
        "ece_before": metrics.scores(tempered(logits, 1.0), label)["ece"],
        "ece": metrics.scores(tempered(logits, temperature), label)["ece"],
    }
    return Calibration(temperature, points, ood_detector, validation)


def save(workdir: str | Path, calibration: Calibration) -> None:
    """Writes calibration.json and .npz, each atomically. UserError if they cannot be written."""
    if calibration.ood_detector:
        with atomic_write(Path(workdir) / "calibration.npz", "wb") as file:
            np.savez(file, **calibration.ood_detector._asdict())
    write_json(Path(workdir) / "calibration.json", calibration.as_json())


def load(workdir: str | Path, threshold: float | None = None) -> Calibration:
    """The calibration of a run; if it has none, temperature 1 and `threshold`.

    Raises:
      UserError: a file is damaged.
    """
    path, ood_detector = Path(workdir) / "calibration.json", None
    if not path.exists():
        points = {} if threshold is None else {"youden": {"threshold": threshold}}
        return Calibration(1.0, points, None)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("familiar"):
            path = path.with_suffix(".npz")
            with np.load(path, allow_pickle=False) as parts:
                ood_detector = OodDetector(*(parts[name] for name in OodDetector._fields))
        return Calibration(**content, ood_detector=ood_detector)
    except Exception as error:  # a damaged zip, header, JSON or key: the exceptions vary
        raise UserError(f"{path} is missing or damaged ({error!r}); {REPAIR}") from None
