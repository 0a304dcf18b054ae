"""One device and four, sharded batches and replicas: the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny import batch, method_config

import ssl_gan_jax
from ssl_gan_jax import parallel
from ssl_gan_jax.errors import UserError

STEPS = 3
METHODS = ("ssl_gan", "supervised", "three_n_gan")  # all kinds of network and of normalisation


def metrics_on(mesh, name, method, state):
    """Every metric of the first steps with the batch divided over `mesh`."""
    put = lambda seed: parallel.shard(jax.device_get(batch(name, seed=seed)), mesh)  # noqa: E731
    state = jax.device_put(state, parallel.replicated(mesh))
    step = jax.jit(method.train_step)
    rows = []
    for seed in range(STEPS):
        state, metrics = step(state, put(seed))
        rows.append({k: float(v) for k, v in metrics.items()})
    return rows


def replicas(name):
    """Metrics of four seeds under `pmap`, and of each seed alone."""
    method = ssl_gan_jax.build(method_config(name))
    keys, first = jax.vmap(jax.random.key)(jax.numpy.arange(4)), batch(name)
    stacked = jax.tree.map(lambda x: jax.numpy.stack([x] * 4), first)
    state = jax.pmap(method.init)(keys, stacked)
    _, together = jax.pmap(method.train_step)(state, stacked)
    init, step = jax.jit(method.init), jax.jit(method.train_step)
    alone = [step(init(key, first), first)[1] for key in keys]
    return [
        ([float(v) for v in values], [float(metrics[k]) for metrics in alone])
        for k, values in jax.device_get(together).items()
    ]


def compare():
    """Run in a process with four CPU devices: the largest relative differences."""
    meshes = [parallel.data_mesh(8, devices=jax.devices()[:n]) for n in (1, 4)]
    apart = {}
    for name in METHODS:
        method = ssl_gan_jax.build(method_config(name))
        state = jax.jit(method.init)(jax.random.key(0), batch(name))
        one, four = (metrics_on(mesh, name, method, state) for mesh in meshes)
        apart[name] = max(
            abs(a[k] - b[k]) / max(abs(a[k]), 0.1)
            for a, b in zip(one, four, strict=True)
            for k in a
        )
    pairs = replicas("supervised")
    apart["pmap"] = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
    print(json.dumps(apart))


@pytest.fixture(scope="module")
def differences():
    code = (
        "import sys, jax; jax.config.update('jax_num_cpu_devices', 4); "
        f"sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        "import test_parallel; test_parallel.compare()"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*METHODS, "pmap"])
def test_four_devices_compute_what_one_does(name, differences):
    assert differences[name] < 1e-3


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="does not divide over 3 devices"):
        parallel.data_mesh(8, devices=jax.devices() * 3)
