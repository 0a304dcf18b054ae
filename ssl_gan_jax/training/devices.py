"""One program on many devices, in one of two ways.

One run      the devices share the batch, and each holds the whole state. Gradients and batch
             statistics are those of the global batch (the global view of `jax.jit`), so the number
             of devices changes only the rounding.
Replicas     the devices share the runs, each with its own state and batch, without communication.
             `vmap` stacks the runs of a device.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import Batch, Metrics, PyTree, TrainState


def data_mesh(*batch_sizes: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or of `devices`) with one axis, "data".

    Raises:
      UserError: the number of devices does not divide a batch size.
    """
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    for size in batch_sizes:
        if size % n:
            raise UserError(f"train: a batch of {size} does not divide over {n} devices")
    # Auto axes: Linen's layers fail under the explicit ones, which are make_mesh's default.
    return jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding in which each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def shard(batch: PyTree, mesh: Mesh, axis: int = 0) -> PyTree:
    """Makes the global batch on `mesh` from this process's part of it, in NumPy."""
    sharding = NamedSharding(mesh, PartitionSpec(*axis * (None,), *mesh.axis_names))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def replica_mesh(n: int) -> Mesh:
    """The largest mesh whose devices share `n` replicas evenly, with one axis, "replica"."""
    devices = jax.devices()
    size = max(d for d in range(1, len(devices) + 1) if n % d == 0)
    return jax.make_mesh((size,), ("replica",), (AxisType.Auto,), devices=devices[:size])


def over_replicas(function: Callable, mesh: Mesh) -> Callable:
    """Maps `function` over replicas, which are the first axis of each argument and result."""

    def local(*args):
        if len(jax.tree.leaves(args)[0]) > 1:
            return jax.vmap(function)(*args)
        # A device with one replica runs the program of a single run.
        results = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], results)

    spec = PartitionSpec("replica")
    return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


class Devices:
    """Places `n` runs on devices: one run divided over `mesh`, or replicas."""

    def __init__(self, n: int, mesh: Mesh | None = None) -> None:
        self.n = n
        self.mesh = mesh or replica_mesh(n)
        self.are_cpus = self.mesh.devices.flat[0].platform == "cpu"
        one_device = data_mesh(devices=self.mesh.devices.flat[:1].tolist())
        self.one_state = replicated(self.mesh if n == 1 else one_device)

    def compile(
        self, step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    ) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
        """Compiles one or several train steps; the result donates its first argument, the state."""
        jitted = jax.jit(step if self.n == 1 else over_replicas(step, self.mesh), donate_argnums=0)
        if processes.is_single_process():
            return jitted

        compiled = []

        def call(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            if not compiled:
                compiled.append(jitted.lower(state, batch).compile())
                processes.wait()  # on CPUs a collective waits only 30 s for the other processes
            return compiled[0](state, batch)

        return call

    def put(self, batches: list[list[Batch]]) -> Batch:
        """Each run's next batches, as one argument of the compiled step.

        A single batch has no axis of steps, and a single run has no axis of replicas.
        """
        k = len(batches[0])
        runs = [jax.tree.map(lambda *x: np.stack(x), *run) if k > 1 else run[0] for run in batches]
        if self.n == 1:
            return shard(runs[0], self.mesh, axis=int(k > 1))
        return shard(jax.tree.map(lambda *x: np.stack(x), *runs), self.mesh)

    def put_states(self, states: list[TrainState]) -> TrainState:
        """Each run's state, as one argument of the compiled step."""
        if self.n == 1:
            return jax.device_put(states[0], self.one_state)
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
        return jax.device_put(stacked, NamedSharding(self.mesh, PartitionSpec("replica")))

    def split(self, state: TrainState) -> list[TrainState]:
        """The inverse of `put_states`."""
        if self.n == 1:
            return [state]
        state = jax.device_get(state)  # one transfer; slicing on devices compiles many programs
        return [
            jax.tree.map(lambda x, i=i: jax.device_put(x[i], self.one_state), state)
            for i in range(self.n)
        ]
