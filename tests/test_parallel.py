"""Methods on one device, on four, in two processes and as replicas: the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import METHODS, batch, method_config, same

import ssl_gan_jax
from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training.devices import Devices, data_mesh

ROOT, STEPS, SAVED = Path(__file__).parents[1], 4, 2
# One of each kind of state: D, G and the images of virtual batch norm; C, D and G; C and a teacher.
# For these alone, what does not depend on the method: processes, replicas, files.
KINDS = ("ssl_gan", "three_n_gan", "mean_teacher")


def batch_of(name, seed=0):
    return jax.device_get(batch(name, seed=seed))


def train(name, devices, step, states, folder=None):
    """Every metric of the first steps; with `folder`, saved there and restored on the way."""
    n, i, rows = jax.process_count(), jax.process_index(), []
    state = devices.put_states(states)
    for seed in range(STEPS):
        part = jax.tree.map(lambda x: np.split(x, n)[i], batch_of(name, seed))
        raw = devices.put([[part]] * devices.n)
        state, metrics = step(state, raw)
        rows.append({k: np.asarray(v).tolist() for k, v in jax.device_get(metrics).items()})
        if folder and seed + 1 == SAVED:
            state = devices.put_states(through_files(devices.split(state), raw, folder))
    return rows


def through_files(states, raw, folder):
    """Each state as it comes back from a checkpoint, which also holds a divided batch."""
    back = []
    for i, state in enumerate(states):
        saved = {"state": state, "raw": raw}
        checkpoint.save(folder / str(i), SAVED, saved, {})
        back.append(checkpoint.restore(folder / str(i), saved)[0]["state"])
    return back


def record(folder):
    """Run in every process, on four devices in all: writes what each way of training gave."""
    processes.start(processes.MODE)
    ways = {"four": Devices(1, data_mesh(8))}
    if processes.is_single_process():
        ways["one"] = Devices(1, data_mesh(8, devices=jax.devices()[:1]))
        ways["replicas"] = Devices(2)
    found = {}
    for name in METHODS if processes.is_single_process() else KINDS:
        method = ssl_gan_jax.build(method_config(name))
        init = jax.jit(method.init, out_shardings=ways["four"].one_state)
        for way, devices in ways.items():
            if way == "replicas" and name not in KINDS:
                continue
            step = devices.compile(method.train_step)
            for files in (None, folder / name / way)[: 1 + (way != "one" and name in KINDS)]:
                states = [init(jax.random.key(k), batch_of(name)) for k in range(devices.n)]
                rows = train(name, devices, step, states, files)
                found[f"{name} {way}{' resumed' if files else ''}"] = rows
    if processes.is_first():
        (folder / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of what one process with four devices found, and two processes with two."""
    made = []
    for n in (1, 2):
        made.append(tmp_path_factory.mktemp(f"processes{n}"))
        command = [sys.executable, ROOT / "launch" / "local.py", f"--processes={n}"]
        command += [f"--devices={4 // n}", "--", __file__, made[-1]]
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        assert done.returncode == 0, done.stdout
    return made


@pytest.fixture(scope="module")
def found(folders):
    return [json.loads((folder / "found.json").read_text()) for folder in folders]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", METHODS)
def test_the_number_of_devices_changes_rounding_alone(name, found):
    for one, four in zip(*(found[0][f"{name} {way}"] for way in ("one", "four")), strict=True):
        # L_kl is a difference of numbers near 1: it has their rounding, not its own.
        assert one == pytest.approx(four, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_processes_replicas_and_resumptions_change_nothing(name, found):
    alone, pair = found
    for way in ("four", "four resumed"):
        assert pair[f"{name} {way}"] == alone[f"{name} four"]  # to the last bit: as many devices
    assert alone[f"{name} four resumed"] == alone[f"{name} four"]
    assert alone[f"{name} replicas resumed"] == alone[f"{name} replicas"]
    for one, both in zip(alone[f"{name} one"], alone[f"{name} replicas"], strict=True):
        assert one == pytest.approx({k: v[0] for k, v in both.items()}, rel=1e-5, abs=1e-6)
        assert any(a != b for a, b in both.values())  # another seed


def test_two_processes_save_what_one_restores(folders):
    """The state, whole on each device, and a batch of which each process held one half."""
    method = ssl_gan_jax.build(method_config("three_n_gan"))
    first, last = (jax.tree.map(jnp.asarray, batch_of("three_n_gan", k)) for k in (0, SAVED - 1))
    like = {"state": jax.eval_shape(method.init, jax.random.key(0), first), "raw": first}
    one, two = (checkpoint.restore(f / "three_n_gan" / "four" / "0", like)[0] for f in folders)
    assert same(one["state"].players, two["state"].players)
    assert same(one["raw"], last) and same(two["raw"], last)


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="does not divide over 3 devices"):
        data_mesh(8, devices=jax.devices() * 3)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
