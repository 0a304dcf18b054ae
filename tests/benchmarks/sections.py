"""The other sections of the benchmark: a generator of table rows each."""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from cases import (
    WIDTH,
    compiled,
    config_of,
    single_step,
    started,
    stepper,
    without_shift,
)
from timing import Watch, alternate, count_flops, program_memory
from tiny import batch as batch_of

from ssl_gan_jax import build, train
from ssl_gan_jax.config import as_ssl_gan
from ssl_gan_jax.data import pipeline
from ssl_gan_jax.methods import names

REPOSITORY = Path(__file__).parents[2]


# --- parts ------------------------------------------------------------------------------------


def parts(options, rate):
    """Where a step's time goes: its products at the machine's rate, the optimisers, the rest.

    `products_ms` is the counted work of the plain convolutions at the rate of `a @ b`: no program
    of plain products can be quicker. `updates_ms` is Adam and the running averages alone, on every
    player at once: it moves memory, and takes as long for a batch of 1 as for one of 1,000.
    """
    cells = [(name, 32, b) for name in ("ssl_gan", "three_n_gan") for b in (10, 64)]
    cells += [("three_n_gan", 64, 10), ("three_n_gan", 64, 64)]
    for name, size, b in cells[:1] if options.quick else cells:
        rate.sample()
        config, batch = config_of(name, size, width=WIDTH), batch_of(name, b, size)
        method, state = started(config, batch)
        runs = {
            "step": stepper(compiled(single_step(method), state, batch), state, batch),
            "updates": stepper(updates(), state, batch),
        }
        s = alternate(runs, 4 if options.quick else 30)
        gflop = count_flops(*without_shift(config, state, batch)) / 1e9
        ms = {f"{part}_ms": 1e3 * s[part] for part in s}
        gflops = gflop / s["step"]
        yield {"method": name, "size": size, "batch": b, "gflop": gflop, "gflops": gflops, **ms}


def updates():
    """A "step" that only updates every player, with its weights for gradients."""

    def update(state, batch):
        del batch
        moved = {
            name: player.update(player.params, player.stats, state.step)
            for name, player in state.players.items()
        }
        return state.next(**moved), {}

    return jax.jit(update, donate_argnums=0)


# --- methods -----------------------------------------------------------------------------------


def methods(options, rate):
    """Every method's step beside `ssl_gan`'s, in turns: 32 labelled images, 32x32, width 32."""
    strong = {"augmentation": "strong"}
    cells = [(name, {}) for name in options.methods or names()]
    cells += [("supervised", strong), ("ssl_gan", strong), ("three_n_gan", {"simultaneous": True})]
    runs = {}
    for name, changes in cells:
        config, batch = config_of(name, 32, width=32, **changes), batch_of(name, 32, 32)
        as_ssl_gan(config)
        method, state = started(config, batch)
        label = " ".join([name, *(f"{key}={value}" for key, value in changes.items())])
        runs[label] = stepper(compiled(single_step(method), state, batch), state, batch)
    rate.sample()
    times = alternate(runs, 10 if options.quick else 120)
    for label, s in times.items():
        yield {"method": label, "ms": 1e3 * s, "of_ssl_gan": s / times.get("ssl_gan", np.nan)}


# --- memory ------------------------------------------------------------------------------------


def memory(options, rate):
    """What a step of 64 images holds at once, weights included, without running it."""
    del rate
    asked = options.methods or ("supervised", "ssl_gan", "three_n_gan"), options.sizes
    for name, size in itertools.product(asked[0], asked[1] or (64, 128, 256)):
        config, batch = config_of(name, size, width=WIDTH), batch_of(name, 64, size)
        method = build(config)
        state = jax.eval_shape(method.init, jax.random.key(0), batch)
        program = compiled(single_step(method), state, batch)
        yield {
            "method": name,
            "size": size,
            "batch": 64,
            "program_mb": program_memory(program) / 1e6,
        }


# --- growth ------------------------------------------------------------------------------------


def growth(options, rate):
    """What a step of 3N-GAN costs as batch, width and image grow, and a batch as labels do."""
    series = {
        "batch": [(b, {"size": 64, "width": WIDTH, "b": b}) for b in (10, 20, 40, 80)],
        "width": [(w, {"size": 64, "width": w, "b": 10}) for w in (16, 32, 64)],
        "size": [(size, {"size": size, "width": 32, "b": 10}) for size in (32, 64, 128)],
    }
    for name, cases in series.items():
        rate.sample()
        runs, work = {}, {}
        for value, case in cases[:2] if options.quick else cases:
            config = config_of("three_n_gan", case["size"], width=case["width"])
            batch = batch_of("three_n_gan", case["b"], case["size"])
            method, state = started(config, batch)
            runs[value] = stepper(compiled(single_step(method), state, batch), state, batch)
            work[value] = count_flops(*without_shift(config, state, batch)) / 1e9
        yield from growth_rows(name, alternate(runs, 6 if options.quick else 60), work)
    labelled = (20, 1000) if options.quick else (20, 1000, 20000)
    times = alternate({n: batches_of(n) for n in labelled}, 10)
    yield from growth_rows("labelled images (input pipeline)", times, {})


