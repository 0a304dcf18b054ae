"""Mean Teacher (Tarvainen & Valpola 2017): a classifier agrees with its running average.

    L = L_s + w(t) J
    L_s = -E log p(y | x)
    J = E |p(y | s(u)) - p'(y | w(u))|^2 / K

p is the student C. p' is the teacher, the running average of C's weights, without noise and
dropout; no gradient passes through it. s and w are two augmentations of an unlabelled image. w(t)
rises linearly to w over the first `ramp` steps. If `ema` is 0, the teacher is the student of the
previous step: the Pi model of Laine & Aila 2017.

By default s is the strong augmentation; in the paper (`preset=paper`) s and w are both weak. The
paper's ramp is exp(-5 (1 - t/T)^2); USB and FixMatch use a linear ramp. J is a mean over the
unlabelled images, which include the labelled images.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from ssl_gan_jax import targets
from ssl_gan_jax.augment import Augmentation, augmentation, strong
from ssl_gan_jax.losses import consistency, cross_entropy, ramp_up
from ssl_gan_jax.methods._classifier import init_classifier
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The network of `ssl_gan`; weights chosen on validation images.

    With `norm="batch"` the student's labelled and unlabelled images are one batch, as in the paper.
    """

    num_classes: int = 2  # K
    size: int = 32  # pixels
    width: int = 32
    norm: Literal["weight", "batch"] = "weight"
    noise: float = 0.1  # on C's input
    dropout: tuple[float, float] = (0.0, 0.25)
    w: float = 10.0
    ramp: int = 400  # steps: 40 % of 1,000
    student: Literal["strong", "weak"] = "strong"  # s
    lr: float = 5e-4
    beta1: float = 0.5
    ema: float = 0.999  # of the teacher, which is evaluated
    augmentation: Augmentation = "weak"  # w, and of labelled images
    shift: int = 3  # pixels
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"w": 100.0, "student": "weak"}
UNLABELED = 2  # for each labelled image
FINDINGS = True


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    augmented = augmentation(config)
    student_view = strong if config.student == "strong" else augmented

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("x", "student", "teacher", "c")
        c, choices = state.players["C"], targets.of(batch.label).choices
        x, u = augmented(keys.x, batch.image), batch.unlabeled
        teacher, _ = c.averaged(augmented(keys.teacher, u))
        w = config.w * ramp_up(state.step, config.ramp)

        def loss_c(logits: Array) -> tuple[Array, Metrics]:
            labeled, student = logits[: len(x)], logits[len(x) :]
            l_s = cross_entropy(labeled, batch.label)
            j = consistency(choices(student), jax.nn.softmax(choices(teacher)))
            return l_s + w * j, {"L_s": l_s, "J": j, "w": w}

        views = jnp.concatenate([x, student_view(keys.student, u)])
        c, metrics = c.learn(loss_c, views, key=keys.c, step=state.step)
        return state.next(C=c), metrics

    return Method(init_classifier(config, norm=config.norm), train_step, averaged("C"))
