"""What every method does to its players: make one, run its network, take an optimiser step."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ssl_gan_jax.types import Array, Key, Player, PyTree, TrainState


def create(
    net: nn.Module, optimizer: optax.GradientTransformation, key: Key, *args: Array, **kwargs: Array
) -> Player:
    """A fresh player of the network `net`, initialised by running it on `args`.

    Weight-normalised networks scale themselves to these arguments: give them real data.
    """
    key_params, key_noise = jax.random.split(key)
    rngs = {"params": key_params, "noise": key_noise}
    variables = net.init(rngs, *args, train=True, **kwargs)
    params, stats = variables["params"], variables.get("batch_stats", {})
    # Copies, because a donated state may hold each buffer only once.
    ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": stats})
    return Player(params=params, stats=stats, opt=optimizer.init(params), ema=ema)


def run(
    net: nn.Module, params: PyTree, stats: PyTree, key: Key, *args: Array, **kwargs: Array
) -> tuple[PyTree, PyTree]:
    """The network in training mode: its outputs and its updated running statistics."""
    out, updated = net.apply(
        {"params": params, "batch_stats": stats},
        *args,
        train=True,
        rngs={"noise": key},
        mutable=["batch_stats"],
        **kwargs,
    )
    return out, updated.get("batch_stats", {})


def run_averaged(net: nn.Module, player: Player, *args: Array, **kwargs: Array) -> PyTree:
    """The network in evaluation mode with the player's averaged weights and statistics."""
    return net.apply(player.ema, *args, train=False, **kwargs)


def update(
    player: Player,
    grads: PyTree,
    stats: PyTree,
    optimizer: optax.GradientTransformation,
    step: Array,
    decay: float,
) -> Player:
    """One optimiser step, and one step of the running average of weights and statistics.

    The average decays by min(decay, (1+step)/(10+step)), so that the random initial weights are
    forgotten early; `decay=0` keeps no average: it equals the weights.
    """
    updates, opt = optimizer.update(grads, player.opt, player.params)
    params = optax.apply_updates(player.params, updates)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    ema = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new,
        player.ema,
        {"params": params, "batch_stats": stats},
    )
    return Player(params=params, stats=stats, opt=opt, ema=ema)


def step_keys(state: TrainState, n: int) -> Key:
    """`n` random keys that belong to this step and to no other."""
    return jax.random.split(jax.random.fold_in(state.rng, state.step), n)
