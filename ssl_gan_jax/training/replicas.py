"""Several runs as one program: replicas, which differ in seed or labels only.

`Replicas` has the methods of a `TrainingRun` that the loop calls. Its state and batches have a
leading axis of runs.
"""

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.config import REPLICA_KEYS, differences
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.training.folder import check_workdir, lock_folder
from ssl_gan_jax.training.run import TrainingRun
from ssl_gan_jax.types import Batch, Metrics, TrainState


class Replicas:
    """Runs at the same step, which train as one program."""

    def __init__(self, runs: Sequence[TrainingRun]) -> None:
        self.runs = list(runs)
        self.config, self.steps = runs[0].config, runs[0].steps
        self.compiled = runs[0].compile(replicas=len(runs))
        for run in runs:
            run.replicas = len(runs)
        self._metrics: list[Metrics] = []
        self._parts: tuple[int, list[tuple[TrainingRun, TrainState]]] = (-1, [])

    @property
    def shown(self) -> dict[str, float | None]:
        """The metrics of the first run, for the progress bar."""
        return self.runs[0].shown

    @property
    def best_is_new(self) -> bool:
        """Whether any run has a new best state; then all runs save, to stay at the same step."""
        return any(run.best_is_new for run in self.runs)

    def begin(self) -> tuple[TrainState, int]:
        """The states of all runs as one, and their step."""
        states, steps = zip(*(run.begin() for run in self.runs), strict=True)
        return self.compiled.devices.put_states(list(states)), steps[0]

    @contextlib.contextmanager
    def files(self, step: int) -> Iterator[None]:
        """Opens the files of all runs."""
        with contextlib.ExitStack() as stack:
            for run in self.runs:
                stack.enter_context(run.files(step))
            yield

    def batches(self, start: int, stop: int) -> Iterator[tuple[Batch, ...]]:
        """Each run's batch for each step."""
        return zip(*(run.batches(start, stop) for run in self.runs), strict=True)

    def put(self, batches: Sequence[tuple[Batch, ...]]) -> Batch:
        """The next batches of all runs as one argument of the compiled step, on the devices."""
        return self.compiled.devices.put([list(run) for run in zip(*batches, strict=True)])

    def collect(self, metrics: Metrics) -> None:
        """Keeps metrics [runs] or [runs,k] for `log` and `save`."""
        self._metrics.append(metrics)

    def log(self, step: int) -> None:
        """Logs every run."""
        self._hand_out_metrics()
        for run in self.runs:
            run.log(step)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates every run."""
        for run, part in self._split(step, state):
            run.evaluate(step, part)

    def sample(self, step: int, state: TrainState) -> None:
        """Samples from every run."""
        for run, part in self._split(step, state):
            run.sample(step, part)

    def save(self, step: int, state: TrainState) -> None:
        """Saves every run."""
        self._hand_out_metrics()
        for run, part in self._split(step, state):
            run.save(step, part)

    def parts(self, state: TrainState) -> list[tuple[TrainingRun, TrainState]]:
        """Each run and its last state."""
        return self._split(self.steps, state)

    def _hand_out_metrics(self) -> None:
        for metrics in jax.device_get(self._metrics):
            for i, run in enumerate(self.runs):
                run.collect({name: values[i] for name, values in metrics.items()})
        self._metrics = []

    def _split(self, step: int, state: TrainState) -> list[tuple[TrainingRun, TrainState]]:
        """Each run and its state at `step`, taken from the devices once."""
        if self._parts[0] != step:
            states = self.compiled.devices.split(state)
            self._parts = step, list(zip(self.runs, states, strict=True))
        return self._parts[1]


@contextlib.contextmanager
def open_runs(
    configs: Sequence[ml_collections.ConfigDict],
    workdirs: Sequence[Path],
    about: Sequence[Mapping[str, Any]] | None,
    shard: bool,
) -> Iterator[list[TrainingRun | Replicas]]:
    """Opens and locks the folders of unfinished runs; arguments as `train.together`.

    Raises UserError for bad input before it writes a file.
    """
    if len(configs) > 1 and not processes.is_single_process():
        raise UserError(
            "replicas: several processes train one run at a time; give each process runs of its "
            "own (sweep --shard=i/n) or use one process"
        )
    for config in configs[1:]:
        changed = differences(configs[0], config)
        if changed := [text for text in changed if text.partition(":")[0] not in REPLICA_KEYS]:
            raise UserError(f"runs that train together must not differ in {'; '.join(changed)}")
    runs = []
    about = about or [{}] * len(configs)
    for config, workdir, facts in zip(configs, workdirs, about, strict=True):
        other_steps = check_workdir(workdir, config)
        if (workdir / "result.json").exists() and not other_steps:
            logging.info("%s is finished; delete it or choose another --workdir", workdir)
        else:
            runs.append(TrainingRun(config, workdir, shard and len(configs) == 1, facts))
    with contextlib.ExitStack() as stack:
        for run in runs if processes.is_first() else ():
            stack.enter_context(lock_folder(run.workdir))
        groups = collections.defaultdict(list)  # runs by step
        for run in runs:
            groups[run.steps, run.restore()].append(run)
        yield [Replicas(group) if len(group) > 1 else group[0] for group in groups.values()]
