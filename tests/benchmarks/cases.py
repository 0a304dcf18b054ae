"""What is measured: configs, first states, and our steps as programs; `tiny` has the batches."""

import jax
import jax.numpy as jnp

import ssl_gan_jax

WIDTH = 64
# For programs that run once or twice: half the time to compile, the same convolutions.
HASTE = {"xla_backend_optimization_level": 0}


def config_of(name, size, **changes):
    """The method's default preset at this size; `changes` apply where the method has the key."""
    config = ssl_gan_jax.defaults(name)
    config.update(size=size, shift=size // 10)
    config.update({key: value for key, value in changes.items() if key in config})
    return config


def started(config, batch):
    """The method and its first state."""
    method = ssl_gan_jax.build(config)
    init = jax.jit(method.init, compiler_options=HASTE)
    return method, init(jax.random.key(0), batch)


def compiled(step, state, batch):
    """The program of a jitted step for these shapes."""
    return step.lower(state, batch).compile()


def single_step(method):
    return jax.jit(method.train_step, donate_argnums=0)


def many_steps(train_step, k):
    """`k` steps a call: (state, batches with a leading axis of k) -> (state, stacked metrics)."""

    def steps(state, batches):
        return jax.lax.scan(train_step, state, batches, length=k)

    return jax.jit(steps, donate_argnums=0)


def without_shift(config, state, batch):
    """The step whose work counts: random shifts are small products that a gather could replace."""
    config = config.copy_and_resolve_references()
    config.shift = 0
    return ssl_gan_jax.build(config).train_step, state, batch


def stacked(tree, n):
    """`n` copies of a pytree along a new leading axis."""
    return jax.tree.map(lambda x: jnp.stack([x] * n), tree)


def stepper(step, state, batch):
    """`run(n)` takes n steps and returns when they are done. Owns `state`, which is donated."""
    state = jax.tree.map(jnp.copy, state)

    def run(n):
        nonlocal state
        for _ in range(n):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run
