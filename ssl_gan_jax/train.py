"""The one training loop: `run`, and `_train` read from top to bottom."""

import collections
import contextlib
import itertools
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
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
EVERY = ("log_every", "evaluate_every", "checkpoint_every", "sample_every")
TOGETHER = ("train.seed", "data.labels_per_class", "data.images")  # what replicas may differ in


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains, validates, keeps the best, tests once; returns what `result.json` says.

    The same call on the same folder goes on where it stopped, bit for bit as if it had not; on a
    finished one it returns the result. The state with the best validation AUROC is the one that
    is tested, at the threshold that validation chose. The test images take no other part.

    With `config.replicas` = R > 1, R runs with the seeds `train.seed`, `train.seed` + 1, ... train
    as one program (`together`), each in a folder of its own, `workdir/seed_S`; returns
    `{"runs": [their results]}`.

    Raises:
      UserError: bad input, or a loss that is not finite (names step and term).
    """
    if config.replicas < 1:
        raise UserError(f"replicas: {config.replicas}; must be 1 or more")
    if config.replicas == 1:
        return together([config], [Path(workdir)])[0]
    seeds = range(config.train.seed, config.train.seed + config.replicas)
    configs = [config.copy_and_resolve_references() for _ in seeds]
    for one, seed in zip(configs, seeds, strict=True):
        one.replicas, one.train.seed = 1, seed
    return {"runs": together(configs, [Path(workdir) / f"seed_{seed}" for seed in seeds])}


def together(
    configs: Sequence[ml_collections.ConfigDict], workdirs: Sequence[Path]
) -> list[dict[str, Any]]:
    """Trains runs that differ in seed or labels only, as replicas in one program; their results.

    Each run's folder is that of a run alone, and may be gone on with alone. Finished ones are not
    run again; those that were interrupted at another step than the others go on by themselves.

    Raises:
      UserError: as `run`; or two configs differ in more than `TOGETHER`.
    """
    for config in configs[1:]:
        apart = [d for d in differences(configs[0], config) if d.partition(":")[0] not in TOGETHER]
        if apart:
            raise UserError(f"runs that train together must not differ in {'; '.join(apart)}")
    groups = collections.defaultdict(list)
    for config, workdir in zip(configs, workdirs, strict=True):
        check_workdir(workdir, config)
        if (workdir / "result.json").exists():
            logging.info("%s is finished; delete it or choose another --workdir", workdir)
        else:
            one = Run(config, workdir)
            groups[one.steps, checkpoint.last_step(workdir / "checkpoints")].append(one)
    for runs in groups.values():
        _train(runs, divide=len(configs) == 1)
    return [json.loads((workdir / "result.json").read_text()) for workdir in workdirs]


class Run:
    """What each of several runs in one program has for itself."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path) -> None:
        self.config, self.workdir = config, workdir
        self.folder = workdir / "checkpoints"
        self.task = open_task(config.data, config.train.seed)
        self.classes = self.task.records.classes
        self.method = methods.build({**config.method, "num_classes": len(self.classes)})
        # Without labels, all serve.
        self.rows = self.task.labelled if self.method.predict else self.task.unlabelled
        train = config.train
        for key in (*EVERY, "steps_per_call"):
            if train[key] < 1:
                raise UserError(f"train.{key}: {train[key]}; must be 1 or more")
        self.steps = train.steps
        if train.epochs:
            self.steps = train.epochs * len(self.rows) // train.batch_size
        if self.steps < 1:
            raise UserError(
                f"train: {self.steps} steps; raise train.steps, or train.epochs if it is not 0"
            )
        self.key = jax.random.key(train.seed)
        self.meta = {"classes": list(self.classes), "best": None, "wall_s": 0.0}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of NumPy arrays for the steps from `start` to `stop` - 1."""
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
            process=(jax.process_index(), jax.process_count()),
        )

    def restore(self, like: TrainState) -> TrainState | None:
        """The last checkpoint, and its meta data into `self.meta`; None without one."""
        restored = checkpoint.restore(self.folder, like)
        if not restored:
            return None
        state, self.meta = restored
        check_classes(self.meta["classes"], self.classes, self.folder)
        return state

    def means(self, metrics: list[Metrics], which: tuple[int, int], step: int) -> dict[str, float]:
        """Checked means of replica i of n = `which`; arrays of [n] or [n,steps], without n if 1."""
        i, n = which
        rows = [{name: values.reshape(n, -1)[i] for name, values in m.items()} for m in metrics]
        try:
            return checked_means(
                {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, step
            )
        except UserError as error:
            raise UserError(f"{self.workdir}: {error}") from None


def _train(runs: list[Run], divide: bool) -> None:
    """Trains runs that stand at the same step, and writes each one's result.

    `divide`: a single run divides its batches over all devices; else it is a replica, on one.
    """
    start_time = time.monotonic()
    config, n = runs[0].config, len(runs)
    train, steps, method = config.train, runs[0].steps, runs[0].method
    sizes = (train.batch_size, train.unlabeled_batch_size)
    devices = parallel.Devices(n, parallel.data_mesh(*sizes) if divide else None)

    def train_step(state, raw):
        return method.train_step(state, to_float(raw))

    one_step = devices.compile(train_step)
    several_steps = devices.compile(lambda state, raw: jax.lax.scan(train_step, state, raw))
    init = jax.jit(
        lambda key, raw: method.init(key, to_float(raw)),
        # Runs once: on a CPU the optimising compiler would take longer than it saves.
        compiler_options={"xla_backend_optimization_level": 0} if devices.are_cpus else None,
    )
    sample = method.sample and jax.jit(method.sample, static_argnums=2)
    validators = [Validator(method, one.task, train.evaluation_batch_size) for one in runs]
    for validator in validators[1:]:
        validator.predict = validators[0].predict  # one program for all

    first = [devices.put_one(next(one.batches(0, 1))) for one in runs]
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.one_state),
        jax.eval_shape(init, runs[0].key, first[0]),
    )

    # All that can be wrong with the input has been seen; from here on files are written.
    states = []
    for one, raw in zip(runs, first, strict=True):
        write_json(one.workdir / "config.json", one.config.to_dict())
        states.append(one.restore(like) or init(one.key, raw))
    start = int(states[0].step)
    if any(int(state.step) != start for state in states):  # a damaged checkpoint was passed over
        for one in runs:
            _train([one], divide)
        return
    before_s = [one.meta["wall_s"] for one in runs]
    for one in runs:
        describe(one.config, one.task, steps, start)
    state = devices.put_states(states)
    del states

    every = [train[key] for key in EVERY]
    pending: list[Metrics] = []
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        writers = [enter(Writer(one.workdir, resume_step=start)) for one in runs]
        progress = enter(Progress(steps, start))
        streams = [one.batches(start, steps) for one in runs]
        step = start
        for k in call_lengths(start, steps, train.steps_per_call, every):
            raw = devices.put([list(itertools.islice(stream, k)) for stream in streams])
            state, metrics = (several_steps if k > 1 else one_step)(state, raw)
            pending.append(metrics)
            step += k
            last = step == steps
            evaluates = last or step % train.evaluate_every == 0
            samples = sample and (last or step % train.sample_every == 0)
            saves = last or step % train.checkpoint_every == 0
            if not (evaluates or samples or saves or step % train.log_every == 0):
                progress.update(step, None)
                continue
            rows, pending = jax.device_get(pending), []
            # Checked before anything of these steps is kept.
            means = [one.means(rows, (i, n), step) for i, one in enumerate(runs)]
            states = devices.split(state) if evaluates or samples or saves else [None] * n
            for writer, mean in zip(writers, means, strict=True):
                writer.scalars(step, mean, "train")
            if evaluates:
                for i, one in enumerate(runs):
                    if not (scores := validators[i](states[i])):
                        continue
                    writers[i].scalars(step, scores, "validation")
                    score = scores["auroc"] if scores["auroc"] is not None else scores["accuracy"]
                    best = one.meta["best"]
                    if best is None or score > best["score"]:
                        one.meta["best"], saves = {"step": step, "score": score}, True
                    means[i] = means[i] | {"val_auroc": scores["auroc"]}
            if samples:
                for writer, one_state in zip(writers, states, strict=True):
                    images = sample(one_state, jax.random.key(0), SAMPLES)  # the same z each time
                    writer.images(step, grid(np.asarray(images), columns=8))
            if saves:  # all of them, so that they can go on together
                for one, one_state, before in zip(runs, states, before_s, strict=True):
                    one.meta["wall_s"] = before + time.monotonic() - start_time
                    keep = {one.meta["best"]["step"]} if one.meta["best"] else ()
                    checkpoint.save(one.folder, step, one_state, one.meta, keep=keep)
            progress.update(step, means[0])

    for i, (one, last_state) in enumerate(zip(runs, devices.split(state), strict=True)):
        result = {
            "method": config.method.name,
            "data": config.data.name,
            "labels_per_class": one.config.data.labels_per_class or None,
            "images": one.config.data.images or None,
            "labelled": len(one.task.labelled),
            "unlabelled": len(one.task.unlabelled) if train.unlabeled_batch_size else 0,
            "size": config.data.size,
            "seed": one.config.train.seed,
            "steps": steps,
            "classes": list(one.classes),
            **test(validators[i], one.task, last_state, one.meta["best"], like, one.workdir),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "python": platform.python_version(),
            "replicas": n,  # that shared the time
            "wall_s": round(before_s[i] + time.monotonic() - start_time, 1),
        }
        write_json(one.workdir / "result.json", result)  # last: with it the run is done


def call_lengths(start: int, stop: int, several: int, every: Sequence[int]) -> Iterator[int]:
    """How many steps each call runs: `several`, but 1 where more would pass a multiple of `every`.

    So nothing that happens every so many steps is missed, and two programs serve all lengths.
    """
    while start < stop:
        free = min([stop - start, *(n - start % n for n in every)])
        length = several if several <= free else 1
        yield length
        start += length


def to_float(raw: Batch) -> Batch:
    """uint8 images -> float32 in [-1,1], on the device."""
    return raw.replace(
        image=raw.image.astype(jnp.float32) / 127.5 - 1,
        unlabeled=raw.unlabeled.astype(jnp.float32) / 127.5 - 1,
    )


def checked_means(columns: Mapping[str, np.ndarray], step: int) -> dict[str, float]:
    """Means of each metric over the last steps, of which `step` is the last.

    Raises:
      UserError: one is not finite; names the first such step and its terms.
    """
    finite = np.stack([np.isfinite(values) for values in columns.values()])  # [metric, step]
    if not finite.all():
        first = int(np.argmin(finite.all(0)))
        bad = ", ".join(k for k, ok in zip(columns, finite[:, first], strict=True) if not ok)
        raise UserError(
            f"step {step - finite.shape[1] + 1 + first}: {bad} is not finite; the checkpoints "
            "before it are sound: lower method.lr* or change the method's settings in a new "
            "--workdir"
        )
    return {name: float(values.mean()) for name, values in columns.items()}


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
