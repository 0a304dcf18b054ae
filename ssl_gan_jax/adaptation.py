"""Adapts a classifier to another hospital's images, without a label and without its own data.

SHOT (Liang et al. 2020): the last layer stays as it is, and all below it learns to give the new
images features that this layer is sure of.

    L   = E H(p(w(u))) + KL(E p(w(u)) || pi) + .3 CE(y', p(v(u)))
    y'  = the class whose centroid is nearest to the features of u (cosine)
    c_k = sum p_k(u) f(u) / sum p_k(u),  then the mean features of those nearest to it

pi is the share of each class that is expected; even shares make the second term SHOT's diversity.
Where they are far from even and not known, it does harm. w is the run's own augmentation, v is w
or the strong one. Networks with batch normalisation take the new images' statistics on the way
(adaptive batch normalisation); with a learning rate of 0 that is all that happens.

Deviations: Adam for SGD, no label smoothing when the source was trained, the averaged weights (as
in training) are those that are kept and that give the pseudo-labels.
"""

import functools
import types
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_gan_jax.augment import augmentation, strong
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.inference import FinishedRun
from ssl_gan_jax.losses import cross_entropy
from ssl_gan_jax.player import Player, adam
from ssl_gan_jax.types import Array, Key, Metrics, TrainState

Augment = Callable[[Key, Array], Array]
WEIGHT = 0.3  # of the pseudo-labels


def adapt(
    run: FinishedRun,
    images: np.ndarray,
    prior: np.ndarray,
    steps: int,
    lr: float,
    strongly: bool = True,
    seed: int = 0,
) -> TrainState:
    """The state of `run` after so many steps on uint8 images [N,S,S,1].

    Args:
      run: its method has a classifier.
      images: of the other hospital, all at once.
      prior: [K] expected share of each class.
      steps: of 32 images each, or of all where there are fewer.
      lr: learning rate.
      strongly: whether pseudo-labels are learnt on strongly augmented images.
      seed: of order, augmentation and noise.

    Raises:
      UserError: the weights diverge.
    """
    settings = {"augmentation": "weak", "shift": 0, "flip": False, **run.config["method"]}
    weak = augmentation(types.SimpleNamespace(**settings))
    name = classifier_of(run.state)
    size, rng = min(32, len(images)), np.random.default_rng(seed)
    state = run.state.replace(rng=jax.random.key(seed))
    state = begin(state, name, jnp.asarray(to_float(images[:size])), lr)
    compiled = jax.jit(
        functools.partial(
            step,
            name=name,
            prior=jnp.asarray(prior, jnp.float32),
            weak=weak,
            view=strong if strongly else weak,
        )
    )
    classify, order = jax.jit(run.method.classify), np.zeros(0, int)
    for taken in range(steps):
        if len(order) < size:  # an epoch, with pseudo-labels of its own
            logits, features = metrics.batched(functools.partial(classify, state), images)
            if not np.isfinite(logits).all():
                raise UserError(f"step {taken}: the weights diverge; give a lower --lr")
            label = pseudo_labels(features, calibration.tempered(logits, 1.0))
            order = rng.permutation(len(images))
        rows, order = order[:size], order[size:]
        batch, labels = to_float(images[rows]), label[rows].astype(np.int32)
        state, _ = compiled(state, batch, labels, jnp.int32(taken))
    state = end(state, name, run.state.players[name])
    return state.replace(rng=run.state.rng)


def classifier_of(state: TrainState) -> str:
    """The player that classifies, in every method."""
    return "C" if "C" in state.players else "D"


class Shot(NamedTuple):
    """The terms of L that need no pseudo-labels."""

    entropy: Array  # []
    diversity: Array  # [], 0 where the mean prediction is pi


def terms(logits: Array, prior: Array) -> Shot:
    """E H(p) and KL(E p || pi) of logits [B,K] and shares [K]."""
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    mean = p.mean(0)
    diversity = (mean * (jnp.log(jnp.maximum(mean, 1e-9)) - jnp.log(prior))).sum()
    return Shot(-(p * log_p).sum(-1).mean(), diversity)


def pseudo_labels(features: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The nearest centroid [N] of features [N,F], which probabilities [N,K] begin."""
    f = np.pad(features, ((0, 0), (0, 1)), constant_values=1.0)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    weight = np.asarray(probs, np.float64)
    for _ in range(2):
        centroid = weight.T @ f / (weight.sum(0)[:, None] + 1e-8)
        length = np.linalg.norm(centroid, axis=1)
        cosine = f @ (centroid / np.maximum(length, 1e-12)[:, None]).T
        # A class that no image is nearest to has no centroid any more.
        label = np.where(length > 0, cosine, -np.inf).argmax(1)
        weight = np.eye(weight.shape[1])[label]
    return label


def begin(state: TrainState, name: str, images: Array, lr: float) -> TrainState:
    """`state` with the player `name` ready to adapt: its averaged weights, and a frozen last layer.

    Frozen is all that the features of `images` [B,S,S,1] do not depend on.
    """
    player, reference = state.players[name], state.reference.get(name)
    params, stats = jax.tree.map(jnp.copy, (player.ema["params"], player.ema["batch_stats"]))

    def energy(params: dict) -> Array:
        ema = {"params": params, "batch_stats": stats}
        return (player.replace(ema=ema).averaged(images, reference)[1] ** 2).sum()

    moves = jax.tree.map(lambda g: (g != 0).any(), jax.jit(jax.grad(energy))(params))
    inner = adam(lr, 0.9)

    def update(grads: dict, opt: optax.OptState, params: dict | None = None) -> tuple:
        return inner.update(jax.tree.map(jnp.multiply, grads, moves), opt, params)

    frozen = optax.GradientTransformation(inner.init, update)
    adapting = player.replace(params=params, stats=stats, opt=inner.init(params), optimizer=frozen)
    return state.replace(players={**state.players, name: adapting})


def step(
    state: TrainState,
    images: Array,
    label: Array,
    taken: Array,
    *,
    name: str,
    prior: Array,
    weak: Augment,
    view: Augment,
) -> tuple[TrainState, Metrics]:
    """One step on images [B,S,S,1] with pseudo-labels [B], after `taken` others.

    Of a classifier with more outputs than classes, [K] = len(prior), the others are left alone.
    """
    keys, k = state.keys("weak", "view", "adapt"), len(prior)

    def loss(logits: Array, of_view: Array) -> tuple[Array, Metrics]:
        shot = terms(logits[:, :k], prior)
        pseudo = cross_entropy(of_view[:, :k], label)
        total = shot.entropy + shot.diversity + WEIGHT * pseudo
        return total, {"L": total, **shot._asdict(), "pseudo": pseudo}

    player, metrics = state.players[name].learn(
        loss,
        weak(keys.weak, images),
        view(keys.view, images),
        key=keys.adapt,
        step=taken,
        tracked=1,
        reference=state.reference.get(name),
    )
    return state.next(**{**state.players, name: player}), metrics


def end(state: TrainState, name: str, like: Player) -> TrainState:
    """The adapted `state` in the form of a run's: with the optimiser of the player `like`, anew."""
    adapted = state.players[name]
    opt = like.optimizer.init(adapted.params)
    player = adapted.replace(opt=opt, optimizer=like.optimizer)
    return state.replace(players={**state.players, name: player})
