"""Kills a small run at random moments, resumes it each time, and compares it with an unkilled one.

    python tests/benchmarks/soak.py [--kills=30] [--seed=0] [--out=FILE.jsonl]

Each life of the run ends by SIGKILL or SIGTERM, during steps or, for every other one, once a save
has begun. After each, every complete checkpoint has to be sound, the newest no older than before
the signal, and after SIGTERM that of the step that the run stopped at. In the end weights,
optimiser, metrics and predictions have to be those of the run that was let alone, to the last bit.
Appends a row to FILE. Takes about ten minutes; exit codes: 0 all held, 1 something did not. The
lives are forks of this process, which has loaded the libraries once for them all.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ["GLIBC_TUNABLES"] = ""  # or each life would start anew to set it

import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
import tensorboardX  # noqa: E402, F401

from ssl_gan_jax import report, train  # noqa: E402, F401
from ssl_gan_jax.commands import experiment, main  # noqa: E402
from ssl_gan_jax.data import tf_import  # noqa: E402
from ssl_gan_jax.training import checkpoint  # noqa: E402

tf_import.tensorflow()


def run(workdir, steps):
    """What the command line does, in a process that is a fork of this one."""
    log = os.open(f"{workdir}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    config = f"{ROOT}/tests/launch/tiny_run.py:method=three_n_gan,steps={steps}"
    changes = ["--config.train.log_every=10", "--config.train.checkpoint_every=40"]
    sys.argv = ["main", f"--config={config}", *changes, f"--workdir={workdir}"]
    experiment.run(main.main)


def start(workdir, steps):
    process = multiprocessing.get_context("fork").Process(target=run, args=(workdir, steps))
    process.start()
    return process


def wait_for(process, condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)


def life(workdir, steps, number, in_save, rng):
    """One start of the run, ended by a signal; what was seen."""
    saved, log = workdir / "checkpoints", workdir / "metrics.jsonl"
    size = log.stat().st_size if log.exists() else 0
    checkpoint.clean(saved)  # what is found at the end is of this life
    process = start(workdir, steps)
    wait_for(process, lambda: log.exists() and log.stat().st_size > size, 600)
    wait_for(process, lambda: False, rng.uniform(0, 2))
    if in_save:
        wait_for(process, lambda: any(saved.glob("*.tmp")), 10)
        wait_for(process, lambda: False, rng.uniform(0, 0.05))
    before = max(checkpoint.steps(saved), default=0)
    os.kill(process.pid, number)
    process.join()
    out = Path(f"{workdir}.log").read_text()
    partial = any(saved.glob("*.tmp"))
    complete = checkpoint.steps(saved)
    newest = max(complete, default=0)
    sound = newest >= before and not any(checkpoint._fault(saved / str(s)) for s in complete)
    if number == signal.SIGTERM:
        sound &= process.exitcode == 0 and f"stopped and saved at step {newest} of" in out
    else:
        sound &= process.exitcode == -number
    return {"signal": number.name, "saved": newest, "in_save": partial, "sound": sound, "out": out}


def same(a, b, steps):
    """Whether two finished runs left the same numbers, to the last bit."""

    def arrays(workdir):
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            state = checkpointer.restore(workdir / "checkpoints" / str(steps) / "state")
        del state[".rng"]  # a key, which never changes
        return {name: np.asarray(x).tobytes() for name, x in state.items()}

    files = ("metrics.jsonl", "predictions.csv")
    return arrays(a) == arrays(b) and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in files
    )


def soak():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000, help="enough to outlive the kills")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng, began, lives = random.Random(options.seed), time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        for i in range(options.kills):
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            lives.append(life(broken, options.steps, number, i % 2 == 0, rng))
            out = lives[-1].pop("out")
            print(i + 1, *lives[-1].values(), flush=True)
            if (broken / "result.json").exists():
                sys.exit("the run finished before it was killed often enough; give more --steps")
            if not lives[-1]["sound"]:
                print(out)
                return 1
        for workdir in (broken, whole):
            start(workdir, options.steps).join()
        identical = same(whole, broken, options.steps)
    row = {
        "command": f"python tests/benchmarks/soak.py --kills={len(lives)} --seed={options.seed}",
        "commit": subprocess.getoutput(f"git -C {ROOT} rev-parse --short HEAD"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "kills": len(lives),
        "sigkill": sum(one["signal"] == "SIGKILL" for one in lives),
        "sigkill_in_save": sum(one["in_save"] for one in lives),
        "sound": sum(one["sound"] for one in lives),
        "stopped_at": [one["saved"] for one in lives],
        "steps": options.steps,
        "identical": identical,
        "wall_s": round(time.monotonic() - began),
    }
    print(json.dumps(row))
    if options.out:
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return int(not identical)


if __name__ == "__main__":
    sys.exit(soak())
