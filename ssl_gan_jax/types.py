"""The four types that everything else is written in. Read this file first.

A `Batch` goes into a `Method`'s `train_step` together with a `TrainState`; a `TrainState` holds
one `Player` for each network in the game. All four are pytrees of arrays or plain functions, so
they can be jitted, sharded, stacked over seeds and checkpointed without further ado.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import struct

Array = jax.Array
Key = jax.Array  # a typed key, as `jax.random.key` makes it
PyTree = Any
Metrics = dict[str, Array]  # scalars, under the names that the paper gives its terms


class Batch(struct.PyTreeNode):
    """One step's images. B labelled and U unlabelled; U is 0 where a method uses none."""

    image: Array  # [B,H,W,1] float32 in [-1,1]
    label: Array  # [B] int32 in 0..K-1
    unlabeled: Array  # [U,H,W,1] float32 in [-1,1]


class Player(struct.PyTreeNode):
    """One network in the game: its weights and all that belongs to them."""

    params: PyTree
    stats: PyTree  # running statistics of batch normalisation; {} without
    opt: PyTree  # the optimiser's state
    ema: PyTree  # {"params", "batch_stats"}: running averages of both, used for evaluation


class TrainState(struct.PyTreeNode):
    """Everything that training carries from step to step; arrays only."""

    step: Array  # [] int32
    rng: Key  # never changes; a step draws from fold_in(rng, step)
    players: dict[str, Player]
    reference: Mapping[str, Array]  # virtual batch norm's reference batch of each player; or {}


class Method(NamedTuple):
    """A training method. Every member is pure and jittable, and no member calls jit itself."""

    init: Callable[[Key, Batch], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    predict: Callable[[TrainState, Array], Array] | None
    """`[B,H,W,1]` images in [-1,1] -> `[B,K]` logits of the averaged classifier; None: dcgan."""
    sample: Callable[[TrainState, Key, int], Array] | None
    """`n` images `[n,H,W,1]` in [-1,1] of the averaged generator; None: supervised."""
