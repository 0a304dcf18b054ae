"""Loss terms that several methods share. Each is a mean over examples unless it says otherwise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.nn import softplus

from ssl_gan_jax import targets
from ssl_gan_jax.types import Array


def cross_entropy(logits: Array, y: Array) -> Array:
    """-E log p(y|x); logits [B,K], y [B] int, or [B,K] for findings -> []."""
    return targets.of(y).cross_entropy(logits, y)


def bce_real(logit: Array) -> Array:
    """L_d(D, 1) = -E log D, with D = sigmoid(logit) = P(real); [B] or [B,1] -> []."""
    return softplus(-logit).mean()


def bce_fake(logit: Array) -> Array:
    """L_d(D, 0) = -E log (1 - D); [B] or [B,1] -> []."""
    return softplus(logit).mean()


class PseudoLabeled(NamedTuple):
    """A pseudo-label loss and its metrics."""

    loss: Array  # []
    mask_rate: Array  # [], share of the images whose pseudo-label was kept
    counts: Array  # [K], kept pseudo-labels of each class

    def metrics(self) -> dict[str, Array]:
        """`mask_rate`, and `pseudo_labels_k` of each class k."""
        counts = {f"pseudo_labels_{k}": self.counts[k] for k in range(len(self.counts))}
        return {"mask_rate": self.mask_rate, **counts}


def pseudo_label(
    logits: Array, tau: float, mean: str = "kept", soft: bool = False
) -> PseudoLabeled:
    """Cross-entropy against the classifier's own confident predictions (Lee 2013).

    Haque & Haque write arg max(y_g) > tau (eq. 1 and 2). Here the condition is max(p) > tau, and
    the target is the one-hot arg max. No gradient passes through the target. If no image is kept,
    loss and gradient are exactly 0.

    Args:
      logits: [B,K], of generated images; [B,K,2] for findings, each kept or not by itself.
      tau: in [0,1), an image is kept if its largest probability is above tau.
      mean: "kept" divides by the number of kept images (EC-GAN), "batch" by that of all (FixMatch).
      soft: the target is p instead of its one-hot arg max.
    """
    p = jax.lax.stop_gradient(jax.nn.softmax(logits))
    kept = (p.max(-1) > tau).astype(logits.dtype)
    one_hot = jax.nn.one_hot(p.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    loss = optax.softmax_cross_entropy(logits, p if soft else one_hot)
    n = jnp.maximum(kept.sum(), 1.0) if mean == "kept" else kept.size
    return PseudoLabeled((loss * kept).sum() / n, kept.mean(), kept_counts(kept, one_hot))


def kept_counts(kept: Array, one_hot: Array) -> Array:
    """How many pseudo-labels of each class are kept; [...] in {0,1} and [...,K] -> [K]."""
    return kept.reshape(-1) @ one_hot.reshape(-1, one_hot.shape[-1])


def kl(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) over the last axis, averaged over the others; log-probabilities [...,K] -> []."""
    return optax.losses.kl_divergence_with_log_targets(log_q, log_p).mean()


def consistency(logits: Array, q: Array) -> Array:
    """E |p(y|x) - q|^2 / K; no gradient to q; [...,K], [...,K] -> []."""
    return jnp.square(jax.nn.softmax(logits) - jax.lax.stop_gradient(q)).mean()


def entropy(logits: Array) -> Array:
    """-E sum_y p(y|x) log p(y|x); [...,K] -> []."""
    return optax.softmax_cross_entropy(logits, jax.nn.softmax(logits)).mean()


def pull_away(features: Array) -> Array:
    """The mean of cos^2(f_i, f_j) over all pairs i != j (Zhao et al. 2017); [B,F] -> []."""
    f = features / (jnp.linalg.norm(features, axis=1, keepdims=True) + 1e-8)
    squared, n = jnp.square(f @ f.T), len(f)
    return (squared.sum() - jnp.trace(squared)) / (n * (n - 1))


def ramp_up(step: Array, steps: int) -> Array:
    """The factor min(step / steps, 1) of a weight; 1 if `steps` is 0; [] int -> []."""
    return jnp.minimum(step / steps, 1.0) if steps else jnp.ones(())
