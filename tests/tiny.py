"""The smallest networks and batches on which every method still does all that it does."""

import functools

import jax
import jax.numpy as jnp
import ml_collections

import ssl_gan_jax
from ssl_gan_jax import methods
from ssl_gan_jax.types import Batch

METHODS = tuple(methods.names())


def method_config(name: str, **changes) -> ml_collections.ConfigDict:
    config = ssl_gan_jax.defaults(name)
    config.update(size=16, width=4, shift=3)
    if "reference_size" in config:
        config.reference_size = 4
    config.update(changes)
    return config


def batch(name: str = "ssl_gan", b: int = 8, size: int = 16, seed: int = 0) -> Batch:
    key_x, key_u = jax.random.split(jax.random.key(seed))
    u = b * methods.unlabeled_per_labeled(name)
    return Batch(
        image=jnp.tanh(jax.random.normal(key_x, (b, size, size, 1))),
        label=jnp.arange(b, dtype=jnp.int32) % 2,
        unlabeled=jnp.tanh(jax.random.normal(key_u, (u, size, size, 1))),
    )


@functools.cache
def build(name: str, **changes):
    """A method: equal settings give the same functions, which JAX traces and compiles once."""
    return ssl_gan_jax.build(method_config(name, **changes))


def started(name: str, seed: int = 0, **changes):
    """A method, its first state and a batch."""
    method, first = build(name, **changes), batch(name)
    return method, jax.jit(method.init)(jax.random.key(seed), first), first


def same(a, b) -> bool:
    """Two pytrees are equal bit for bit."""
    return all(
        bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
