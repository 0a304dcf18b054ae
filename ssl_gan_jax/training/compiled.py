"""Jitted functions of a method, cached: runs with equal settings compile once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import logging

from ssl_gan_jax import methods
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.nets import convolution
from ssl_gan_jax.training.devices import Devices, data_mesh
from ssl_gan_jax.types import Array, Batch, Metrics, TrainState


class Compiled(NamedTuple):
    """The jitted functions of a method, for runs that train as one program."""

    devices: Devices
    init: Callable[[Array, Batch], TrainState]  # of one run, like `classify` and `generate`
    one_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    several_steps: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    classify: Callable[[TrainState, Array], tuple[Array, Array]] | None
    generate: Callable[[TrainState, Array], Array] | None
    draw_z: Callable[[Array, int], Array] | None


@functools.lru_cache(maxsize=2)
def compile_method(
    settings: tuple[tuple[str, Any], ...], n: int, shard_sizes: tuple[int, int] | None
) -> Compiled:
    """Compiles a method for `n` runs; cached, so that the runs of a sweep compile it once.

    Args:
      settings: the items of the method's config.
      n: number of runs that train together.
      shard_sizes: the batch sizes of a single run, which divides its batches over all devices;
        None: each run is a replica on one device.

    Raises:
      UserError: a setting of the method is wrong, or the devices do not divide the batches.
    """
    method = methods.build(dict(settings))
    mesh = data_mesh(*shard_sizes) if shard_sizes else None
    devices = Devices(n, mesh)

    def traced(function):
        """`function` with only the CPU's convolutions, if it is compiled for CPUs only."""
        return convolution.form("cpu")(function) if function and devices.are_cpus else function

    @traced
    def train_step(state, raw):
        logging.info("Compiling the training step")  # when it is traced, and at no later call
        return method.train_step(state, scaled(raw))

    return Compiled(
        devices=devices,
        init=jax.jit(
            traced(lambda key, raw: method.init(key, scaled(raw))),
            out_shardings=devices.one_state,  # with several processes, one global state
            # `init` runs once: on a CPU, optimising it takes longer than it saves.
            compiler_options={"xla_backend_optimization_level": 0} if devices.are_cpus else None,
        ),
        one_step=devices.compile(train_step),
        several_steps=devices.compile(lambda state, raw: jax.lax.scan(train_step, state, raw)),
        classify=method.classify and jax.jit(traced(method.classify)),
        generate=method.generate and jax.jit(traced(method.generate)),
        draw_z=method.draw_z,
    )


def scaled(raw: Batch) -> Batch:
    """uint8 images -> float32 in [-1,1], on the device."""
    return raw.replace(image=to_float(raw.image), unlabeled=to_float(raw.unlabeled))
