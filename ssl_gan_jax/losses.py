"""Loss terms that several methods share. Each is a mean over examples unless it says otherwise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.nn import softplus

from ssl_gan_jax.types import Array, Key


def cross_entropy(logits: Array, y: Array) -> Array:
    """-E log p(y|x); logits [B,K], y [B] int -> []."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def says_real(logit: Array) -> Array:
    """-E log D, with D = sigmoid(logit) = P(real); [B] or [B,1] -> []."""
    return softplus(-logit).mean()


def says_fake(logit: Array) -> Array:
    """-E log (1 - D); [B] or [B,1] -> []."""
    return softplus(logit).mean()


class PseudoLabelled(NamedTuple):
    """A pseudo-label loss and what a reader of the log must know about it."""

    loss: Array  # []
    mask_rate: Array  # [], share of the images whose pseudo-label was kept
    counts: Array  # [K], kept pseudo-labels of each class


def pseudo_label(
    logits: Array, tau: float, mean: str = "kept", soft: bool = False
) -> PseudoLabelled:
    """Cross-entropy against the classifier's own confident predictions (Lee 2013; H eq. 1 and 2).

    H writes arg max(y_g) > tau; it is read as max(p) > tau with the one-hot arg max as target.
    No gradient passes through the target. With no image kept, loss and gradient are exactly 0.

    Args:
      logits: [B,K], the classifier's on generated images.
      tau: confidence in [0,1) above which a prediction counts.
      mean: "kept" divides by the number of kept images (EC-GAN), "batch" by B (FixMatch).
      soft: the target is the whole prediction p instead of its one-hot arg max.
    """
    p = jax.lax.stop_gradient(jax.nn.softmax(logits))
    kept = (p.max(-1) > tau).astype(logits.dtype)
    one_hot = jax.nn.one_hot(p.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    loss = optax.softmax_cross_entropy(logits, p if soft else one_hot)
    n = jnp.maximum(kept.sum(), 1.0) if mean == "kept" else len(logits)
    return PseudoLabelled((loss * kept).sum() / n, kept.mean(), kept @ one_hot)


def kl(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) over the last axis, averaged over the others; log-probabilities [...,K] -> []."""
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def draw_z(key: Key, n: int, z_dim: int, prior: str = "normal") -> Array:
    """[n,z_dim] latent vectors from N(0,1) or, with prior "uniform", from U(0,1) (Salimans)."""
    draw = jax.random.uniform if prior == "uniform" else jax.random.normal
    return draw(key, (n, z_dim))
