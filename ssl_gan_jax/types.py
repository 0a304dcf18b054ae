"""The types of the package. Read this file first.

A `Method`'s `train_step` takes a `TrainState` and a `Batch`. A `TrainState` holds a `Player`
(player.py) for each network. All are pytrees of arrays or plain functions, so they can be jitted,
sharded, stacked over seeds and checkpointed.
"""

import zlib
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
from flax import struct

from ssl_gan_jax.player import Metrics, Player

Array = jax.Array
Key = jax.Array  # a typed key, as `jax.random.key` makes it
PyTree = Any

__all__ = ["Array", "Batch", "Key", "Method", "Metrics", "Player", "PyTree", "TrainState"]


class Batch(struct.PyTreeNode):
    """The images of a step: B labelled and U unlabelled. U is 0 if a method uses no unlabelled."""

    image: Array  # [B,H,W,1] float32 in [-1,1]
    label: Array  # [B] int32 in 0..K-1; or [B,K] of findings, see targets.py
    unlabeled: Array  # [U,H,W,1] float32 in [-1,1]


class TrainState(struct.PyTreeNode):
    """All that training carries from step to step; arrays only."""

    step: Array  # [] int32
    rng: Key  # never changes; a step draws from fold_in(rng, step)
    players: dict[str, Player]
    reference: Mapping[str, Array]  # virtual batch norm's reference batch of each player; or {}

    def keys(self, *names: str) -> SimpleNamespace:
        """Random keys of this step, one for each name; other names do not change a key."""
        key = jax.random.fold_in(self.rng, self.step)
        numbers = {name: zlib.crc32(name.encode()) for name in names}
        return SimpleNamespace(**{name: jax.random.fold_in(key, i) for name, i in numbers.items()})

    def next(self, **players: Player) -> "TrainState":
        """The state of the next step."""
        return self.replace(step=self.step + 1, players=players)


class Method(NamedTuple):
    """A training method. All members are pure and jittable, and do not call jit."""

    init: Callable[[Key, Batch], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    classify: Callable[[TrainState, Array], tuple[Array, Array]] | None = None
    """`[B,H,W,1]` images in [-1,1] -> logits [B,K] and features [B,F] of the averaged classifier;
    None: the method has no classifier (dcgan)."""
    generate: Callable[[TrainState, Array], Array] | None = None
    """z [B,Z] -> images [B,H,W,1] in [-1,1] of the averaged generator; None: the method has no
    generator (supervised)."""
    draw_z: Callable[[Key, int], Array] | None = None
    """n latent vectors [n,Z] from the generator's prior."""
