"""Open a finished run and predict with it; its training data is not needed.

run = open_run("runs/phantom")
prediction = predictor(run)(images)         # uint8 [N,S,S,1], as `data.images.prepare` makes them
prediction.probability, prediction.ood      # [N,K], [N]
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_gan_jax import methods, targets
from ssl_gan_jax.data.dataset import Dataset, check_data, open_dataset
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.types import Array, Batch, Method, TrainState


class FinishedRun(NamedTuple):
    """A finished run: its tested state, result and calibration."""

    workdir: Path
    config: dict[str, Any]  # config.json
    result: dict[str, Any]  # result.json
    classes: tuple[str, ...]
    method: Method
    state: TrainState
    calibration: calibration.Calibration
    target: targets.Kind = targets.CLASSES  # whether `classes` are classes or findings


class Prediction(NamedTuple):
    """The predictions for N images."""

    probability: np.ndarray  # [N,K] float64, tempered
    ood: np.ndarray  # [N] float64, above 1 is out of distribution; NaN without calibration


def open_run(workdir: str | Path) -> FinishedRun:
    """Opens the run folder `workdir`.

    Raises:
      UserError: no run folder, an unfinished run, or a damaged file or checkpoint.
    """
    workdir = Path(workdir)
    config, result = read(workdir)
    try:
        config["data"] = {
            "aspect": "squash",
            **config["data"],
        }  # missing in runs of earlier versions
        target = targets.KINDS[result.get("target", "classes")]
        classes, size, train = tuple(result["classes"]), config["data"]["size"], config["train"]
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in config["method"].items()}
        settings.pop("shift_fake", None)  # only in runs of version 0.1
        b, u, step = train["batch_size"], train["unlabeled_batch_size"], int(result["best_step"])
        threshold = (result["validation"] or {}).get("threshold")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir}: config.json or result.json lacks {error}") from None
    method = methods.build({**settings, "num_classes": len(classes)})
    image, label = jnp.zeros((b, size, size, 1)), jnp.zeros(b, jnp.int32)
    batch = Batch(image, label, jnp.zeros((u, size, size, 1)))  # for its shapes
    template = jax.eval_shape(method.init, jax.random.key(0), batch)
    state, _ = checkpoint.restore_step(workdir / "checkpoints", step, template)
    fitted = calibration.load(workdir, threshold)
    return FinishedRun(workdir, config, result, classes, method, state, fitted, target)


def read(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and result.json of a finished run. UserError if one is missing or damaged."""
    if not (workdir / "config.json").is_file():
        inside = sorted(str(path.parent) for path in workdir.glob("*/config.json"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise UserError(f"{workdir} is not a run's folder: it has no config.json{hint}")
    if not (workdir / "result.json").is_file():
        raise UserError(f"{workdir} is not finished; repeat the command that began it")
    contents = []
    for name in ("config.json", "result.json"):
        try:
            contents.append(dict(json.loads((workdir / name).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{workdir / name} is damaged ({error}); bring back a copy") from None
    return tuple(contents)


def predict(run: FinishedRun, images: Array) -> tuple[Array, Array]:
    """Images [B,S,S,1] in [-1,1] -> tempered logits [B,K] and ood scores [B]; pure."""
    logits, features = run.method.classify(run.state, images)
    ood_detector = run.calibration.ood_detector
    ood = ood_detector.score(features) if ood_detector else jnp.full(images.shape[0], jnp.nan)
    return logits / run.calibration.scale, ood


def predictor(run: FinishedRun) -> Callable[[np.ndarray], Prediction]:
    """`predict`, compiled once, for uint8 images [N,S,S,1].

    Raises:
      UserError: the method has no classifier; or, when called, a prediction is not finite.
    """
    require(run, "classifier")
    compiled = jax.jit(lambda images: predict(run, images))

    def compiled_predict(images: np.ndarray) -> Prediction:
        logits, ood = metrics.batched(compiled, images)
        if not np.isfinite(logits).all():
            raise UserError(f"{run.workdir}: predictions are not finite: the weights have diverged")
        return Prediction(run.target.probability(logits), ood)

    return compiled_predict


def require(run: FinishedRun, part: str) -> None:
    """Raises UserError if the run's method has no `part`: "classifier" or "generator"."""
    member = {"classifier": run.method.classify, "generator": run.method.generate}[part]
    if not member:
        raise UserError(f"{run.workdir}: {run.config['method']['name']} has no {part}")


def require_classes(run: FinishedRun, what: str) -> None:
    """Raises UserError, which names `what`, if an image of the run may have several findings."""
    if run.target is targets.FINDINGS:
        raise UserError(
            f"{run.workdir}: has several findings in an image, and {what} is for classes only"
        )


def dataset_of(run: FinishedRun, data_dir: str | Path | None = None) -> Dataset:
    """The data that a run trained on, from its config's `data.dir` or `data_dir`.

    Raises:
      UserError: as `open_dataset`; or images, splits, labels or classes differ from the run's (a
        warning for runs of earlier versions, which did not record them).
    """
    data = run.config["data"]
    dataset = open_dataset({**data, "dir": str(data_dir or data["dir"])}, run.result["seed"])
    check_data(run.workdir, dataset, run.classes, run.result.get("fingerprint"))
    return dataset
