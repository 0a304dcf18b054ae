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

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def of(label: Array | np.ndarray) -> Kind:
    """The kind of these labels."""
    return CLASSES if label.ndim == 1 else FINDINGS


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
)
FINDINGS = Kind(
    name="findings",
    choices=_pairs,
    cross_entropy=_known_cross_entropy,
    real_logit=lambda out: jax.nn.logsumexp(_pairs(out[:, :-1]), axis=-1).sum(-1) + out[:, -1],
)
