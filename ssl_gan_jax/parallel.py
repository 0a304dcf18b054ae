"""One program over many devices: the batch is divided, the state is on each of them.

Gradients and batch statistics are those of the global batch (the global view of `jax.jit`), so
the number of devices changes rounding and nothing else.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import PyTree


def data_mesh(*batch_sizes: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or of `devices`) with one axis, "data".

    Raises:
      UserError: a batch size that the devices cannot share evenly.
    """
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    for size in batch_sizes:
        if size % n:
            raise UserError(f"train: a batch of {size} does not divide over {n} devices")
    # Auto axes: Linen's layers fail under the explicit ones, which are make_mesh's default.
    return jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Each device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard(batch: PyTree, mesh: Mesh) -> PyTree:
    """This process's part of a batch (NumPy arrays) -> the global batch, divided over `mesh`."""
    sharding = sharded(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
