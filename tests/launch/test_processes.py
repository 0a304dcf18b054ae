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
METHOD, STEPS = "three_n_gan", 40  # enough for a signal to come in time
pytestmark = pytest.mark.timeout(900)


def start(processes, *args, **environment):
    """`python args` on so many processes; their output in one pipe."""
    flags = [f"--processes={processes}", f"--devices={4 // processes}", "--timeout=30"]
    return subprocess.Popen(
        [sys.executable, LAUNCH / "local.py", *flags, "--", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def train(processes, workdir, **environment):
    config = f"--config={HERE / 'tiny_run.py'}:method={METHOD},steps={STEPS}"
    args = ("-m", "ssl_gan_jax.main", config, f"--workdir={workdir}")
    return start(processes, *args, **environment)


def ended(process, code=0):
    with process:
        try:
            out, _ = process.communicate(timeout=800)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    assert process.returncode == code, out
    return out


def wait_for(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    pytest.fail("".join(lines))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of a run of one process with four devices."""
    folder = tmp_path_factory.mktemp("one")
    ended(train(1, folder))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, one):
    """The folder of a run of two processes with two devices each, stopped and gone on with."""
    folder = tmp_path_factory.mktemp("two")
    process = train(2, folder, SSL_GAN_JAX_STOP_CODE="75")
    wait_for(process, "step 2/")
    process.send_signal(signal.SIGTERM)
    assert "stopped and saved at step" in ended(process, code=75)
    assert not (folder / "result.json").exists()
    ended(train(2, folder))
    return folder


def test_two_processes_stopped_and_resumed_equal_one_that_ran_through(one, two):
    for name in ("metrics.jsonl", "predictions.csv"):
        assert (two / name).read_text() == (one / name).read_text()
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert results[0] | {"wall_s": 0} == results[1] | {"wall_s": 0}


def test_the_first_process_alone_writes(two):
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/L_d" in line]
    assert steps == list(range(1, STEPS + 1))
    assert len(list((two / "samples").glob("*.png"))) == 1


# Step 3 of process 1 ends otherwise than that of process 0.
FAULTY = """
import os, sys
from ssl_gan_jax import command_line, main, train
calls, checked_means = [], train.checked_means
def faulty(*args):
    calls.append(1)
    if len(calls) == 3 and os.environ["SSL_GAN_JAX_DISTRIBUTED"].endswith(",1"):
        {fault}
    return checked_means(*args)
train.checked_means = faulty
sys.argv = ["main", "--config={config}", "--workdir={workdir}"]
command_line.cli(main.main)
"""


def test_all_end_when_one_is_killed(tmp_path, one):
    code = FAULTY.format(
        fault="os.kill(os.getpid(), 9)",
        config=HERE / f"tiny_run.py:method={METHOD},steps={STEPS}",
        workdir=tmp_path,
    )
    # The restart for huge pages would lose what `-c` was given.
    out = ended(start(2, "-c", code, GLIBC_TUNABLES="glibc.malloc.hugetlb=1"), code=137)
    assert "error: process 0" in out or "heartbeat" in out or "task:1" in out
    assert not (tmp_path / "result.json").exists()


JOIN = """
import sys
from ssl_gan_jax import distributed
distributed.start("auto")
import jax
print("joined", jax.process_count(), jax.process_index(), flush=True)
distributed.wait()
distributed.check_same("seed", {value})
if not distributed.is_first():
    raise RuntimeError("the disk is on fire")
distributed.wait()
"""


def by_slurm(value="1"):
    """Two processes that find each other through SLURM's variables; their outputs and codes."""
    port = local.free_port()
    common = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_PORT": str(port),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN.format(value=value)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | common | {"SLURM_PROCID": i, "SLURM_LOCALID": i},
        )
        for i in "01"
    ]
    return [(p.communicate(timeout=300)[0], p.returncode) for p in started]


def test_one_that_raises_ends_all_and_says_why():
    for i, (out, code) in enumerate(by_slurm()):
        assert f"joined 2 {i}" in out and code == 1, out
        assert "error: process 1: RuntimeError: the disk is on fire" in out


def test_processes_that_disagree_are_refused():
    for out, code in by_slurm("jax.process_index()"):
        assert "seed: not the same on all processes" in out and code == 1, out


@pytest.mark.parametrize("mode", ["on", "localhost", "localhost:1,2,2", "localhost:1,2"])
def test_a_wrong_mode_is_refused(mode):
    from ssl_gan_jax import distributed
    from ssl_gan_jax.errors import UserError

    with pytest.raises(UserError, match="write off, auto or HOST:PORT,n,i"):
        distributed.start(mode)
