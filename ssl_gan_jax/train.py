"""The one training loop: `run`, and `_train` read from top to bottom."""

import collections
import contextlib
import copy
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from ssl_gan_jax.commands import card
from ssl_gan_jax import processes
from ssl_gan_jax.config import EVERY, TOGETHER, differences
from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.training.run import Run, alone, check_workdir, describe, final_scores
from ssl_gan_jax.training.compiled import programs
from ssl_gan_jax.types import Metrics, TrainState
from ssl_gan_jax.training.progress import Progress
from ssl_gan_jax.training.writer import Writer
from ssl_gan_jax.files import grid, write_json


def run(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains, validates, keeps the best, tests once; returns what `result.json` says.

    The same call on the same folder goes on where it stopped, bit for bit as if it had not; on a
    finished one it returns the result. With more `train.steps` or `train.epochs`, and all else the
    same, a run goes on beyond its end, and what came out there becomes `result.STEPS.json`: the
    steps are those of a longer run, but its old end was one time more at which validation was
    scored, and may be the best. The state with the best validation AUROC is the one that
    is tested, at the threshold that validation chose. The test images take no other part.

    With `config.replicas` = R > 1, R runs with the seeds `train.seed`, `train.seed` + 1, ... train
    as one program (`together`), each in a folder of its own, `workdir/seed_S`; returns
    `{"runs": [their results]}`.

    `stop` is asked after every call of the compiled step; once it says so, all is saved.

    On several processes (`processes.start`) every one calls this with the same arguments, and
    `workdir` is a folder that all of them see. All compute the same, evaluation included; the
    first alone writes, but for the arrays of checkpoints.

    Raises:
      UserError: bad input, another process that trains in `workdir`, or a loss that is not finite
        (names step and term).
      Stopped: after `stop`.
    """
    if config.replicas < 1:
        raise UserError(f"replicas: {config.replicas}; must be 1 or more")
    if config.replicas == 1:
        return together([config], [Path(workdir)], stop=stop)[0]
    seeds = range(config.train.seed, config.train.seed + config.replicas)
    configs = [copy.deepcopy(config) for _ in seeds]  # with what follows the seed by reference
    for one, seed in zip(configs, seeds, strict=True):
        one.replicas, one.train.seed = 1, seed
    return {"runs": together(configs, [Path(workdir) / f"seed_{seed}" for seed in seeds], stop)}


def together(
    configs: Sequence[ml_collections.ConfigDict],
    workdirs: Sequence[Path],
    stop: Callable[[], bool] = lambda: False,
    about: Sequence[Mapping[str, Any]] | None = None,
    divide: bool = True,
) -> list[dict[str, Any]]:
    """Trains runs that differ in seed or labels only, as replicas in one program; their results.

    Each run's folder is that of a run alone, and may be gone on with alone. Finished ones are not
    run again; those that were interrupted at another step than the others go on by themselves.
    `about` holds what else each run's `result.json` should say; with `divide`, one run by itself
    divides its batches over all devices.

    Raises:
      UserError, Stopped: as `run`; or two configs differ in more than `TOGETHER`.
    """
    if len(configs) > 1 and not processes.is_alone():
        raise UserError(
            "replicas: several processes train one run at a time; give each process runs of its "
            "own (sweep --shard=i/n) or use one process"
        )
    for config in configs[1:]:
        apart = [d for d in differences(configs[0], config) if d.partition(":")[0] not in TOGETHER]
        if apart:
            raise UserError(f"runs that train together must not differ in {'; '.join(apart)}")
    runs = []
    for config, workdir, more in zip(configs, workdirs, about or [{}] * len(configs), strict=True):
        other_steps = check_workdir(workdir, config)
        if (workdir / "result.json").exists() and not other_steps:
            logging.info("%s is finished; delete it or choose another --workdir", workdir)
        else:
            runs.append(Run(config, workdir, divide=divide and len(configs) == 1, about=more))
    # All that can be wrong with the input has been seen; from here on files are written.
    groups, results = collections.defaultdict(list), {}
    with contextlib.ExitStack() as stack:
        for one in runs if processes.is_first() else ():
            stack.enter_context(alone(one.workdir))
        for one in runs:
            state = one.begin()
            groups[one.steps, int(state.step)].append((one, state))
        for group in groups.values():
            results |= _train(*map(list, zip(*group, strict=True)), stop)
    return [
        results.get(workdir) or json.loads((workdir / "result.json").read_text())
        for workdir in workdirs
    ]


def _train(
    runs: list[Run], states: list[TrainState], stop: Callable[[], bool]
) -> dict[Path, dict[str, Any]]:
    """Trains runs that stand at the same step, and writes each one's result; folder -> result."""
    start_time, first = time.monotonic(), processes.is_first()
    config, n = runs[0].config, len(runs)
    train, steps, start = config.train, runs[0].steps, int(states[0].step)
    program = programs(runs[0].settings, n, runs[0].divided)
    devices = program.devices
    for one in runs:
        describe(one.config, one.task, steps, start)
    state = devices.put_states(states)
    states.clear()
    before_s = [one.meta["wall_s"] for one in runs]

    every = [train[key] for key in EVERY]
    pending: list[Metrics] = []
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        writers = [
            enter(Writer(one.workdir, resume_step=start)) if first else processes.Nobody()
            for one in runs
        ]
        progress = enter(Progress(steps, start)) if first else processes.Nobody()
        for one in runs:  # all of it is on disk before the best is looked for
            enter(contextlib.closing(one.saver))
        streams = [one.batches(start, steps) for one in runs]
        step = start
        for k in call_lengths(start, steps, train.steps_per_call, every):
            raw = devices.put([list(itertools.islice(stream, k)) for stream in streams])
            state, metrics = (program.several_steps if k > 1 else program.one_step)(state, raw)
            pending.append(metrics)
            step += k
            last = step == steps
            evaluates = last or step % train.evaluate_every == 0
            shows = last or step % train.sample_every == 0
            saves = last or step % train.checkpoint_every == 0
            writes = evaluates or shows or saves or step % train.log_every == 0
            stops = not last and stop()
            if not (writes or stops):
                progress.update(step, None)
                continue
            columns, pending = per_run(jax.device_get(pending), runs), []
            # Checked before anything of these steps is kept.
            means = [
                checked_means(c, step, one.workdir) for c, one in zip(columns, runs, strict=True)
            ]
            one_states = devices.split(state) if evaluates or shows or saves or stops else []
            if writes:
                for one, writer, mean in zip(runs, writers, means, strict=True):
                    writer.scalars(step, mean, "train")
                    one.meta["pending"] = None
            if evaluates:
                for i, one in enumerate(runs):
                    if not (scores := one.validate(one_states[i])):
                        continue
                    writers[i].scalars(step, scores, "validation")
                    score = scores["auroc"] if scores["auroc"] is not None else scores["accuracy"]
                    best = one.meta["best"]
                    if best is None or score > best["score"]:
                        one.meta["best"], saves = {"step": step, "score": score}, True
                    means[i] = means[i] | {"val_auroc": scores["auroc"]}
            if shows:
                for writer, one_state in zip(writers, one_states, strict=True):
                    writer.histograms(step, {k: p.params for k, p in one_state.players.items()})
                    if program.generate:
                        images = runs[0].samples(one_state)
                        writer.images(step, grid(np.asarray(images), columns=8))
            if saves or stops:  # all of them, so that they can go on together
                for i, one in enumerate(runs):
                    rest = None if writes else {k: v.tolist() for k, v in columns[i].items()}
                    one.save(one_states[i], before_s[i] + time.monotonic() - start_time, rest)
            progress.update(step, means[0] if writes else None)
            if stops:
                raise Stopped(f"stopped and saved at step {step} of {steps}")

    results = {}
    for i, (one, last_state) in enumerate(zip(runs, devices.split(state), strict=True)):
        results[one.workdir] = {
            "method": config.method.name,
            "data": config.data.name,
            "labels_per_class": one.config.data.labels_per_class or None,
            "images": one.config.data.images or None,
            "labelled": len(one.task.labelled) if one.programs.classify else 0,
            "unlabelled": len(one.task.unlabelled) if one.without_labels else 0,
            "size": config.data.size,
            "seed": one.config.train.seed,
            "steps": steps,
            "classes": list(one.classes),
            "splits": card.splits(one.task),
            **final_scores(one, last_state),
            "fingerprint": one.meta["data"],
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "python": platform.python_version(),
            "replicas": n,  # that shared the time
            "wall_s": round(before_s[i] + time.monotonic() - start_time, 1),
            **one.about,
        }
        processes.wait()  # no process is at work on this run any more
        if first:
            write_json(one.workdir / "result.json", results[one.workdir])  # now the run is done
            card.write_card(one.workdir)
    return results


def call_lengths(start: int, stop: int, several: int, every: Sequence[int]) -> Iterator[int]:
    """How many steps each call runs: `several`, but 1 where more would pass a multiple of `every`.

    So nothing that happens every so many steps is missed, and two programs serve all lengths.
    """
    while start < stop:
        free = min([stop - start, *(n - start % n for n in every)])
        length = several if several <= free else 1
        yield length
        start += length


def per_run(metrics: list[Metrics], runs: list[Run]) -> list[dict[str, np.ndarray]]:
    """Each run's metrics over the steps of several calls, and those that it brought along.

    A metric is [], or [k] over k steps, with a first axis of runs if there are several.
    """
    columns = []
    for i, one in enumerate(runs):
        parts = [{k: np.reshape(v, (len(runs), -1))[i] for k, v in m.items()} for m in metrics]
        if brought := one.meta.get("pending"):
            parts.insert(0, {k: np.asarray(v, np.float32) for k, v in brought.items()})
        columns.append({k: np.concatenate([part[k] for part in parts]) for k in parts[-1]})
    return columns


def checked_means(columns: Mapping[str, np.ndarray], step: int, where: Path) -> dict[str, float]:
    """Means of each metric over the last steps, of which `step` is the last.

    Raises:
      UserError: one is not finite; names the run's folder, the first such step and its terms.
    """
    finite = np.stack([np.isfinite(values) for values in columns.values()])  # [metric, step]
    if not finite.all():
        first = int(np.argmin(finite.all(0)))
        bad = ", ".join(k for k, ok in zip(columns, finite[:, first], strict=True) if not ok)
        raise UserError(
            f"{where}: step {step - finite.shape[1] + 1 + first}: {bad} is not finite; the "
            "checkpoints before it are sound: lower method.lr* or change the method's settings in "
            "a new --workdir"
        )
    return {name: float(values.mean()) for name, values in columns.items()}
