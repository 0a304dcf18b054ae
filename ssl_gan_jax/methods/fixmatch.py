"""FixMatch (Sohn et al. 2020): confident predictions on weak views label the strong views.

    L   = L_s + lambda L_u
    L_s = -E log p(y | w(x))                                                     (eq. 3)
    L_u = -E 1[max q >= tau] log p(argmax q | s(u)),  q = p(y | w(u))            (eq. 4)

w and s are the weak and the strong augmentation. No gradient passes through q, which comes from the
current weights in training mode. The mean is over all unlabelled images, kept or not.

Two options, which together are AdaMatch (Berthelot et al. 2022) without its logit interpolation:

  * `align`: q is multiplied by E p(y | w(x)) / E q and normalised, so that the classes are as
    frequent among the pseudo-labels as among the labelled images. Means are over the batch; in the
    authors' code they are running means.
  * `relative`: tau is multiplied by E max p(y | w(x)), the confidence on labelled images.

Deviations: Adam instead of SGD with a cosine schedule, no weight decay, and a strong augmentation
for radiographs (augment.py) instead of RandAugment.
"""

import dataclasses
from typing import Literal

import jax
import optax

from ssl_gan_jax import targets
from ssl_gan_jax.augment import Augmentation, augmentation, strong
from ssl_gan_jax.losses import PseudoLabeled, cross_entropy, kept_counts
from ssl_gan_jax.methods._classifier import init_classifier
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The network of `ssl_gan`; tau, lambda and ema are the paper's."""

    num_classes: int = 2  # K
    size: int = 32  # pixels
    width: int = 32
    noise: float = 0.1  # on C's input
    dropout: tuple[float, float] = (0.0, 0.25)
    tau: float = 0.95
    lambda_: float = 1.0
    align: bool = False
    relative: bool = False
    lr: float = 5e-4
    beta1: float = 0.5
    ema: float = 0.999
    augmentation: Augmentation = "weak"  # w
    shift: int = 3  # pixels
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"noise": 0.0, "dropout": (0.0, 0.0)}
UNLABELED = 2  # for each labelled image; the paper's 7 need larger data sets
FINDINGS = True


def aligned(q: Array, p: Array) -> Array:
    """q with its mean over the batch moved to that of p; probabilities [U,K], [B,K] -> [U,K]."""
    q = q * (p.mean(0) + 1e-6) / (q.mean(0) + 1e-6)
    return q / q.sum(-1, keepdims=True)


def loss_unlabeled(strong_logits: Array, q: Array, tau: Array | float) -> PseudoLabeled:
    """L_u; logits of the strong views [U,K], and probabilities q of the weak views [U,K]."""
    kept = (q.max(-1) >= tau).astype(q.dtype)
    loss = optax.softmax_cross_entropy_with_integer_labels(strong_logits, q.argmax(-1))
    one_hot = jax.nn.one_hot(q.argmax(-1), q.shape[-1], dtype=q.dtype)
    return PseudoLabeled((kept * loss).mean(), kept.mean(), kept_counts(kept, one_hot))


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    augmented = augmentation(config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("x", "weak", "strong", "c")
        x, weak_u = augmented(keys.x, batch.image), augmented(keys.weak, batch.unlabeled)
        strong_u, choices = strong(keys.strong, batch.unlabeled), targets.of(batch.label).choices

        def loss_c(labeled: Array, weak: Array, strong: Array) -> tuple[Array, Metrics]:
            p, q = (jax.lax.stop_gradient(jax.nn.softmax(choices(x))) for x in (labeled, weak))
            tau = config.tau * p.max(-1).mean() if config.relative else config.tau
            l_u = loss_unlabeled(choices(strong), aligned(q, p) if config.align else q, tau)
            l_s = cross_entropy(labeled, batch.label)
            return l_s + config.lambda_ * l_u.loss, {"L_s": l_s, "L_u": l_u.loss, **l_u.metrics()}

        c, metrics = state.players["C"].learn(
            loss_c, x, weak_u, strong_u, key=keys.c, step=state.step, tracked=1
        )
        return state.next(C=c), metrics

    return Method(init_classifier(config), train_step, averaged("C"))
