"""Another share of positives than in training: estimated without labels, and put to use.

All of it assumes that the prior pi alone is new, and that the images of each class are as in
training (p(x | y) is the same). Then (Saerens et al. 2002), with q the training prior,

    p'(y | x)  is proportional to  p(y | x) pi_y / q_y
    pi_y       =  E p'(y | x)                                       the fixed point of EM

Where the images moved, the estimate is wrong, however narrow its interval: `drift` compares them
with training, and an estimate that it vetoes must not be used. Pure functions, in NumPy.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binom

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation.calibration import QUANTILE

LEVEL = 0.01  # of the test for out-of-distribution images
MISFIT = 2.3  # standard errors; another prior alone stays below in 98 % of simulations
NORMAL = 1.96  # half of a 95 % interval, in standard deviations


class Drift(NamedTuple):
    """How far new images are from training, beyond what another prior explains."""

    share: float  # of the images that are out of distribution
    allowed: float  # the largest share that another prior explains
    misfit: float  # at the worst operating point, in standard errors; NaN where the run has none
    far: bool  # the share is larger than chance and another prior explain, or is not known

    @property
    def vetoed(self) -> bool:
        """An estimate of the prior is not to be used."""
        return self.far or self.misfit > MISFIT


def training_prior(result: Mapping[str, Any]) -> np.ndarray:
    """[K] the shares of the classes among the labels that a run learnt from, by its result.json.

    They are equal where the run had a budget of labels, which is drawn evenly over the classes.

    Raises:
      UserError: the run had no budget, and has not noted how many labels it had of each class.
    """
    classes = result["classes"]
    if result.get("labels_per_class") or result.get("images"):
        return np.full(len(classes), 1 / len(classes))
    try:
        count = result["splits"]["labelled"]["classes"]
        count = np.array([count[name] for name in classes], np.float64)
    except KeyError:
        raise UserError("result.json does not say how many labels of each class there were, as "
                        "runs of earlier versions do not") from None  # fmt: skip
    return count / count.sum()


def corrected(probs: np.ndarray, train: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities [N,K] of a classifier that learnt at the prior `train` [K], at `prior` [K]."""
    new = probs * (prior / train)
    return new / new.sum(1, keepdims=True)


def estimate(
    probs: np.ndarray,
    train: np.ndarray,
    times: np.ndarray | None = None,
    tolerance: float = 1e-7,
    steps: int = 5000,
) -> np.ndarray:
    """The prior [K] at which images with these calibrated probabilities [N,K] are most likely.

    With `times` [R,N], how often each image counts, a prior for each of its rows, [R,K]. EM, from
    the training prior, until no share changes by more than `tolerance` in a step.
    """
    ratio = np.asarray(probs, np.float64) / train
    weight = np.ones((1, len(ratio))) if times is None else times
    prior = np.tile(np.asarray(train, np.float64), (len(weight), 1))
    for _ in range(steps):
        evidence = np.maximum(prior @ ratio.T, 1e-300)
        new = prior * ((weight / evidence) @ ratio) / weight.sum(1, keepdims=True)
        change, prior = np.abs(new - prior).max(), new
        if change <= tolerance:
            break
    return prior[0] if times is None else prior


def interval(
    probs: np.ndarray,
    train: np.ndarray,
    patient: np.ndarray | None = None,
    replicates: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % limits of `estimate`, each [K], by resampling patients with all their images.

    `patient` [N]: an id for each image; without, each image is a patient. The limits say nothing of
    an error in the classifier's calibration, nor of images unlike training's.
    """
    ids = np.arange(len(probs)) if patient is None else patient
    ids, owner = np.unique(ids, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // len(owner))  # of a part, which bounds the memory
    parts = []
    for start in range(0, replicates, rows):
        n = min(rows, replicates - start)
        times = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=n)[:, owner]
        parts.append(estimate(probs, train, times.astype(np.float64), tolerance=1e-5))
    low, high = np.percentile(np.concatenate(parts), [2.5, 97.5], axis=0)
    return low, high


def moved_threshold(
    threshold: float, train: np.ndarray, prior: np.ndarray, keep: bool = False
) -> float:
    """The threshold on `corrected` probabilities of two classes that `threshold` becomes.

    A threshold is a likelihood ratio p(x | positive) / p(x | negative), and the training prior's
    odds. A sensitivity or specificity belongs to the ratio: with `keep` the same images are called
    positive as before, at a number that moves as the probabilities do. Youden's point weighs both
    errors as if the classes were equally frequent: without `keep` they are weighed by `prior`, so
    that (with a ratio of 1, threshold .5) fewest images are called wrong.
    """
    if not 0 < threshold < 1:  # calls every image positive, or none
        return threshold
    ratio = logit(threshold) - np.log(train[1] / train[0])
    return float(expit(ratio + (np.log(prior[1] / prior[0]) if keep else 0)))


def drift(
    score: np.ndarray,
    ood: np.ndarray,
    train: np.ndarray,
    prior: np.ndarray,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    validated: int = 0,
) -> Drift:
    """Whether new images can be those of training at another prior: two tests.

    * 1 % of a run's own images are out of distribution (`calibration.QUANTILE`), so at most
      1 % / min_y q_y of those of any class, and of any mixture of classes.
    * At each operating point the share called positive must be pi sensitivity + (1 - pi)
      (1 - specificity). `misfit` is the largest distance from that, in standard errors of the new
      images and of validation. Negative images whose scores became those of positive ones fit as
      well as more positive images do: no test without labels can tell them apart.

    Args:
      score: [N] the classifier's probability of the positive class, not corrected.
      ood: [N] scores of the run's OOD detector; NaN where there is none, which vetoes.
      train: [K] training prior.
      prior: [K] pi, estimated or given.
      points: operating points of the run's calibration; without, the second test is left out.
      validated: images that the points rest on.
    """
    n, share, misfit = len(ood), float(np.mean(ood > 1)), float("nan")
    allowed = min(1.0, (1 - QUANTILE) / float(np.min(train)))
    far = np.isnan(ood).any() or binom.sf(round(share * n) - 1, n, allowed) < LEVEL
    if points and validated:
        misfit = _misfit(score, prior[1], points, validated)
    return Drift(share, allowed, misfit, bool(far))


def _misfit(
    score: np.ndarray, pi: float, points: Mapping[str, Mapping[str, Any]], validated: int
) -> float:
    """The largest standardised distance over the operating points."""
    rows = [p for p in points.values() if 0 < p["threshold"] < 1 and p.get("sensitivity")]

    def measured(name: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of a metric at each point and their variances."""
        value, low, high = (
            np.array([p[name][key] for p in rows], np.float64) for key in ("value", "low", "high")
        )
        return value, ((high - low) / (2 * NORMAL)) ** 2

    (sensitivity, var_s), (specificity, var_c) = measured("sensitivity"), measured("specificity")
    called = np.array([np.mean(score >= p["threshold"]) for p in rows])
    expected = pi * sensitivity + (1 - pi) * (1 - specificity)
    variance = pi**2 * var_s + (1 - pi) ** 2 * var_c + expected * (1 - expected) / len(score)
    # An interval of no width, as of a sensitivity of 1, is no certainty.
    variance += (3 / validated) ** 2 + 1 / len(score) ** 2
    return float(np.nanmax(np.abs(called - expected) / np.sqrt(variance), initial=0.0))
