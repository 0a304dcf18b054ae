"""What a label says: one of K classes, or which of K findings an image shows.

    classes     labels [N] int, 0..K-1; -1: not known
    findings    labels [N,K] int, 1 present, 0 absent, -1 not known

The number of axes of the labels says which. This module is the place that knows the difference;
evaluation/findings.py scores findings, each as two classes.

A classifier has K logits, and the D of `ssl_gan` one output more. A finding with the logit a is a
choice between two classes with the logits -a/2 and a/2. So a term over classes, the last axis of
its logits, is a term over findings if `choices` gives it that axis.

    classes     p(y = k | x, real) = softmax(l)_k       z = log sum_k exp l_k - l_{K+1}
    findings    p(y_k = 1 | x, real) = sigmoid(a_k)     z = b + sum_k [softplus(a_k) - a_k/2]

z is the logit of "real". For findings it is exact: "real with the labels y in {0,1}^K" is 2^K
classes with the logits b + sum_k (y_k - 1/2) a_k, beside "generated" with the logit 0. One finding
is the two classes l_0, l_1 with a = l_1 - l_0 and b = (l_0 + l_1)/2 - l_fake. The -1/2 matters:
with y_k a_k, real images would be pushed towards "present".
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import expit, softmax

from ssl_gan_jax.types import Array


class Kind(NamedTuple):
    """What a kind of labels changes, as pure functions."""

    name: str
    choices: Callable[[Array], Array]
    """Logits [B,K] -> logits whose last axis is one choice: [B,K], or [B,K,2] for findings."""
    cross_entropy: Callable[[Array, Array], Array]
    """Logits [B,K] and labels -> -E log p(y|x), []."""
    real_logit: Callable[[Array], Array]
    """Outputs [B,K+1] of D -> z [B]."""
    probability: Callable[[np.ndarray], np.ndarray]
    """Logits [N,K] in NumPy -> probabilities [N,K]."""
    has_threshold: Callable[[int], bool]
    """Whether thresholds decide, if there are K classes or findings; else the largest logit."""
    members: Callable[[np.ndarray, int], np.ndarray]
    """Labels and K -> [N,K] bool: whether an image is of a class, or shows a finding."""


def of(label: Array | np.ndarray) -> Kind:
    """The kind of these labels."""
    return CLASSES if label.ndim == 1 else FINDINGS


def findings_in(module: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function for labels of classes.

    Labels [N,K] of findings go to the function of the same name and arguments in `module`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        place = list(inspect.signature(function).parameters).index("label")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            label = args[place] if len(args) > place else kwargs["label"]
            if np.ndim(label) < 2:
                return function(*args, **kwargs)
            return getattr(importlib.import_module(module), function.__name__)(*args, **kwargs)

        return call

    return decorate


def is_labelled(label: np.ndarray) -> np.ndarray:
    """Whether anything is known of an image: labels -> [N] bool."""
    return label >= 0 if label.ndim == 1 else (label >= 0).any(axis=1)


def counts(label: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """The number of images of each class, or with each finding; JSON-ready."""
    number = of(label).members(label, len(classes)).sum(axis=0).tolist()
    return dict(zip(classes, number, strict=True))


def lacking(label: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The classes without an image; the findings without an image that shows, or lacks, them."""
    without = ~of(label).members(label, len(classes)).any(axis=0)
    if of(label) is FINDINGS:
        without |= ~(label == 0).any(axis=0)
    return [name for name, bad in zip(classes, without, strict=True) if bad]


def _pairs(logits: Array) -> Array:
    return jnp.stack([-logits / 2, logits / 2], axis=-1)


def _known_cross_entropy(logits: Array, y: Array) -> Array:
    """The mean over the labels that are known; 0 if none is."""
    known = y >= 0
    terms = optax.sigmoid_binary_cross_entropy(logits, y.astype(logits.dtype))
    return jnp.where(known, terms, 0).sum() / jnp.maximum(known.sum(), 1)


CLASSES = Kind(
    name="classes",
    choices=lambda logits: logits,
    cross_entropy=lambda logits, y: optax.softmax_cross_entropy_with_integer_labels(
        logits, y
    ).mean(),
    real_logit=lambda out: jax.nn.logsumexp(out[:, :-1], axis=-1) - out[:, -1],
    probability=lambda logits: softmax(np.asarray(logits, np.float64), axis=1),
    has_threshold=lambda k: k == 2,
    members=lambda label, k: label[:, None] == np.arange(k),
)
FINDINGS = Kind(
    name="findings",
    choices=_pairs,
    cross_entropy=_known_cross_entropy,
    real_logit=lambda out: jax.nn.logsumexp(_pairs(out[:, :-1]), axis=-1).sum(-1) + out[:, -1],
    probability=lambda logits: expit(np.asarray(logits, np.float64)),
    has_threshold=lambda k: True,
    members=lambda label, k: label == 1,
)
KINDS = {kind.name: kind for kind in (CLASSES, FINDINGS)}
