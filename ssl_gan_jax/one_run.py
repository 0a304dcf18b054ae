"""One of the runs that train as one program: its data, state and folder, and its final scores."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np
from absl import logging

from ssl_gan_jax import calibration, card, checkpoint, distributed, evaluate, quality, trained
from ssl_gan_jax.config import PROLONG, check, differences
from ssl_gan_jax.data import pipeline
from ssl_gan_jax.data.task import Task, check_taught, fingerprint, open_task
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.programs import programs
from ssl_gan_jax.types import Batch, TrainState
from ssl_gan_jax.writer import user_error, write_json

SAMPLES = 64  # pictures in the grid of samples


class Run:
    """What each of several runs in one program has for itself.

    Raises UserError for everything that can be wrong with the input; writes nothing.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        divide: bool,
        about: Mapping[str, Any],
    ) -> None:
        self.config, self.workdir, self.about = config, workdir, about
        self.folder, train = workdir / "checkpoints", config.train
        self.divided = (train.batch_size, train.unlabeled_batch_size) if divide else None
        check(config)
        self._check_method()  # before images are prepared, which may take hours
        self.task = open_task(config.data, train.seed)
        self.classes = self.task.records.classes
        self.settings = self._settings(len(self.classes))
        self.programs = programs(self.settings, 1, self.divided)
        if self.programs.classify:
            check_taught(self.task)
        # What batches are drawn from: all images serve a method that has no use for labels.
        self.rows = self.task.labelled if self.programs.classify else self.task.unlabelled
        self.without_labels = bool(train.unlabeled_batch_size or not self.programs.classify)
        self.steps = train.steps
        if train.epochs:
            self.steps = train.epochs * len(self.rows) // train.batch_size
        if self.steps < 1:
            raise UserError(f"train.epochs: {train.epochs} are {self.steps} steps; raise it")
        self.meta = {"classes": list(self.classes), "best": None, "wall_s": 0.0}
        self.meta["data"] = fingerprint(self.task)
        # The whole first batch, on every process: all begin with the same weights.
        self._init_args = jax.random.key(train.seed), next(self.batches(0, 1, process=(0, 1)))
        self.like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.programs.devices.one_state
            ),
            jax.eval_shape(self.programs.init, *self._init_args),
        )

    def _settings(self, num_classes: int) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted({**self.config.method, "num_classes": num_classes}.items()))

    def _check_method(self) -> None:
        """Traces the first state for two classes: raises UserError where the settings do not fit.

        How many classes there are is not known before the images are listed.
        """
        train, side = self.config.train, self.config.data.size
        image, unlabeled = (
            jax.ShapeDtypeStruct((n, side, side, 1), np.uint8)
            for n in (train.batch_size, train.unlabeled_batch_size)
        )
        raw = Batch(image, jax.ShapeDtypeStruct((train.batch_size,), np.int32), unlabeled)
        jax.eval_shape(programs(self._settings(2), 1, self.divided).init, jax.random.key(0), raw)

    def batches(
        self, start: int, stop: int, process: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """Batches of NumPy arrays for the steps from `start` to `stop` - 1; this process's part."""
        records, train = self.task.records, self.config.train
        return pipeline.batches(
            records.image,
            records.label,
            self.rows,
            self.task.unlabelled,
            batch_size=train.batch_size,
            unlabeled_batch=train.unlabeled_batch_size,
            seed=train.seed,
            start=start,
            steps=stop,
            process=process or (jax.process_index(), jax.process_count()),
        )

    def begin(self) -> TrainState:
        """The state to go on from: the last checkpoint, its meta data in `self.meta`; or new."""
        distributed.check_same(
            "config and data", repr(self.config.to_dict()), *self.task.records.path, *self.rows
        )
        restored = checkpoint.restore(self.folder, self.like)
        if restored:
            data, (state, self.meta) = self.meta["data"], restored
            trained.check_data(self.workdir, self.task, self.meta["classes"], self.meta.get("data"))
            self.meta["data"] = data
            if int(state.step) > self.steps:
                raise UserError(
                    f"{self.workdir} is at step {state.step} and cannot go back to {self.steps}: "
                    "give as many steps or more, or choose another --workdir"
                )
        if distributed.is_first():
            set_result_aside(self.workdir, bool(restored))
            write_json(self.workdir / "config.json", self.config.to_dict())
        distributed.wait()
        if not (self.workdir / "config.json").exists():
            raise UserError(f"{self.workdir}: all processes must see one folder of this name")
        self.saver = checkpoint.Saver(self.folder)
        return state if restored else self.programs.init(*self._init_args)

    def save(self, state: TrainState, wall_s: float, pending: Mapping[str, list] | None) -> None:
        """Writes a checkpoint; `pending` are the metrics that no line has been written of."""
        self.meta = self.meta | {"wall_s": wall_s, "pending": pending}
        keep = {self.meta["best"]["step"]} if self.meta["best"] else ()
        self.saver.save(int(state.step), state, self.meta, keep=keep)

    def predict(self, state: TrainState, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class probabilities and logits, each [len(rows),K], of these images."""

        def predict(images: np.ndarray) -> jax.Array:
            return self.programs.classify(state, images)[0]

        size = self.config.train.evaluation_batch_size
        logits = evaluate.logits_of(predict, self.task.records.image[rows], size)
        return calibration.tempered(logits, 1.0), logits

    def samples(self, state: TrainState) -> jax.Array:
        """The same z's images [SAMPLES,S,S,1] in [-1,1] of every state."""
        return self.programs.generate(state, self.programs.draw_z(jax.random.key(0), SAMPLES))

    def validate(self, state: TrainState) -> dict[str, float | None]:
        """Accuracy, AUROC and so on at threshold .5; `{}` where there is nothing to score."""
        if not self.programs.classify or not len(self.task.val):
            return {}
        probs, logits = self.predict(state, self.task.val)
        scores = evaluate.metrics(probs, self.task.records.label[self.task.val], logits=logits)
        return {name: scores[name] for name in evaluate.METRICS}


def final_scores(one: Run, state: TrainState) -> dict[str, Any]:
    """The results of the best state: test scores (looked at once), and G's samples.

    Writes what `predict` needs to know (calibration.*), and predictions.csv of the test images.
    With `train.test_at_end` off, as for tuning, the test images are not looked at.
    """
    best, records = one.meta["best"], one.task.records
    result = {"best_step": int(state.step), "test": None, "validation": None, "samples": None}
    if best and best["step"] != int(state.step):
        result["best_step"] = best["step"]
        state, _ = checkpoint.restore_step(one.folder, best["step"], one.like)
    if one.programs.generate:
        seen = trained.learnt_from(one.task, one.config, bool(one.programs.classify))
        images = one.samples(state)
        result["samples"] = quality.memorisation(
            np.asarray(images),
            records.image[seen],
            records.image[one.task.val],
            **quality.moves(one.config.method),
        )
    if not one.programs.classify:
        return result
    threshold = 0.5
    if len(val := one.task.val):
        known, logits = trained.fit_calibration(one.programs.classify, state, one.task)
        probs, label = calibration.tempered(logits, 1.0), records.label[val]
        if probs.shape[1] == 2:
            threshold = evaluate.choose_threshold(probs, label)
        result["validation"] = evaluate.report(
            probs, label, records.patient[val], threshold, logits=logits
        )
        if distributed.is_first():
            calibration.save(one.workdir, known)
    if one.config.train.test_at_end:
        rows = one.task.test
        (probs, logits), label = one.predict(state, rows), records.label[rows]
        if len(rows):
            result["test"] = evaluate.report(
                probs, label, records.patient[rows], threshold, logits=logits
            )
        result["test_by_group"] = card.by_group(probs, records, rows, threshold)
        if distributed.is_first():
            evaluate.write_predictions(
                one.workdir / "predictions.csv",
                records.path[rows],
                label,
                probs,
                one.classes,
                threshold,
            )
    return result


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Holds the run folder, which it makes: two processes would write each other's files.

    Where there are no locks on folders (see `distributed.lock`) it holds nothing.

    Raises:
      UserError: another process holds it, or it cannot be made.
    """

    def busy() -> NoReturn:
        raise UserError(
            f"{workdir}: another process trains there; wait for it, stop it (SIGTERM saves), or "
            "choose another --workdir"
        )

    with user_error(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # Windows opens no folders
            folder = os.open(workdir, os.O_RDONLY)
            stack.callback(os.close, folder)
            distributed.lock(folder, busy)
        yield


def check_workdir(workdir: Path, config: ml_collections.ConfigDict) -> bool:
    """Refuses a folder that holds another config's run, or nobody knows whose.

    Returns:
      Whether its run is to have another number of steps than before, and all else is the same.

    Raises:
      UserError: names the keys that differ; or there are checkpoints without a config.
    """
    path = workdir / "config.json"
    if not path.exists():
        if checkpoint.steps(workdir / "checkpoints"):
            raise UserError(
                f"{workdir} holds checkpoints, but no config.json that says of what; bring it back "
                "or choose another --workdir"
            )
        return False
    try:
        old = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is not JSON; choose another --workdir") from None
    changed = differences(old, config.to_dict())
    if any(one.partition(":")[0] not in PROLONG for one in changed):
        raise UserError(
            f"{workdir} holds another run ({'; '.join(changed)}); choose another --workdir"
        )
    return bool(changed)


def set_result_aside(workdir: Path, goes_on: bool) -> None:
    """Makes a finished run an unfinished one: result.json becomes result.STEPS.json.

    Raises:
      UserError: it has no checkpoint from which it `goes_on`; or the file cannot be renamed.
    """
    path = workdir / "result.json"
    if not path.exists():
        return
    if not goes_on:
        raise UserError(f"{workdir} cannot go on to more steps: its checkpoints are gone")
    try:
        old = path.with_name(f"result.{int(json.loads(path.read_text())['steps'])}.json")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; bring back a copy, or delete it") from None
    with user_error(path):
        path.replace(old)
    logging.info("%s was finished; it goes on, and %s keeps what came out", workdir, old.name)


def describe(config: ml_collections.ConfigDict, task: Task, steps: int, start: int) -> None:
    """Logs what is about to happen, in one line."""
    records = task.records
    labelled = records.label[task.labelled]
    per_class = (f"{np.sum(labelled == k)} {name}" for k, name in enumerate(records.classes))
    logging.info(
        "%s on %s at %dx%d: %s labelled; %d training, %d validation, %d test images; steps %d-%d",
        config.method.name,
        config.data.name,
        config.data.size,
        config.data.size,
        ", ".join(per_class),
        len(task.unlabelled),
        len(task.val),
        len(task.test),
        start,
        steps,
    )
