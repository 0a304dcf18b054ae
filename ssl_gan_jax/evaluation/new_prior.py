"""What a classifier says at another prior than that of its training labels, and how sure it is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import prior_shift
from ssl_gan_jax.evaluation.calibration import Calibration

WIDEST = 0.5  # interval of an estimate that still says something


class NewPrior(NamedTuple):
    """A prior and the threshold there; if it is refused, the training prior and the threshold."""

    train: np.ndarray  # [K]
    prior: np.ndarray  # [K]
    threshold: float  # on `corrected` probabilities
    line: str  # says which prior, from where, and all doubts
    refused: bool

    def corrected(self, probs: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [N,K] at the prior; as they were if it is refused."""
        return probs if self.refused else prior_shift.corrected(probs, self.train, self.prior)


def new_prior(
    train: np.ndarray,
    fitted: Calibration,
    classes: Sequence[str],
    probs: np.ndarray,
    ood: np.ndarray,
    point: str,
    prevalence: float | None = None,
) -> NewPrior:
    """The prior of new images, and the threshold of an operating point there.

    That is `prevalence`, or EM's estimate from the predictions (`prior_shift.py`), which is refused
    where it cannot be trusted. A sensitivity or specificity keeps the images that it calls
    positive; youden and balanced call the fewest wrong at the new prior.

    Args:
      train: [K] training prior.
      fitted: the run's calibration.
      classes: names of the K classes.
      probs: [N,K] calibrated probabilities of the new images.
      ood: [N] their scores of the OOD detector.
      point: operating point, such as "youden".
      prevalence: share of the positive class, if it is known.

    Raises:
      UserError: a prevalence for other than two classes.
    """
    two, threshold = len(classes) == 2, fitted.threshold(point)
    if prevalence is None:
        # No class is held for impossible because these images show none of it.
        prior = np.maximum(prior_shift.estimate(probs, train), 1e-6)
        low, high = prior_shift.interval(probs, train)
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
    drift = prior_shift.drift(probs[:, -1], ood, train, prior, points, validated)
    doubts = [
        ("the run has no calibration by validation images", not validated),
        ("the run was trained on another site without labels, and its drift test knows that site",
         fitted.validation.get("other_sites")),
        ("too few images say too little of it", wide),
        (f"{drift.share:.1%} of the images are out of distribution, where another prior explains "
         f"{drift.allowed:.1%}", drift.far),
        ("the operating points call other shares of these images positive than at such a prior "
         f"(by {drift.misfit:.1f} standard errors)", drift.misfit > prior_shift.MISFIT),
    ]  # fmt: skip
    doubt = "; ".join(text for text, holds in doubts if holds)
    if doubt and prevalence is None:
        advice = "give it as --prevalence, or adapt the run with python -m ssl_gan_jax.adapt"
        line = f"warning: {line} is not used: {doubt}; {advice}"
        return NewPrior(train, train, threshold, line, True)
    if two and point != "balanced":
        keep = point.startswith(("sensitivity", "specificity"))
        threshold = prior_shift.moved_threshold(threshold, train, prior, keep)
    if two:
        line += f" (labels: {train[1]:.3f}); positive from {threshold:.3f} on"
    if doubt:
        line = f"warning: {line}; these images may differ from training's by more: {doubt}"
    return NewPrior(train, prior, threshold, line, False)
