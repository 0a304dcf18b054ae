"""The training loop. It reads as if there were one run on one device."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.training.progress import open_progress
from ssl_gan_jax.training.replicas import Replicas, open_runs, results_of
from ssl_gan_jax.training.result import finish
from ssl_gan_jax.training.run import TrainingRun

Stop = Callable[[], bool]  # asked after every call of the compiled step
Results = dict[Path, dict[str, Any]]  # what result.json says, by folder


def train(run: TrainingRun | Replicas, stop: Stop) -> Results:
    """Trains `run` from its last checkpoint to its last step, and tests the best state."""
    every = run.config.train
    state, step = run.begin()
    events = [  # in this order, each every so many steps and at the end
        (every.evaluate_every, run.evaluate),
        (every.sample_every, run.sample),
        (every.checkpoint_every, run.save),
    ]
    intervals = [every.log_every, *(n for n, _ in events)]
    with run.files(step), open_progress(run.steps, step) as progress:
        batches = run.batches(step, run.steps)
        for k in call_lengths(step, run.steps, every.steps_per_call, intervals):
            take_steps = run.compiled.several_steps if k > 1 else run.compiled.one_step
            state, metrics = take_steps(state, run.put(list(itertools.islice(batches, k))))
            run.collect(metrics)
            step += k
            last = step == run.steps

            due = [event for n, event in events if last or step % n == 0]
            logs = bool(due) or step % every.log_every == 0
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


def call_lengths(start: int, stop: int, several: int, every: Sequence[int]) -> Iterator[int]:
    """How many steps each call runs: `several`, but 1 if more would pass a multiple of `every`.

    So nothing that happens every so many steps is missed, and two programs serve all lengths.
    """
    while start < stop:
        free = min([stop - start, *(n - start % n for n in every)])
        length = several if several <= free else 1
        yield length
        start += length


def run(
    config: ml_collections.ConfigDict, workdir: str | Path, stop: Stop = lambda: False
) -> dict[str, Any]:
    """Trains, validates, keeps the best, tests once; returns what `result.json` says.

    The same call on the same folder goes on where it stopped, and the result is equal to that of an
    uninterrupted run to the last bit; for a finished run it returns the result. The state with the
    best validation AUROC is the one that is tested, at the threshold that validation chose. The
    test images take no other part.

    With more `train.steps` or `train.epochs`, and all else the same, a finished run goes on, and
    its old result becomes `result.STEPS.json`: the steps are those of a longer run, but its old end
    was one more time at which validation was scored, and may be the best.

    With `config.replicas` = R > 1, R runs with the seeds `train.seed`, `train.seed` + 1, ... train
    as one program (`together`), each in a folder of its own, `workdir/seed_S`; returns
    `{"runs": [their results]}`.

    If several processes train one run (`processes.start`), every one calls this with the same
    arguments, and `workdir` is a folder that all of them can read. All compute the same, evaluation
    included; the first alone writes, but for the arrays of checkpoints.

    Args:
      config: as the files in configs/ make it.
      workdir: the run's folder.
      stop: asked after every call of the compiled step; if it says so, all is saved.

    Raises:
      UserError: bad input, another process that trains in `workdir`, or a loss that is not finite
        (names step and term).
      Stopped: after `stop`.
    """
    if config.replicas < 1:
        raise UserError(f"replicas: {config.replicas}; must be 1 or more")
    if config.replicas == 1:
        return together([config], [Path(workdir)], stop)[0]
    seeds = range(config.train.seed, config.train.seed + config.replicas)
    configs = [copy.deepcopy(config) for _ in seeds]  # with what follows the seed by reference
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
    """Trains runs that differ in seed or labels only, as replicas in one program; their results.

    Each run gets an ordinary folder and can later be resumed on its own. Finished runs are not run
    again; runs that were interrupted at different steps go on by themselves.

    Args:
      configs: one for each run.
      workdirs: one for each run.
      stop: as in `run`.
      about: what else each run's `result.json` should say.
      shard: whether a single run divides its batches over all devices.

    Raises:
      UserError, Stopped: as `run`; or two configs differ in more than `config.REPLICA_KEYS`.
    """
    results: Results = {}
    with open_runs(configs, workdirs, about, shard) as runs:
        for each in runs:
            results |= train(each, stop)
    return results_of(workdirs, results)