def growth_rows(name, times, work):
    first = next(iter(times))
    for value, s in times.items():
        yield {
            "grows": name,
            "to": value,
            "ms": 1e3 * s,
            "gflop": work.get(value),
            "time_times": s / times[first],
            "work_times": work[value] / work[first] if work else None,
        }


def batches_of(n):
    """`run(k)` takes k batches of 10 from n labelled images of 64x64."""
    image, label = np.zeros((n, 64, 64, 1), np.uint8), np.arange(n) % 2
    stream = pipeline.batches(
        image,
        label,
        np.arange(n),
        np.arange(n),
        batch_size=10,
        unlabeled_batch=0,
        seed=0,
        steps=10**9,
    )
    return lambda k: list(itertools.islice(stream, k))


# --- replicas ----------------------------------------------------------------------------------


def replicas(options, rate):
    """R replicas in one program against R single steps."""
    for name in options.methods or ("ssl_gan", "three_n_gan"):
        for r in (1, 5) if options.quick else (1, 2, 4, 5, 8):
            rate.sample()
            # A process of its own: on a CPU each replica wants a device, and the rest only one.
            command = [sys.executable, Path(__file__).with_name("replicas.py"), name, str(r)]
            command.append("6" if options.quick else "30")
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield json.loads(done.stdout)


# --- loop --------------------------------------------------------------------------------------


def loop(options, rate):
    """The training loop's time per step against the bare step's, in turns."""
    config = phantom("method=three_n_gan,labels=100")
    config.data.update(size=64, options={"images": 400, "site": "A"})
    config.method.update(width=WIDTH, shift=6)
    rounds, every, count = (2, 5, 20) if options.quick else (6, 10, 80)
    config.train.update(batch_size=10, steps=count, log_every=every)
    config.train.update(evaluate_every=10**9, checkpoint_every=10**9, sample_every=10**9)
    batch = batch_of("three_n_gan", 10, 64)
    method, state = started(config.method, batch)
    run = {"": stepper(compiled(single_step(method), state, batch), state, batch)}
    bare, looped = [alternate(run, 5)[""]], []
    with tempfile.TemporaryDirectory() as folder:
        config.data.cache_dir = f"{folder}/cache"
        for turn in range(rounds):
            rate.sample()
            with Watch(Path(folder, str(turn), "metrics.jsonl")) as watch:
                train.run(config, f"{folder}/{turn}")
            logged = watch.times[: count // every]  # of training; validation's come after them
            looped.append(statistics.median(np.diff(logged)) / every)
            bare.append(alternate(run, 5)[""])
    ratios = [
        s / statistics.mean(around)
        for s, around in zip(looped, itertools.pairwise(bare), strict=True)
    ]
    yield {
        "rounds": rounds,
        "loop_ms": 1e3 * statistics.median(looped),
        "bare_ms": 1e3 * statistics.median(bare),
        "loop_over_bare": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def phantom(arg):
    """The config of configs/phantom.py."""
    spec = importlib.util.spec_from_file_location("phantom", REPOSITORY / "configs" / "phantom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


# --- startup -----------------------------------------------------------------------------------


def startup(options, rate):
    """Seconds from the start of a process to its first step, and to the end of a run of one."""
    del rate
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        first_run(folder, "prepare")  # makes the data; throws its programs away
        for cache in ("cold", "warm", "warm") if not options.quick else ("cold", "warm"):
            first_step, total = first_run(folder, "programs")
            yield {"compile_cache": cache, "first_step_s": first_step, "whole_run_s": total}


def first_run(folder, cache):
    """One step of the default experiment in a new process, with that compile cache."""
    environment = os.environ | {
        "SSL_GAN_JAX_CACHE": str(folder / "data"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        command = [sys.executable, "-m", "ssl_gan_jax.main", "--config=configs/phantom.py"]
        command += [f"--workdir={workdir}", "--config.train.steps=1", "--config.train.log_every=1"]
        with Watch(Path(workdir) / "metrics.jsonl") as watch:
            start = time.perf_counter()
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, capture_output=True, text=True
            )
            end = time.perf_counter()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return watch.times[0] - start, end - start


# --- preparation -------------------------------------------------------------------------------


def preparation(options, rate):
    """Images a second from the source to the cache, at 64 px, and the most memory it took."""
    cases = [("phantom", 1000), ("jpeg", 1000), ("tiff", 100)]
    cases += [("film", count) for count in (100, 300, 1000)]
    for kind, count in cases:
        rate.sample()
        command = [sys.executable, Path(__file__).with_name("preparation.py"), kind]
        command.append(str(count // 10 if options.quick else count))
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        yield json.loads(done.stdout)
