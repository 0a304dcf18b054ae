"""The folder of an adapted run, which every command opens as a run's."""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_gan_jax.data.dataset import Dataset
from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.files import write_json
from ssl_gan_jax.inference import FinishedRun
from ssl_gan_jax.report.card import write_card
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training.result import FIT, test_scores
from ssl_gan_jax.types import TrainState


def write(
    run: FinishedRun,
    state: TrainState,
    images: np.ndarray,
    about: dict[str, Any],
    out: Path,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Writes the run folder `out` of an adapted state; returns what it says of the adaptation.

    With the run's `dataset` it is tested on the test images.
    """
    compiled = functools.partial(jax.jit(run.method.classify), state)
    logits, features = metrics.batched(compiled, images)
    about |= {"images": len(images), "from_step": int(run.state.step)}
    about |= decisions(run, images, logits)
    config = copy.deepcopy(run.config) | {"adapted": about["method"]}
    scores = dict.fromkeys(("test", "validation", "samples", "new_prior"))
    step = int(state.step)
    result = run.result | scores | {"test_by_group": {}, "best_step": step, "adaptation": about}
    cell = result.pop("cell", None)
    if dataset:
        tested, _ = metrics.batched(compiled, dataset.records.image[dataset.test])
        result |= test_scores(dataset, tested, 0.5, out / "predictions.csv")
        about |= {"before": at_half(run.result["test"]), "after": at_half(result["test"])}
    if dataset and cell:  # a run of a sweep, which has a row
        flags = (f"--{key}={about[key]}" for key in ("steps", "lr", "augmentation", "seed"))
        then = f"python -m ssl_gan_jax.adapt --workdir=RUN --out=ADAPTED {' '.join(flags)}"
        result["command"] = f"{result['command']} && {then}"
        result["cell"] = cell | {"adapted": about["method"]}
    checkpoint.save(out / "checkpoints", step, state, {"adaptation": about})
    points = {"youden": {"threshold": 0.5}}
    calibration.save(out, calibration.Calibration(1.0, points, ood_detector(features)))
    write_json(out / "config.json", config)
    write_json(out / "result.json", result)
    write_card(out, config, result)
    return about


def decisions(run: FinishedRun, images: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """How many images each class got before and after, and the share whose decision changed.

    `images` are uint8 [N,S,S,1], `logits` [N,K] those of the adapted classifier.
    """
    before, _ = metrics.batched(functools.partial(jax.jit(run.method.classify), run.state), images)
    called = [metrics.decide(calibration.tempered(x, 1.0)) for x in (before, logits)]
    about: dict[str, Any] = {"changed": float(np.mean(called[0] != called[1]))}
    for when, decided in zip(("called_before", "called_after"), called, strict=True):
        count = np.bincount(decided, minlength=len(run.classes)).tolist()
        about[when] = dict(zip(run.classes, count, strict=True))
    return about


def ood_detector(features: np.ndarray) -> calibration.OodDetector | None:
    """A detector of what is unlike the images of the adaptation, whose features [N,F] these are."""
    held = np.arange(len(features)) % 5 == 4
    known, others = (features[~held], features[held]) if held.any() else (features, features)
    known = known[:: -(-len(known) // FIT)]
    return calibration.fit_ood_detector(known, others) if len(known) > 1 else None


def at_half(scores: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC, and accuracy at .5, of test scores."""
    return {
        "auroc": scores["auroc"],
        "accuracy": scores.get("accuracy_at_half", scores["accuracy"]),
    }
