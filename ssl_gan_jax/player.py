"""A player: a network with its weights, their optimiser and their running average.

    d, metrics = d.learn(loss_d, x, fake.images, key=key, step=step)  # loss_d(real, generated)
    logits = d(fake.images, key=key)

All functions are pure: `learn` returns a new player.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

PyTree = Any
Metrics = dict[str, jax.Array]


class Player(struct.PyTreeNode):
    """A network with its weights, their optimiser, and their running average.

    A classifier or discriminator returns (logits [B,K], features [B,F]); a generator returns images
    [B,S,S,1]. Random numbers come from the collection "noise".
    """

    params: PyTree
    stats: PyTree  # running statistics of batch normalisation; or {}
    opt: PyTree  # the optimiser's state
    ema: PyTree  # {"params", "batch_stats"}: running averages of both, used for evaluation
    net: nn.Module = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    decay: float = struct.field(pytree_node=False)  # of the running average, in [0,1)

    @classmethod
    def create(
        cls,
        net: nn.Module,
        optimizer: optax.GradientTransformation,
        decay: float,
        key: jax.Array,
        x: jax.Array,
        reference: jax.Array | None = None,
    ) -> "Player":
        """A new player of `net`, initialised on `x`: real images if `net` has weight norm."""
        key_params, key_noise = jax.random.split(key)
        rngs = {"params": key_params, "noise": key_noise}
        variables = net.init(rngs, x, train=True, **_optional(reference))
        params, stats = variables["params"], variables.get("batch_stats", {})
        # Copies, because a donated state may hold each buffer only once.
        ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": stats})
        return cls(params, stats, optimizer.init(params), ema, net, optimizer, decay)

    def __call__(
        self, *batches: jax.Array, key: jax.Array, reference: jax.Array | None = None
    ) -> Any:  # noqa: ANN401
        """The logits of each batch in training mode: an array, or a tuple if there are several."""
        outputs, _ = self._run(self.params, batches, key, reference)
        logits = tuple(_first(out) for out in outputs)
        return logits if len(batches) > 1 else logits[0]

    def features(
        self, *batches: jax.Array, key: jax.Array, reference: jax.Array | None = None
    ) -> Any:  # noqa: ANN401
        """The features [B,F] of each batch in training mode, as `__call__` gives the logits."""
        outputs, _ = self._run(self.params, batches, key, reference)
        features = tuple(out[1] for out in outputs)
        return features if len(batches) > 1 else features[0]

    def averaged(self, x: jax.Array, reference: jax.Array | None = None) -> Any:  # noqa: ANN401
        """The output for `x` of the network with averaged weights, in evaluation mode."""
        return self.net.apply(self.ema, x, train=False, **_optional(reference))

    def intermediates(self, x: jax.Array, reference: jax.Array | None = None) -> dict[str, Any]:
        """The values that the network stores by `sow` when it computes `averaged(x)`."""
        _, stored = self.net.apply(
            self.ema, x, train=False, mutable=["intermediates"], **_optional(reference)
        )
        return stored.get("intermediates", {})

    def learn(
        self,
        loss: Callable[..., tuple[jax.Array, Metrics]],
        *batches: jax.Array,
        key: jax.Array,
        step: jax.Array,
        tracked: int | None = None,
        reference: jax.Array | None = None,
    ) -> tuple["Player", Metrics]:
        """One optimiser step on `loss`, a function of the logits of each batch.

        Args:
          loss: (logits of the first batch, of the second, ...) -> (loss [], metrics). Gradients
            reach the weights only through these logits.
          *batches: images [B,S,S,1] each; a batch is normalised by its own statistics.
          key: for noise and dropout.
          step: the number of earlier steps, for the running average.
          tracked: how many batches, from the first, update the running statistics; default all.
          reference: the reference batch, if the network has virtual batch norm.

        Returns:
          The player after the step, and the metrics.
        """

        def loss_of(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            outputs, stats = self._run(params, batches, key, reference)
            value, metrics = loss(*map(_first, outputs))
            return value, (stats[(tracked or len(batches)) - 1], metrics)

        grads, (stats, metrics) = jax.grad(loss_of, has_aux=True)(self.params)
        return self.update(grads, stats, step), metrics

    def generate(
        self,
        z: jax.Array,
        key: jax.Array,
        reference: jax.Array | None = None,
        then: Callable[[jax.Array], jax.Array] = lambda images: images,
    ) -> "Generated":
        """The images `then(G(z))`, from whose gradient the weights can learn later."""

        def images_of(params: PyTree) -> tuple[jax.Array, PyTree]:
            (images,), (stats,) = self._run(params, (z,), key, reference)
            return then(images), stats

        images, backward, stats = jax.vjp(images_of, self.params, has_aux=True)
        return Generated(images, self, backward, stats)

    def _run(
        self,
        params: PyTree,
        batches: tuple[jax.Array, ...],
        key: jax.Array,
        reference: jax.Array | None,
    ) -> tuple[list[PyTree], list[PyTree]]:
        """The outputs for each batch in training mode, and the running statistics after each.

        Without batch statistics images do not depend on each other, and the network runs once.
        """

        def run(x: jax.Array, key: jax.Array, stats: PyTree) -> tuple[PyTree, PyTree]:
            out, updated = self.net.apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                rngs={"noise": key},
                mutable=["batch_stats"],
                **_optional(reference),
            )
            return out, updated.get("batch_stats", {})

        if not self.stats and len(batches) > 1:
            out, _ = run(jnp.concatenate(batches), key, {})
            parts = itertools.pairwise([0, *np.cumsum([len(x) for x in batches])])
            outputs = [jax.tree.map(lambda leaf, p=p: leaf[slice(*p)], out) for p in parts]
            return outputs, [{}] * len(batches)
        outputs, stats = [], [self.stats]
        keys = jax.random.split(key, len(batches)) if len(batches) > 1 else [key]
        for x, key in zip(batches, keys, strict=True):
            out, after = run(x, key, stats[-1])
            outputs.append(out)
            stats.append(after)
        return outputs, stats[1:]

    def update(self, grads: PyTree, stats: PyTree, step: jax.Array) -> "Player":
        """One optimiser step, and one step of the running average of weights and statistics.

        After t steps the average is sum_i decay^(t-i) w_i / sum_i decay^(t-i), where w_i are the
        weights after step i. It is bias-corrected like Adam's moments: `decay` acts from the first
        step on, and the initial weights have no part. If `decay` is 0, it is the weights.
        """
        updates, opt = self.optimizer.update(grads, self.opt, self.params)
        params = optax.apply_updates(self.params, updates)
        decay = self.decay * (1 - self.decay**step) / (1 - self.decay ** (step + 1.0))
        new = {"params": params, "batch_stats": stats}
        ema = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, self.ema, new)
        return self.replace(params=params, stats=stats, opt=opt, ema=ema)


class Generated(NamedTuple):
    """Generated images, with the backward pass to the generator's weights."""

    images: jax.Array  # [B,S,S,1] in [-1,1]
    player: Player
    backward: Callable[[jax.Array], tuple[PyTree]]
    stats: PyTree

    def learn(
        self, loss: Callable[[jax.Array], tuple[jax.Array, Metrics]], step: jax.Array
    ) -> tuple[Player, Metrics]:
        """One optimiser step of the generator on `loss(images) -> (loss [], metrics)`."""
        grad, metrics = jax.grad(loss, has_aux=True)(self.images)
        (grads,) = self.backward(grad)
        return self.player.update(grads, self.stats, step), metrics


@functools.cache
def adam(lr: float, beta1: float, eps_root: float = 0.0) -> optax.GradientTransformation:
    """`optax.adam`, cached: equal players must have the same optimiser to be equal pytrees."""
    return optax.adam(lr, b1=beta1, eps_root=eps_root)


def averaged(name: str, outputs: int | None = None) -> Callable[[Any, jax.Array], Any]:
    """The function (state, x) -> output of the averaged network of the player `name`.

    Args:
      name: of the player.
      outputs: how many of the logits to keep; None: all that the network returns.
    """

    def evaluate(state: Any, x: jax.Array) -> Any:  # noqa: ANN401
        out = state.players[name].averaged(x, state.reference.get(name))
        return out if outputs is None else (out[0][:, :outputs], out[1])

    return evaluate


def _optional(reference: jax.Array | None) -> dict[str, jax.Array]:
    """Networks without virtual batch norm do not take the argument `reference`."""
    return {} if reference is None else {"reference": reference}


def _first(out: PyTree) -> jax.Array:
    return out[0] if isinstance(out, tuple) else out
