"""Real processes, signals and files: what one process does, two do, and they stop and fail as one.

Everything runs through launch/local.py, on four CPU devices in all.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import local
import pytest
from conftest import LAUNCH

HERE, ROOT = Path(__file__).parent, LAUNCH.parent
STEPS = 60  # enough for a signal to come to all in time
pytestmark = pytest.mark.timeout(900)

# The command line; in process 1 something happens after step 3.
MAIN = """
import os, signal, sys
from ssl_gan_jax.commands import experiment, main
from ssl_gan_jax.training import run
calls, check_finite = [], run.check_finite
def faulty(*args):
    calls.append(1)
    if len(calls) == 3 and os.environ["SSL_GAN_JAX_DISTRIBUTED"].endswith(",1"):
        {fault}
    return check_finite(*args)
run.check_finite = faulty
sys.argv = ["main", "--config={config}", "--workdir={workdir}"]
experiment.run(main.main)
"""


def trains(processes, workdir, fault="pass", code=0):
    """Runs the command line on so many processes; their output."""
    config = HERE / f"tiny_run.py:method=supervised,steps={STEPS}"
    script = MAIN.format(fault=fault, config=config, workdir=workdir)
    flags = [f"--processes={processes}", f"--devices={4 // processes}", "--timeout=15"]
    done = subprocess.run(
        [sys.executable, LAUNCH / "local.py", *flags, "--", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"SSL_GAN_JAX_STOP_CODE": "75", "GLIBC_TUNABLES": ""},
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_two_processes_stopped_and_resumed_equal_one_that_ran_through(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    trains(1, one)
    out = trains(2, two, fault="os.kill(os.getpid(), signal.SIGTERM)", code=75)
    assert "[0] stopped" not in out and "stopped and saved at step" in out
    assert not (two / "result.json").exists()
    trains(2, two)
    for name in ("metrics.jsonl", "predictions.csv"):
        assert (two / name).read_text() == (one / name).read_text()
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert results[0] | {"wall_s": 0} == results[1] | {"wall_s": 0}
    # The first process alone writes.
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/L_s" in line]
    assert steps == list(range(1, STEPS + 1))


JOIN = """
import os
from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError
processes.start("auto")
import jax
print("joined", jax.process_count(), jax.process_index(), flush=True)
processes.wait()
processes.check_same("seed", 1)
try:
    processes.check_same("seed", jax.process_index())
except UserError as error:
    print(error, flush=True)
assert processes.from_first(jax.process_index) == "0"
processes.wait()
if not processes.is_first():
    {end}
processes.wait()
"""


@pytest.mark.parametrize(
    ("end", "code", "cause"),
    [
        ('raise RuntimeError("on fire")', 1, "error: process 1: RuntimeError: on fire"),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, "stopped sending heartbeats):\n1\n"),
    ],
)
def test_one_that_fails_or_is_killed_ends_all_and_is_named(end, code, cause):
    """Two processes that find each other through SLURM's variables."""
    common = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_PORT": str(local.free_port()),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SSL_GAN_JAX_TIMEOUT_S": "10",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN.format(end=end)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | common | {"SLURM_PROCID": i, "SLURM_LOCALID": i},
        )
        for i in "01"
    ]
    outs = [process.communicate(timeout=60)[0] for process in started]
    assert started[0].returncode and started[1].returncode == code, outs
    assert "joined 2 0" in outs[0] and cause in outs[0]
    assert "joined 2 1" in outs[1] and "seed: not the same on all processes" in outs[1]


@pytest.mark.parametrize("mode", ["on", "localhost", "localhost:1,2,2", "localhost:1,2"])
def test_a_wrong_mode_is_refused(mode):
    from ssl_gan_jax import processes
    from ssl_gan_jax.errors import UserError

    with pytest.raises(UserError, match="write off, auto or HOST:PORT,n,i"):
        processes.start(mode)
