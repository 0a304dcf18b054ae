"""One training run: its data, its state, its folder, and the events of its loop."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from ssl_gan_jax import methods, processes, targets
from ssl_gan_jax.config import check
from ssl_gan_jax.data import pipeline
from ssl_gan_jax.data.dataset import check_classes, check_data, fingerprint, open_dataset
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import metrics
from ssl_gan_jax.files import grid, write_json
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training.compiled import Compiled, compile_method
from ssl_gan_jax.training.folder import set_result_aside
from ssl_gan_jax.training.writer import Writer
from ssl_gan_jax.types import Batch, Metrics, TrainState

SAMPLES = 64  # pictures in the grid of samples


class TrainingRun:
    """A run in its folder. `train.train` calls its methods from `begin` to `parts`.

    Raises UserError for bad input; writes nothing before `restore`.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        shard: bool = True,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`shard`: divide batches over all devices. `about`: more entries for result.json."""
        self.config, self.workdir, self.about = config, workdir, about or {}
        self.checkpoints, train = workdir / "checkpoints", config.train
        self.shard_sizes = (train.batch_size, train.unlabeled_batch_size) if shard else None
        check(config)
        self._check_method()  # before it prepares images, which may take hours
        can_learn = functools.partial(methods.check_labels, config.method.name)
        self.dataset = open_dataset(config.data, train.seed, can_learn)
        self.classes = self.dataset.records.classes
        self.compiled = self.compile()
        if self.compiled.classify:
            check_classes(self.dataset)
        # A method without labels is trained on all images.
        self.train_rows = self.dataset.labeled if self.compiled.classify else self.dataset.unlabeled
        self.uses_unlabeled = bool(train.unlabeled_batch_size or not self.compiled.classify)
        self.steps = train.steps
        if train.epochs:
            self.steps = train.epochs * len(self.train_rows) // train.batch_size
        if self.steps < 1:
            raise UserError(f"train.epochs: {train.epochs} give {self.steps} steps; raise it")
        self.meta = {"classes": list(self.classes), "best": None, "wall_s": 0.0}
        self.meta["data"] = fingerprint(self.dataset)
        # The batch of process 0 of 1: all processes begin with the same weights.
        batch = next(self.batches(0, 1, process=(0, 1)))
        self._init_args = jax.random.key(train.seed), batch
        self.abstract_state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.compiled.devices.one_state
            ),
            jax.eval_shape(self.compiled.init, *self._init_args),
        )
        self._metrics: list[Metrics] = []  # of the steps since the last line
        self.replicas = 1  # runs that train as one program with this run
        self.best_is_new = False  # whether the best state is not saved yet
        self.shown: dict[str, float | None] = {}  # metrics for the progress bar

    def compile(self, replicas: int = 1, num_classes: int = 0) -> Compiled:
        """The method's compiled functions, for one of `replicas` runs that train as one program."""
        settings = {**self.config.method, "num_classes": num_classes or len(self.classes)}
        return compile_method(tuple(sorted(settings.items())), replicas, self.shard_sizes)

    def _check_method(self) -> None:
        """Traces the first state; raises UserError if the settings do not fit.

        For two classes: the number of classes is unknown before the images are listed.
        """
        train, side = self.config.train, self.config.data.size
        image, unlabeled = (
            jax.ShapeDtypeStruct((n, side, side, 1), np.uint8)
            for n in (train.batch_size, train.unlabeled_batch_size)
        )
        raw = Batch(image, jax.ShapeDtypeStruct((train.batch_size,), np.int32), unlabeled)
        jax.eval_shape(self.compile(num_classes=2).init, jax.random.key(0), raw)

    def restore(self) -> int:
        """Prepares the state for `begin`, of the last checkpoint or new; returns its step."""
        processes.check_same(
            "config and data",
            repr(self.config.to_dict()),
            *self.dataset.records.path,
            *self.train_rows,
        )
        self._begun = time.monotonic()
        restored = checkpoint.restore(self.checkpoints, self.abstract_state)
        if restored:
            data, (state, self.meta) = self.meta["data"], restored
            check_data(self.workdir, self.dataset, self.meta["classes"], self.meta.get("data"))
            self.meta["data"] = data
            if int(state.step) > self.steps:
                raise UserError(
                    f"{self.workdir} is at step {state.step} and cannot go back to {self.steps}: "
                    "give as many steps or more, or choose another --workdir"
                )
            if unlogged := self.meta.pop("pending", None):
                self._metrics = [{k: np.asarray(v, np.float32) for k, v in unlogged.items()}]
        if processes.is_first():
            set_result_aside(self.workdir, bool(restored))
            write_json(self.workdir / "config.json", self.config.to_dict())
        processes.wait()
        if not (self.workdir / "config.json").exists():
            raise UserError(f"{self.workdir}: all processes must share one folder of this name")
        self._wall_s_before = self.meta["wall_s"]
        self._state = state if restored else self.compiled.init(*self._init_args)
        return int(self._state.step)

    def begin(self) -> tuple[TrainState, int]:
        """The state that `restore` prepared, and its step; the run no longer holds the state."""
        state = self._state
        del self._state
        return self.compiled.devices.put_states([state]), int(state.step)

    @contextlib.contextmanager
    def files(self, step: int) -> Iterator[None]:
        """Opens the files that training writes, without lines after `step`."""
        self._log_start(step)
        with processes.on_first(Writer, self.workdir, step) as self._writer:
            self._saver = checkpoint.Saver(self.checkpoints)
            with contextlib.closing(self._saver):
                yield

    def batches(
        self, start: int, stop: int, process: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """This process's part of the batches for steps `start` to `stop` - 1, in NumPy."""
        records, train = self.dataset.records, self.config.train
        return pipeline.batches(
            records.image,
            records.label,
            self.train_rows,
            self.dataset.unlabeled,
            batch_size=train.batch_size,
            unlabeled_batch=train.unlabeled_batch_size,
            seed=train.seed,
            start=start,
            steps=stop,
            process=process or (jax.process_index(), jax.process_count()),
        )

    def put(self, batches: Sequence[Batch]) -> Batch:
        """The next batches as one argument of the compiled step, on the devices."""
        return self.compiled.devices.put([list(batches)])

    def collect(self, metrics_of_steps: Metrics) -> None:
        """Keeps a call's metrics, [] or [k], for `log` and `save`."""
        self._metrics.append(metrics_of_steps)

    def log(self, step: int) -> None:
        """Writes the means of all metrics since the last line."""
        columns = self._columns(step)
        self._metrics = []
        self.shown = {name: float(values.mean()) for name, values in columns.items()}
        self._writer.scalars(step, self.shown, "train")

    def evaluate(self, step: int, state: TrainState) -> None:
        """Scores the validation images at threshold .5, and updates the best step."""
        rows = self.dataset.val
        if not self.compiled.classify or not len(rows):
            return
        probs, logits = self.predict(state, rows)
        scores = metrics.scores(probs, self.dataset.records.label[rows], logits=logits)
        scores = {name: scores[name] for name in metrics.METRICS}
        self._writer.scalars(step, scores, "validation")
        score = scores["auroc"] if scores["auroc"] is not None else scores["accuracy"]
        if self.meta["best"] is None or score > self.meta["best"]["score"]:
            self.meta["best"], self.best_is_new = {"step": step, "score": score}, True
        self.shown["val_auroc"] = scores["auroc"]

    def sample(self, step: int, state: TrainState) -> None:
        """Writes images of the same z at each call, and histograms of all weights."""
        self._writer.histograms(step, {k: p.params for k, p in state.players.items()})
        if self.compiled.generate:
            self._writer.images(step, grid(np.asarray(self.samples(state)), columns=8))

    def save(self, step: int, state: TrainState) -> None:
        """Writes a checkpoint, with the metrics that are not in metrics.jsonl yet."""
        columns = self._columns(step) if self._metrics else {}
        unlogged = {name: values.tolist() for name, values in columns.items()} or None
        self.meta = self.meta | {"wall_s": self.wall_s(), "pending": unlogged}
        keep = {self.meta["best"]["step"]} if self.meta["best"] else ()
        self._saver.save(step, state, self.meta, keep=keep)
        self.best_is_new = False

    def parts(self, state: TrainState) -> list[tuple["TrainingRun", TrainState]]:
        """This run and its state: a single run is one part."""
        return [(self, state)]

    def wall_s(self) -> float:
        """Seconds that the run has taken so far, including those before it was resumed."""
        return self._wall_s_before + time.monotonic() - self._begun

    def predict(self, state: TrainState, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities and logits of the images `rows`, each [len(rows),K]."""

        def predict(images: np.ndarray) -> jax.Array:
            return self.compiled.classify(state, images)[0]

        size = self.config.train.evaluation_batch_size
        logits = metrics.logits_of(predict, self.dataset.records.image[rows], size)
        return targets.of(self.dataset.records.label).probability(logits), logits

    def samples(self, state: TrainState) -> jax.Array:
        """Images [SAMPLES,S,S,1] in [-1,1] of the same z for every state."""
        return self.compiled.generate(state, self.compiled.draw_z(jax.random.key(0), SAMPLES))

    def _columns(self, step: int) -> dict[str, np.ndarray]:
        """Each metric [n] of the n steps since the last line. UserError as `check_finite`."""
        parts = [jax.tree.map(np.atleast_1d, part) for part in jax.device_get(self._metrics)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[-1]}
        check_finite(columns, step, self.workdir)
        return columns

    def _log_start(self, start: int) -> None:
        data, dataset = self.config.data, self.dataset
        counts = targets.counts(dataset.records.label[dataset.labeled], self.classes)
        per_class = (f"{n} {name}" for name, n in counts.items())
        logging.info(
            f"{self.config.method.name} on {data.name} at {data.size}x{data.size}: "
            f"{', '.join(per_class)} labelled; {len(dataset.unlabeled)} training, "
            f"{len(dataset.val)} validation, {len(dataset.test)} test images; "
            f"steps {start}-{self.steps}"
        )


def check_finite(columns: Mapping[str, np.ndarray], step: int, workdir: Path) -> None:
    """Checks each metric [n] of n steps that end with `step`, in the run's folder `workdir`.

    Raises:
      UserError: a metric is not finite; names the first such step and its metrics.
    """
    finite = np.stack([np.isfinite(values) for values in columns.values()])  # [metric, step]
    if not finite.all():
        first = int(np.argmin(finite.all(0)))
        bad = ", ".join(k for k, ok in zip(columns, finite[:, first], strict=True) if not ok)
        raise UserError(
            f"{workdir}: step {step - finite.shape[1] + 1 + first}: {bad} is not finite; the "
            "checkpoints before it are sound: lower method.lr* or change the method's settings in "
            "a new --workdir"
        )
