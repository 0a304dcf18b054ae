"""The one training loop: `run(config, workdir)`, read from top to bottom."""

import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from ssl_gan_jax import checkpoint, evaluate, methods, parallel
from ssl_gan_jax.config import differences
from ssl_gan_jax.data import pipeline
from ssl_gan_jax.data.task import Task, open_task
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import Batch, Method, Metrics, TrainState
from ssl_gan_jax.writer import Progress, Writer, grid, write_json

SAMPLES = 64  # pictures in the grid of samples


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains, validates, keeps the best, tests once; returns what `result.json` says.

    The same call on the same folder goes on where it stopped, bit for bit as if it had not; on a
    finished one it returns the result. The state with the best validation AUROC is the one that
    is tested, at the threshold that validation chose. The test images take no other part.

    Raises:
      UserError: bad input, or a loss that is not finite (names step and term).
    """
    workdir, start_time = Path(workdir), time.monotonic()
    check_workdir(workdir, config)
    if (workdir / "result.json").exists():
        logging.info("%s is finished; delete it or choose another --workdir", workdir)
        return json.loads((workdir / "result.json").read_text())
    if config.replicas != 1:
        raise UserError("replicas: only 1 so far; start several runs with different seeds")

    task = open_task(config.data, config.train.seed)
    records, train = task.records, config.train
    method = methods.build({**config.method, "num_classes": len(records.classes)})
    rows = task.labelled if method.predict else task.unlabelled  # without labels, all serve
    steps = train.steps if not train.epochs else train.epochs * len(rows) // train.batch_size
    if steps < 1:
        raise UserError(f"train: {steps} steps; raise train.steps, or train.epochs if it is not 0")
    mesh = parallel.data_mesh(train.batch_size, train.unlabeled_batch_size)

    def batches(start: int, stop: int):
        return pipeline.batches(
            records.image,
            records.label,
            rows,
            task.unlabelled,
            batch_size=train.batch_size,
            unlabeled_batch=train.unlabeled_batch_size,
            seed=train.seed,
            start=start,
            steps=stop,
            process=(jax.process_index(), jax.process_count()),
        )

    @jax.jit
    def init(key, raw):
        return method.init(key, to_float(raw))

    def train_step(state, raw):
        return method.train_step(state, to_float(raw))

    train_step = jax.jit(train_step, donate_argnums=0)
    validate = Validator(method, task, train.evaluation_batch_size)
    sample = method.sample and jax.jit(method.sample, static_argnums=2)

    first = parallel.shard(next(batches(0, 1)), mesh)
    key = jax.random.key(train.seed)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated(mesh)),
        jax.eval_shape(init, key, first),
    )

    # All that can be wrong with the input has been seen; from here on files are written.
    write_json(workdir / "config.json", config.to_dict())
    folder = workdir / "checkpoints"
    restored = checkpoint.restore(folder, like)
    if restored:
        state, meta = restored
        check_classes(meta["classes"], records.classes, folder)
    else:
        state = jax.device_put(init(key, first), parallel.replicated(mesh))
        meta = {"classes": list(records.classes), "best": None, "wall_s": 0.0}
    start = int(state.step)
    before_s = meta["wall_s"]
    describe(config, task, steps, start)

    pending: list[Metrics] = []
    with Writer(workdir, resume_step=start) as writer, Progress(steps, start) as progress:
        for step, raw in enumerate(batches(start, steps), start + 1):
            state, metrics = train_step(state, parallel.shard(raw, mesh))
            pending.append(metrics)
            last = step == steps
            means, best = None, meta["best"]
            evaluates = last or step % train.evaluate_every == 0
            saves = last or step % train.checkpoint_every == 0
            if evaluates or saves or step % train.log_every == 0:
                means = checked_means(pending, step)  # before anything of it is kept
                pending = []
                writer.scalars(step, means, "train")
            if evaluates and (scores := validate(state)):
                writer.scalars(step, scores, "validation")
                means |= {"val_auroc": scores["auroc"]}
                score = scores["auroc"] if scores["auroc"] is not None else scores["accuracy"]
                if best is None or score > best["score"]:
                    meta["best"], saves = {"step": step, "score": score}, True
            if sample and (last or step % train.sample_every == 0):
                images = sample(state, jax.random.key(0), SAMPLES)  # the same z each time
                writer.images(step, grid(np.asarray(images), columns=8))
            if saves:
                meta["wall_s"] = before_s + time.monotonic() - start_time
                keep = {meta["best"]["step"]} if meta["best"] else ()
                checkpoint.save(folder, step, state, meta, keep=keep)
            progress.update(step, means)

    result = {
        "method": config.method.name,
        "data": config.data.name,
        "labels_per_class": config.data.labels_per_class or None,
        "images": config.data.images or None,
        "labelled": len(task.labelled),
        "unlabelled": len(task.unlabelled) if train.unlabeled_batch_size else 0,
        "size": config.data.size,
        "seed": train.seed,
        "steps": steps,
        "classes": list(records.classes),
        **test(validate, task, state, meta["best"], like, workdir),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "wall_s": round(before_s + time.monotonic() - start_time, 1),
    }
    write_json(workdir / "result.json", result)  # last: its presence means that the run is done
    return result


def to_float(raw: Batch) -> Batch:
    """uint8 images -> float32 in [-1,1], on the device."""
    return raw.replace(
        image=raw.image.astype(jnp.float32) / 127.5 - 1,
        unlabeled=raw.unlabeled.astype(jnp.float32) / 127.5 - 1,
    )


def checked_means(pending: list[Metrics], step: int) -> dict[str, float]:
    """Means of the last steps' metrics; `step` is the last of them.

    Raises:
      UserError: one is not finite; names the first step and its terms.
    """
    rows = jax.device_get(pending)
    for done, row in enumerate(rows, step - len(rows) + 1):
        bad = [name for name, value in row.items() if not np.isfinite(value)]
        if bad:
            raise UserError(
                f"step {done}: {', '.join(bad)} is not finite; the checkpoints before it are "
                "sound: lower method.lr* or change the method's settings in a new --workdir"
            )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


class Validator:
    """Scores of a state on the validation images; `{}` where there is nothing to score."""

    def __init__(self, method: Method, task: Task, batch_size: int) -> None:
        self.predict = method.predict and jax.jit(method.predict)
        self._records, self._rows, self._batch = task.records, task.val, batch_size

    def probabilities(self, state: TrainState, rows: np.ndarray) -> np.ndarray:
        """Class probabilities [len(rows),K] of these images."""
        predict = lambda images: self.predict(state, images)  # noqa: E731
        return evaluate.predict_all(predict, self._records.image[rows], self._batch)

    def __call__(self, state: TrainState) -> dict[str, float | None]:
        """Accuracy, AUROC and so on at threshold .5."""
        if not self.predict or not len(self._rows):
            return {}
        probs = self.probabilities(state, self._rows)
        scores = evaluate.metrics(probs, self._records.label[self._rows])
        return {name: scores[name] for name in evaluate.METRICS}


def test(
    validator: Validator,
    task: Task,
    state: TrainState,
    best: Mapping[str, Any] | None,
    like: TrainState,
    workdir: Path,
) -> dict[str, Any]:
    """Tests the best state once and writes predictions.csv; the test's part of `result.json`."""
    if not validator.predict:
        return {"best_step": int(state.step), "test": None, "validation": None}
    if best and best["step"] != int(state.step):
        state, _ = checkpoint.restore_step(workdir / "checkpoints", best["step"], like)
    records, scores, threshold = task.records, {}, 0.5
    for name, rows in (("validation", task.val), ("test", task.test)):
        probs, label = validator.probabilities(state, rows), records.label[rows]
        if name == "validation" and probs.shape[1] == 2:
            threshold = evaluate.choose_threshold(probs, label)
        if len(rows):
            scores[name] = evaluate.report(probs, label, records.patient[rows], threshold)
    evaluate.write_predictions(
        workdir / "predictions.csv",
        records.path[task.test],
        records.label[task.test],
        probs,
        records.classes,
        threshold,
    )
    return {
        "best_step": int(state.step),
        "test": scores.get("test"),
        "validation": scores.get("validation"),
    }


def check_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a folder that holds another config's run.

    Raises:
      UserError: names the keys that differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        old = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is not JSON; choose another --workdir") from None
    if changed := differences(old, config.to_dict()):
        raise UserError(
            f"{workdir} holds another run ({'; '.join(changed)}); choose another --workdir"
        )


def check_classes(old: list[str], new: tuple[str, ...], folder: Path) -> None:
    """Refuses a checkpoint whose classes are others, or in another order.

    Raises:
      UserError: names both.
    """
    if old != list(new):
        raise UserError(f"{folder}: trained on classes {old}, but the data has {list(new)}")


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
