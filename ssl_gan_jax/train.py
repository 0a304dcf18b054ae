"""The training loop, written for one run on one device."""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from ssl_gan_jax import processes
from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.training.progress import Progress
from ssl_gan_jax.training.replicas import Replicas, open_runs
from ssl_gan_jax.training.result import finish
from ssl_gan_jax.training.run import TrainingRun

Stop = Callable[[], bool]  # called after every call of the compiled step
Results = dict[Path, dict[str, Any]]  # the content of result.json, by folder


def train(run: TrainingRun | Replicas, stop: Stop) -> Results:
    """Trains `run` from its last checkpoint to its last step, and tests the best state."""
    config = run.config.train
    state, step = run.begin()
    events = [  # (interval in steps, function), in this order; also at the end
        (config.evaluate_every, run.evaluate),
        (config.sample_every, run.sample),
        (config.checkpoint_every, run.save),
    ]
    intervals = [config.log_every, *(n for n, _ in events)]
    with run.files(step), processes.on_first(Progress, run.steps, step) as progress:
        batches = run.batches(step, run.steps)
        for k in call_lengths(step, run.steps, config.steps_per_call, intervals):
            take_steps = run.compiled.several_steps if k > 1 else run.compiled.one_step
            state, metrics = take_steps(state, run.put(list(itertools.islice(batches, k))))
            run.collect(metrics)
            step += k
            last = step == run.steps

            due = [event for n, event in events if last or step % n == 0]
            logs = bool(due) or step % config.log_every == 0
            if logs:
                run.log(step)
            for event in due:
                event(step, state)
            stops = not last and stop()
            if (run.best_is_new or stops) and run.save not in due:
                run.save(step, state)
            progress.update(step, run.shown if logs else None)
            if stops:
                raise Stopped(f"stopped and saved at step {step} of {run.steps}")
    return {part.workdir: finish(part, last) for part, last in run.parts(state)}


def call_lengths(start: int, stop: int, several: int, intervals: Sequence[int]) -> Iterator[int]:
    """How many steps each call runs: `several`, or 1 if `several` would pass an interval's end.

    So no event is missed, and two compiled programs are enough.
    """
    while start < stop:
        free = min([stop - start, *(n - start % n for n in intervals)])
        length = several if several <= free else 1
        yield length
        start += length


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, stop: Stop = lambda: False
) -> dict[str, Any]:
    """Trains, validates, and tests the best state once; returns the content of `result.json`.

    The state with the best validation AUROC is tested, at the threshold that maximises Youden's J
    on validation images. The test images have no other use.

    The same call resumes an interrupted run, and the result equals that of an uninterrupted run to
    the last bit. For a finished run it returns the result. If only `train.steps` or `train.epochs`
    has grown, a finished run goes on, and its old result becomes `result.STEPS.json`. The steps
    equal those of a longer run, but the old end remains a step at which the run was validated.

    If `config.replicas` = R > 1, R runs with the seeds `train.seed`, `train.seed` + 1, ... train as
    one program (`together`) in the folders `workdir/seed_S`; returns `{"runs": [their results]}`.

    If several processes train one run (`processes.start`), each calls this with the same arguments
    and with a `workdir` that all can read. All compute the same, evaluation included. Process 0
    writes all files except for the arrays of checkpoints.

    Args:
      config: as the files in configs/ make it.
      workdir: the run's folder.
      stop: called after every call of the compiled step; if it returns True, the run saves and
        stops.

    Raises:
      UserError: bad input, another process trains in `workdir`, or a loss is not finite (names the
        step and the term).
      Stopped: `stop` returned True.
    """
    if config.replicas < 1:
        raise UserError(f"replicas: {config.replicas}; must be 1 or more")
    if config.replicas == 1:
        return together([config], [Path(workdir)], stop)[0]
    seeds = range(config.train.seed, config.train.seed + config.replicas)
    configs = [copy.deepcopy(config) for _ in seeds]  # keeps references to the seed
    for replica, seed in zip(configs, seeds, strict=True):
        replica.replicas, replica.train.seed = 1, seed
    return {"runs": together(configs, [Path(workdir) / f"seed_{seed}" for seed in seeds], stop)}


def together(
    configs: Sequence[ml_collections.ConfigDict],
    workdirs: Sequence[Path],
    stop: Stop = lambda: False,
    about: Sequence[Mapping[str, Any]] | None = None,
    shard: bool = True,
) -> list[dict[str, Any]]:
    """Trains runs that differ only in seed or labels as one program; returns their results.

    Each run gets an ordinary folder, and can be resumed without the other runs. Finished runs are
    skipped. Runs that were interrupted at different steps train one after the other.

    Args:
      configs: of each run.
      workdirs: of each run.
      stop: as in `run`.
      about: more entries for each run's `result.json`.
      shard: whether a single run divides its batches over all devices.

    Raises:
      UserError: as `run`; or two configs differ in other keys than `config.REPLICA_KEYS`.
      Stopped: as `run`.
    """
    results: Results = {}
    with open_runs(configs, workdirs, about, shard) as runs:
        for run in runs:
            results |= train(run, stop)
    return [
        results.get(workdir) or json.loads((workdir / "result.json").read_text())
        for workdir in workdirs
    ]
