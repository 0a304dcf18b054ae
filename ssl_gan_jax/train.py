"""The one training loop: `run`, and `_train` read from top to bottom."""

import collections
import contextlib
import functools
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from ssl_gan_jax import (
    calibration,
    card,
    checkpoint,
    distributed,
    evaluate,
    methods,
    parallel,
    quality,
    trained,
)
from ssl_gan_jax.config import TOGETHER, differences
from ssl_gan_jax.data import pipeline
from ssl_gan_jax.data.task import Task, open_task
from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.types import Array, Batch, Metrics, TrainState
from ssl_gan_jax.writer import Progress, Writer, grid, write_json

SAMPLES = 64  # pictures in the grid of samples
EVERY = ("log_every", "evaluate_every", "checkpoint_every", "sample_every")


def run(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains, validates, keeps the best, tests once; returns what `result.json` says.

    The same call on the same folder goes on where it stopped, bit for bit as if it had not; on a
    finished one it returns the result. The state with the best validation AUROC is the one that
    is tested, at the threshold that validation chose. The test images take no other part.

    With `config.replicas` = R > 1, R runs with the seeds `train.seed`, `train.seed` + 1, ... train
    as one program (`together`), each in a folder of its own, `workdir/seed_S`; returns
    `{"runs": [their results]}`.

    `stop` is asked after every call of the compiled step; once it says so, all is saved.

    On several processes (`distributed.start`) every one calls this with the same arguments, and
    `workdir` is a folder that all of them see. All compute the same, evaluation included; the
    first alone writes, but for the arrays of checkpoints.

    Raises:
      UserError: bad input, or a loss that is not finite (names step and term).
      Stopped: after `stop`.
    """
    if config.replicas < 1:
        raise UserError(f"replicas: {config.replicas}; must be 1 or more")
    if config.replicas == 1:
        return together([config], [Path(workdir)], stop=stop)[0]
    seeds = range(config.train.seed, config.train.seed + config.replicas)
    configs = [config.copy_and_resolve_references() for _ in seeds]
    for one, seed in zip(configs, seeds, strict=True):
        one.replicas, one.train.seed = 1, seed
    return {"runs": together(configs, [Path(workdir) / f"seed_{seed}" for seed in seeds], stop)}


def together(
    configs: Sequence[ml_collections.ConfigDict],
    workdirs: Sequence[Path],
    stop: Callable[[], bool] = lambda: False,
    about: Sequence[Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Trains runs that differ in seed or labels only, as replicas in one program; their results.

    Each run's folder is that of a run alone, and may be gone on with alone. Finished ones are not
    run again; those that were interrupted at another step than the others go on by themselves.
    `about` holds what else each run's `result.json` should say.

    Raises:
      UserError, Stopped: as `run`; or two configs differ in more than `TOGETHER`.
    """
    if len(configs) > 1 and not distributed.is_alone():
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
        check_workdir(workdir, config)
        if (workdir / "result.json").exists():
            logging.info("%s is finished; delete it or choose another --workdir", workdir)
        else:
            runs.append(Run(config, workdir, divide=len(configs) == 1, about=more))
    # All that can be wrong with the input has been seen; from here on files are written.
    groups = collections.defaultdict(list)
    for one in runs:
        state = one.begin()
        groups[one.steps, int(state.step)].append((one, state))
    results = {}
    for group in groups.values():
        results |= _train(*map(list, zip(*group, strict=True)), stop)
    return [
        results.get(workdir) or json.loads((workdir / "result.json").read_text())
        for workdir in workdirs
    ]


class Programs(NamedTuple):
    """The functions of one method, jitted, for a number of runs that train as one."""

    devices: parallel.Devices
    init: Callable[[Array, Batch], TrainState]  # of one run, as are `predict` and `sample`
    one_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    several_steps: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    predict: Callable[[TrainState, Array], Array] | None
    look: Callable[[TrainState, Array], tuple[Array, Array]] | None  # logits and features
    sample: Callable[[TrainState, Array, int], Array] | None


@functools.lru_cache(maxsize=2)
def programs(
    settings: tuple[tuple[str, Any], ...], n: int, divided: tuple[int, int] | None
) -> Programs:
    """The programs of `n` runs; kept, so that the runs of a sweep compile them once.

    Args:
      settings: the items of the method's config.
      n: number of runs that train together.
      divided: the sizes of the batches that a single run divides over all devices; None: a
        replica, on one device.

    Raises:
      UserError: a setting of the method is wrong, or the batches do not divide.
    """
    method = methods.build(dict(settings))
    devices = parallel.Devices(n, parallel.data_mesh(*divided) if divided else None)

    def train_step(state, raw):
        return method.train_step(state, to_float(raw))

    return Programs(
        devices=devices,
        init=jax.jit(
            lambda key, raw: method.init(key, to_float(raw)),
            out_shardings=devices.one_state,  # on several processes, the one state of them all
            # Runs once: on a CPU the optimising compiler would take longer than it saves.
            compiler_options={"xla_backend_optimization_level": 0} if devices.are_cpus else None,
        ),
        one_step=devices.compile(train_step),
        several_steps=devices.compile(lambda state, raw: jax.lax.scan(train_step, state, raw)),
        predict=method.predict and jax.jit(method.predict),
        look=method.predict and jax.jit(functools.partial(trained.outputs, method)),
        sample=method.sample and jax.jit(method.sample, static_argnums=2),
    )


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
        self.folder = workdir / "checkpoints"
        self.task = open_task(config.data, config.train.seed)
        self.classes = self.task.records.classes
        train = config.train
        self.settings = tuple(sorted({**config.method, "num_classes": len(self.classes)}.items()))
        self.divided = (train.batch_size, train.unlabeled_batch_size) if divide else None
        self.programs = programs(self.settings, 1, self.divided)
        # Without labels, all serve.
        self.rows = self.task.labelled if self.programs.predict else self.task.unlabelled
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
        self.meta = {"classes": list(self.classes), "best": None, "wall_s": 0.0}
        # The whole first batch, on every process: all begin with the same weights.
        self._init_args = jax.random.key(train.seed), next(self.batches(0, 1, process=(0, 1)))
        self.like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.programs.devices.one_state
            ),
            jax.eval_shape(self.programs.init, *self._init_args),
        )

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
        if distributed.is_first():
            write_json(self.workdir / "config.json", self.config.to_dict())
        distributed.wait()
        if not (self.workdir / "config.json").exists():
            raise UserError(f"{self.workdir}: all processes must see one folder of this name")
        restored = checkpoint.restore(self.folder, self.like)
        if not restored:
            return self.programs.init(*self._init_args)
        state, self.meta = restored
        check_classes(self.meta["classes"], self.classes, self.folder)
        return state

    def save(self, state: TrainState, wall_s: float, pending: Mapping[str, list] | None) -> None:
        """Writes a checkpoint; `pending` are the metrics that no line has been written of."""
        self.meta = self.meta | {"wall_s": wall_s, "pending": pending}
        keep = {self.meta["best"]["step"]} if self.meta["best"] else ()
        checkpoint.save(self.folder, int(state.step), state, self.meta, keep=keep)

    def predict(self, state: TrainState, rows: np.ndarray) -> np.ndarray:
        """Class probabilities [len(rows),K] of these images."""
        predict = functools.partial(self.programs.predict, state)
        size = self.config.train.evaluation_batch_size
        return evaluate.predict_all(predict, self.task.records.image[rows], size)

    def validate(self, state: TrainState) -> dict[str, float | None]:
        """Accuracy, AUROC and so on at threshold .5; `{}` where there is nothing to score."""
        if not self.programs.predict or not len(self.task.val):
            return {}
        scores = evaluate.metrics(
            self.predict(state, self.task.val), self.task.records.label[self.task.val]
        )
        return {name: scores[name] for name in evaluate.METRICS}


