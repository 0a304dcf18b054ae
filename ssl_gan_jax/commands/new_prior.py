"""What `predict` says at another prior than that of the training labels, and how sure that is."""

from typing import NamedTuple

import numpy as np

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import prior_shift
from ssl_gan_jax.inference import FinishedRun, Prediction

WIDEST = 0.5  # interval of an estimate that still says something


class AtPrior(NamedTuple):
    """A prediction at a prior, or if `refused` as it was, with the line that says which."""

    answer: Prediction
    threshold: float
    line: str
    refused: bool


def given(text: str) -> float:
    """The share that --prevalence names. Raises UserError unless it is between 0 and 1."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(f"--prevalence={text}: is the share of the positive class, between 0 and 1")
    return share


def at_prior(
    run: FinishedRun, answer: Prediction, point: str, prevalence: float | None = None
) -> AtPrior:
    """The probabilities and the threshold of an operating point at the prior of the new images.

    That is `prevalence`, or EM's estimate from the predictions (`evaluation/prior_shift.py`), which
    is refused where it cannot be trusted. A sensitivity or specificity keeps the images that it
    calls positive; youden and balanced call the fewest wrong at the new prior.

    Raises:
      UserError: a prevalence for other than two classes; the training prior is not known.
    """
    train, fitted, classes = prior_shift.training_prior(run.result), run.calibration, run.classes
    two, threshold = len(classes) == 2, fitted.threshold(point)
    if prevalence is None:
        # No class is held for impossible because these images show none of it.
        prior = np.maximum(prior_shift.estimate(answer.probability, train), 1e-6)
        low, high = prior_shift.interval(answer.probability, train)
        shown = range(1 if two else 0, len(classes))
        shares = (f"{classes[k]} {prior[k]:.3f} [{low[k]:.3f}, {high[k]:.3f}]" for k in shown)
        line = f"prior by EM: {', '.join(shares)}"
        wide = float(np.max(high - low)) > WIDEST
    elif two:
        prior, wide = np.array([1 - prevalence, prevalence]), False
        line = f"prior as given: {classes[1]} {prevalence:g}"
    else:
        raise UserError(f"--prevalence: is for two classes, and this run has {len(classes)}")
    points, validated = fitted.operating_points if two else {}, fitted.validation.get("n", 0)
    drift = prior_shift.drift(
        answer.probability[:, -1], answer.ood, train, prior, points, validated
    )
    doubts = [
        ("the run has no calibration by validation images", not validated),
        ("too few images say too little of it", wide),
        (f"{drift.share:.1%} of the images are out of distribution, where another prior explains "
         f"{drift.allowed:.1%}", drift.far),
        ("the operating points call other shares of these images positive than at such a prior "
         f"(by {drift.misfit:.1f} standard errors)", drift.misfit > prior_shift.MISFIT),
    ]  # fmt: skip
    doubt = "; ".join(text for text, holds in doubts if holds)
    if doubt and prevalence is None:
        advice = "give it as --prevalence, or adapt the run with python -m ssl_gan_jax.adapt"
        return AtPrior(answer, threshold, f"warning: {line} is not used: {doubt}; {advice}", True)
    probability = prior_shift.corrected(answer.probability, train, prior)
    if two and point != "balanced":
        keep = point.startswith(("sensitivity", "specificity"))
        threshold = prior_shift.moved_threshold(threshold, train, prior, keep)
    if two:
        line += f" (labels: {train[1]:.3f}); positive from {threshold:.3f} on"
    if doubt:
        line = f"warning: {line}; these images may differ from training's by more: {doubt}"
    return AtPrior(answer._replace(probability=probability), threshold, line, False)
