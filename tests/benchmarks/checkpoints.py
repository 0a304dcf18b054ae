"""What checkpoints cost a run: seconds that each save adds, of which the loop waits some.

    python tests/benchmarks/checkpoints.py [--method=three_n_gan] [--size=64] [--every=200]

Turns of a few steps with and without a save at their beginning alternate, at the config's own
width and batch (`configs/chex.py`); the median difference of neighbours is what a save costs, of
the time of `--every` steps. Prints a row as JSON, appended to --out.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "configs")]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="three_n_gan")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--every", type=int, default=200, help="steps from save to save")
    parser.add_argument("--turn", type=int, default=15, help="steps; longer than a save takes")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    import chex
    import jax
    import numpy as np

    from ssl_gan_jax import methods
    from ssl_gan_jax.training import checkpoint, devices
    from ssl_gan_jax.types import Batch

    config = chex.get_config(f"method={options.method},size={options.size}")
    method = methods.build({**config.method, "num_classes": 2})
    b, u = config.train.batch_size, config.train.unlabeled_batch_size
    image = lambda n: np.random.default_rng(n).uniform(-1, 1, (n, *[options.size] * 2, 1))  # noqa: E731
    batch = Batch(
        image=image(b).astype(np.float32),
        label=np.arange(b, dtype=np.int32) % 2,
        unlabeled=image(u).astype(np.float32),
    )
    step = devices.Devices(1, devices.data_mesh()).compile(method.train_step)
    state = jax.jit(method.init)(jax.random.key(0), batch)
    size = sum(x.nbytes for x in jax.tree.leaves(state))

    blocked, turns = [], {True: [], False: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(checkpoint.Saver(folder)) as saver,
    ):
        for i in range(-2, 2 * options.rounds):  # the first two are not counted
            saves, start = i % 2 == 0, time.perf_counter()
            if saves:
                saver.save(max(i, 0), state, {})
            waited = time.perf_counter() - start
            for _ in range(options.turn):
                state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            saver.wait()  # what is not hidden behind the steps counts too
            if i >= 0:
                turns[saves].append(time.perf_counter() - start)
                blocked += [waited] * saves
    steps_s = statistics.median(turns[False]) / options.turn * options.every
    extra = sorted(a - b for a, b in zip(turns[True], turns[False], strict=True))
    row = {
        "command": "python tests/benchmarks/checkpoints.py"
        f" --method={options.method} --size={options.size} --every={options.every}",
        "commit": subprocess.getoutput(f"git -C {ROOT} rev-parse --short HEAD"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "state_mb": round(size / 1e6, 1),
        "step_ms": round(1e3 * steps_s / options.every, 1),
        "blocked_s": round(statistics.median(blocked), 3),
        "added_s": round(statistics.median(extra), 3),
        "added_s_quartiles": [round(q, 3) for q in statistics.quantiles(extra, n=4)[::2]],
        "every": options.every,
        "cost": round(statistics.median(extra) / steps_s, 4),
    }
    print(json.dumps(row))
    if options.out:
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
