"""One training run: its data, its state and folder, and what happens in its loop."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.config import check
from ssl_gan_jax.data import pipeline
from ssl_gan_jax.data.dataset import check_data, check_taught, fingerprint, open_dataset
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.files import grid, write_json
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training.compiled import Compiled, compile_method
from ssl_gan_jax.training.folder import set_result_aside
from ssl_gan_jax.training.writer import open_writer
from ssl_gan_jax.types import Batch, Metrics, TrainState

SAMPLES = 64  # pictures in the grid of samples
PLACE_OF_ONE_RUN = (0, 1)  # process 0 of 1


class TrainingRun:
    """A run in its folder. `train.train` calls its methods from `begin` to `parts`.

    Raises UserError for everything that can be wrong with the input; writes nothing before `begin`.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        shard: bool = True,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`shard`: divide batches over all devices. `about`: what else result.json should say."""
        self.config, self.workdir, self.about = config, workdir, about or {}
        self.checkpoints, train = workdir / "checkpoints", config.train
        self.shard_sizes = (train.batch_size, train.unlabeled_batch_size) if shard else None
        check(config)
        self._check_method()  # before images are prepared, which may take hours
        if "tensorflow" not in sys.modules:
            logging.info("Loading TensorFlow, which reads the images")
        self.dataset = open_dataset(config.data, train.seed)
        self.classes = self.dataset.records.classes
        self.compiled = self.compile()
        if self.compiled.classify:
            check_taught(self.dataset)
        # What batches are drawn from: all images serve a method that has no use for labels.
        self.train_rows = self.dataset.labeled if self.compiled.classify else self.dataset.unlabeled
        self.uses_unlabeled = bool(train.unlabeled_batch_size or not self.compiled.classify)
        self.steps = train.steps
        if train.epochs:
            self.steps = train.epochs * len(self.train_rows) // train.batch_size
        if self.steps < 1:
            raise UserError(f"train.epochs: {train.epochs} are {self.steps} steps; raise it")
        self.meta = {"classes": list(self.classes), "best": None, "wall_s": 0.0}
        self.meta["data"] = fingerprint(self.dataset)
        # The whole first batch, on every process: all begin with the same weights.
        first = next(self.batches(0, 1, process=PLACE_OF_ONE_RUN))
        self._init_args = jax.random.key(train.seed), first
        self.abstract_state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.compiled.devices.one_state
            ),
            jax.eval_shape(self.compiled.init, *self._init_args),
        )
        self._metrics: list[Metrics] = []  # of the steps since the last line
        self.replicas = 1  # runs that share the time
        self.best_is_new = False
        self.shown: dict[str, float | None] = {}  # what a progress bar should say

    def compile(self, replicas: int = 1, num_classes: int = 0) -> Compiled:
        """The method's compiled functions, for one of `replicas` runs that train as one program."""
        settings = {**self.config.method, "num_classes": num_classes or len(self.classes)}
        return compile_method(tuple(sorted(settings.items())), replicas, self.shard_sizes)

    def _check_method(self) -> None:
        """Traces the first state for two classes: raises UserError if the settings do not fit.

        How many classes there are is not known before the images are listed.
        """
        train, side = self.config.train, self.config.data.size
        image, unlabeled = (
            jax.ShapeDtypeStruct((n, side, side, 1), np.uint8)
            for n in (train.batch_size, train.unlabeled_batch_size)
        )
        raw = Batch(image, jax.ShapeDtypeStruct((train.batch_size,), np.int32), unlabeled)
        jax.eval_shape(self.compile(num_classes=2).init, jax.random.key(0), raw)

    def restore(self) -> int:
        """Prepares `begin`: the last checkpoint's state or a new one; returns its step."""
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
            raise UserError(f"{self.workdir}: all processes must see one folder of this name")
        self._wall_s_before = self.meta["wall_s"]
        self._state = state if restored else self.compiled.init(*self._init_args)
        return int(self._state.step)

    def begin(self) -> tuple[TrainState, int]:
        """The state to go on from, which `restore` found and is no longer kept here; its step."""
        state = self._state
        del self._state
        return self.compiled.devices.put_states([state]), int(state.step)

    @contextlib.contextmanager
    def files(self, step: int) -> Iterator[None]:
        """Opens the files that training writes, as they were at `step`."""
        self._log_start(step)
        with open_writer(self.workdir, step) as self._writer:
            self._saver = checkpoint.Saver(self.checkpoints)
            with contextlib.closing(self._saver):
                yield

    def batches(
        self, start: int, stop: int, process: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """Batches of NumPy arrays for the steps from `start` to `stop` - 1; this process's part."""
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
        """Keeps a call's metrics, [] or [k], until `log` or `save` needs them."""
        self._metrics.append(metrics_of_steps)

    def log(self, step: int) -> None:
        """Writes the means of all metrics since the last line."""
        columns = self._columns(step)
        self._metrics = []
        self.shown = {name: float(values.mean()) for name, values in columns.items()}
        self._writer.scalars(step, self.shown, "train")

    def evaluate(self, step: int, state: TrainState) -> None:
        """Scores the validation images at threshold .5, and notes whether these are the best."""
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
        """Writes pictures of the same z's, and histograms of all weights."""
        self._writer.histograms(step, {k: p.params for k, p in state.players.items()})
        if self.compiled.generate:
            self._writer.images(step, grid(np.asarray(self.samples(state)), columns=8))

    def save(self, step: int, state: TrainState) -> None:
        """Writes a checkpoint, with the metrics that no line has been written of."""
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
        """Seconds that the run has taken so far, over all its processes' lives."""
        return self._wall_s_before + time.monotonic() - self._begun

    def predict(self, state: TrainState, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities and logits, each [len(rows),K], of these images."""

        def predict(images: np.ndarray) -> jax.Array:
            return self.compiled.classify(state, images)[0]

        size = self.config.train.evaluation_batch_size
        logits = metrics.logits_of(predict, self.dataset.records.image[rows], size)
        return calibration.tempered(logits, 1.0), logits

    def samples(self, state: TrainState) -> jax.Array:
        """The same z's images [SAMPLES,S,S,1] in [-1,1] of every state."""
        return self.compiled.generate(state, self.compiled.draw_z(jax.random.key(0), SAMPLES))

    def _columns(self, step: int) -> dict[str, np.ndarray]:
        """Each metric [n] of the n steps since the last line, of which `step` is the last.

        Raises:
          UserError: one is not finite; names the folder, the first such step and its terms.
        """
        parts = [jax.tree.map(np.atleast_1d, part) for part in jax.device_get(self._metrics)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[-1]}
        check_finite(columns, step, self.workdir)
        return columns

    def _log_start(self, start: int) -> None:
        data, task = self.config.data, self.dataset
        label = task.records.label[task.labeled]
        per_class = (f"{np.sum(label == k)} {name}" for k, name in enumerate(self.classes))
        logging.info(
            "%s on %s at %dx%d: %s labelled; %d training, %d validation, %d test images; "
            "steps %d-%d",
            self.config.method.name,
            data.name,
            data.size,
            data.size,
            ", ".join(per_class),
            len(task.unlabeled),
            len(task.val),
            len(task.test),
            start,
            self.steps,
        )


def check_finite(columns: Mapping[str, np.ndarray], step: int, where: Path) -> None:
    """Checks each metric [n] of the last n steps, of which `step` is the last.

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
