"""Explanations of a classifier's decisions: HiResCAM heat maps.

    heat = relu(sum_channels A * d(evidence)/dA)         A: the 8x8 map of the last but one stage

Grad-CAM (Selvaraju et al. 2017) averages the gradient over the map first, which suits networks
that end in average pooling. These networks end in a linear layer over positions, so the average
would mix positions; HiResCAM (Draelos & Carin 2020) does not average. A map is a hint, not a proof:
configs/results/trust.jsonl has how often both methods point at the phantom's heart.

The evidence is the log odds of the positive class, which is the second of two; with more classes,
of the predicted class. If an image may have several findings, they are those of the likeliest one,
before calibration. `of` names another class or finding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.evaluation.metrics import batched
from ssl_gan_jax.inference import FinishedRun, require
from ssl_gan_jax.targets import CLASSES, Kind
from ssl_gan_jax.types import Array, Method, TrainState


def heatmaps(
    method: Method,
    state: TrainState,
    images: Array,
    target: Kind = CLASSES,
    of: int | None = None,
) -> Array:
    """Images [B,S,S,1] in [-1,1] -> heat [B,8,8], 0 or more; pure. Else as `gradients`."""
    gradient, maps = gradients(method, state, images, target, of)
    return jax.nn.relu((gradient * maps).sum(-1))


def gradients(
    method: Method,
    state: TrainState,
    images: Array,
    target: Kind = CLASSES,
    of: int | None = None,
) -> tuple[Array, Array]:
    """Images [B,S,S,1] in [-1,1] -> d(evidence)/dA and A, both [B,8,8,C].

    The evidence is for the class or finding `of`; None: as in the docstring of the file.

    Virtual batch norm puts its reference images before `images`; the results leave them out.

    Raises:
      UserError: the network has no convolution with an 8x8 map.
    """
    name = "C" if "C" in state.players else "D"  # as in every method
    classifier = state.players[name]
    maps = classifier.intermediates(images, state.reference.get(name)).get("map")
    if not maps:
        raise UserError("--explain needs a network of convolutions; this run's has none")

    def evidence_at(perturbation: Array) -> Array:
        """The summed log odds of the classes of interest if `perturbation` is added to A."""
        variables = {**classifier.ema, "perturbations": {"map": perturbation}}
        players = {**state.players, name: classifier.replace(ema=variables)}
        logits, _ = method.classify(state.replace(players=players), images)
        k = logits.shape[1]
        positive = 1 if of is None and k == 2 and target is CLASSES else of
        # Not `max`: its gradient compares logits that XLA may compute twice, with other last bits.
        interest = logits.argmax(1) if positive is None else jnp.full(len(logits), positive)
        chosen = jax.nn.one_hot(interest, k, dtype=bool)
        evidence = jnp.where(chosen, logits, 0).sum(1)
        if target is CLASSES:  # a finding's logit is its log odds already
            evidence -= jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=1)
        return evidence.sum()

    gradient = jax.grad(evidence_at)(jnp.zeros_like(maps[-1]))
    return gradient[-len(images) :], maps[-1][-len(images) :]


def explainer(run: FinishedRun, of: str | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """`heatmaps`, compiled once: uint8 images [N,S,S,1] -> [N,8,8].

    Raises:
      UserError: the method has no classifier; or the run has no class or finding `of`.
    """
    require(run, "classifier")
    k = None
    if of is not None:
        k = run.classes.index(check_choice("class or finding to explain", of, run.classes))
    compiled = jax.jit(lambda x: (heatmaps(run.method, run.state, x, run.target, k),))
    return lambda images: batched(compiled, images)[0]


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """[h,w] of any dtype -> float32 [side,side], bilinear."""
    image = Image.fromarray(np.asarray(picture, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def overlay(image: np.ndarray, heat: np.ndarray, side: int = 256) -> np.ndarray:
    """uint8 [side,side,3]: `image` [S,S,1] uint8 under `heat` [h,w] in red; its maximum is .6."""
    alpha = 0.6 * enlarge(heat / max(heat.max(), 1e-12), side)[..., None]
    gray = enlarge(image[..., 0], side)[..., None]
    pixels = (1 - alpha) * gray + alpha * np.array([255, 40, 0])
    return pixels.round().clip(0, 255).astype(np.uint8)