def _train(
    runs: list[Run], states: list[TrainState], stop: Callable[[], bool]
) -> dict[Path, dict[str, Any]]:
    """Trains runs that stand at the same step, and writes each one's result; folder -> result."""
    start_time, first = time.monotonic(), distributed.is_first()
    config, n = runs[0].config, len(runs)
    train, steps, start = config.train, runs[0].steps, int(states[0].step)
    program = programs(runs[0].settings, n, runs[0].divided)
    devices, sample = program.devices, program.sample
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
            enter(Writer(one.workdir, resume_step=start)) if first else distributed.Nobody()
            for one in runs
        ]
        progress = enter(Progress(steps, start)) if first else distributed.Nobody()
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
                    if sample:
                        images = sample(one_state, jax.random.key(0), SAMPLES)  # always the same z
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
            "labelled": len(one.task.labelled),
            "unlabelled": len(one.task.unlabelled) if train.unlabeled_batch_size else 0,
            "size": config.data.size,
            "seed": one.config.train.seed,
            "steps": steps,
            "classes": list(one.classes),
            "splits": card.splits(one.task),
            **final_scores(one, last_state),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "python": platform.python_version(),
            "replicas": n,  # that shared the time
            "wall_s": round(before_s[i] + time.monotonic() - start_time, 1),
            **one.about,
        }
        distributed.wait()  # no process is at work on this run any more
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


def to_float(raw: Batch) -> Batch:
    """uint8 images -> float32 in [-1,1], on the device."""
    return raw.replace(
        image=raw.image.astype(jnp.float32) / 127.5 - 1,
        unlabeled=raw.unlabeled.astype(jnp.float32) / 127.5 - 1,
    )


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
    if one.programs.sample:
        seen = trained.learnt_from(one.task, one.config, bool(one.programs.predict))
        images = one.programs.sample(state, jax.random.key(0), SAMPLES)
        result["samples"] = quality.memorisation(
            np.asarray(images), records.image[seen], records.image[one.task.val]
        )
    if not one.programs.predict:
        return result
    threshold = 0.5
    if len(val := one.task.val):
        known, logits = trained.fit_calibration(one.programs.look, state, one.task)
        probs, label = calibration.tempered(logits, 1.0), records.label[val]
        if probs.shape[1] == 2:
            threshold = evaluate.choose_threshold(probs, label)
        result["validation"] = evaluate.report(probs, label, records.patient[val], threshold)
        if distributed.is_first():
            calibration.save(one.workdir, known)
    if one.config.train.test_at_end:
        rows = one.task.test
        probs, label = one.predict(state, rows), records.label[rows]
        if len(rows):
            result["test"] = evaluate.report(probs, label, records.patient[rows], threshold)
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
