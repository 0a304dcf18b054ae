"""Four terms from other papers that can be added to the K+1 loss of `ssl_gan`.

    consistency  L += w_c(t) E |p(y | x') - q|^2: a second view x' of an unlabelled image agrees
                 with q, the prediction on the first, without gradient to q (Laine & Aila 2017; Wei
                 et al. 2018 added it to this loss). `student="strong"` augments x' strongly;
                 `teacher="average"` takes q from the averaged D, without noise and dropout
                 (Tarvainen & Valpola 2017). w_c rises linearly over the first `ramp` steps.
    entropy      L += w_h E H(p(y | x)) on unlabelled images              (Dai et al. 2017, eq. 8)
    manifold     L += w_m E |l(G(z)) - l(G(z + eps d))|^2, d a random direction of length 1
                 (Lecouat et al. 2018). eps is .1: the noise in D would hide their 1e-5.
    pull_away    L_G += w_p mean over i != j of cos^2(f_i, f_j) on generated images, f the features
                 (Dai et al. 2017, eq. 7). `ssl_gan.py` adds it to G's loss.

p(y | x) is the probability among the real classes, y < K+1. For K findings (targets.py) the first
term is a sum over them, and the entropy their mean.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ssl_gan_jax.augment import augmentation, strong
from ssl_gan_jax.losses import consistency, entropy, ramp_up
from ssl_gan_jax.targets import Kind
from ssl_gan_jax.types import Array, Batch, Metrics, TrainState

EPS = 0.1


def views(config: Any, state: TrainState, batch: Batch, z: Array) -> dict[str, Array]:  # noqa: ANN401
    """The images [U,H,W,1] that the terms need in addition: "student" and "near"."""
    keys = state.keys("student", "near", "near_g", "fake")
    augmented, images = augmentation(config), {}
    if config.consistency:
        view = strong if config.student == "strong" else augmented
        images["student"] = view(keys.student, batch.unlabeled)
    if config.manifold:
        d = jax.random.normal(keys.near, z.shape)
        d /= jnp.linalg.norm(d, axis=1, keepdims=True)
        g, reference = state.players["G"], state.reference.get("G")
        near = g(z + EPS * d, key=keys.near_g, reference=reference)
        images["near"] = augmented(keys.fake, near)  # as G(z) is augmented
    return images


def total(
    config: Any,  # noqa: ANN401
    state: TrainState,
    x_u: Array,
    logits: Mapping[str, Array],
    target: Kind,
) -> tuple[Array | float, Metrics]:
    """The weighted sum of D's added terms, and each term as a metric.

    Args:
      config: of `ssl_gan`.
      state: before the step.
      x_u: the first view of the unlabelled images, [U,H,W,1].
      logits: of each view, [U,K+1]: "u", "fake", and those of `views`.
      target: the kind of the labels.
    """
    k, terms, weights = config.num_classes, {}, {}
    if config.consistency:
        q, student = logits["u"], target.choices(logits["student"][:, :k])
        if config.teacher == "average":
            q, _ = state.players["D"].averaged(x_u, state.reference.get("D"))
        # `consistency` is a mean over classes; the term is a sum.
        q = jax.nn.softmax(target.choices(q[:, :k]))
        terms["L_consistency"] = k * consistency(student, q)
        weights["L_consistency"] = config.consistency * ramp_up(state.step, config.ramp)
    if config.entropy:
        terms["L_entropy"] = entropy(target.choices(logits["u"][:, :k]))
        weights["L_entropy"] = config.entropy
    if config.manifold:
        terms["L_manifold"] = jnp.square(logits["fake"] - logits["near"]).sum(-1).mean()
        weights["L_manifold"] = config.manifold
    return sum(weights[name] * terms[name] for name in terms), terms
