"""Adapts a finished run to another hospital's images, without labels and without its own data.

    python -m ssl_gan_jax.adapt --workdir=RUN IMAGE_OR_FOLDER... --out=RUN2
    python -m ssl_gan_jax.adapt --workdir=RUN images --out=RUN2 --prevalence=.3 --steps=300
    python -m ssl_gan_jax.adapt --workdir=RUN --out=RUN2 [--data_dir=DIR]

Takes images as `predict` does, and writes a run folder that `predict`, `card`, `export` and
`report` open. Source hypothesis transfer (Liang et al. 2020): the last layer is kept, and the
layers below it learn to give the new images features of which it is sure (`adaptation.py`).
--prevalence is the expected share of the positive class, by default one half (of K classes, 1/K).
--augmentation=weak takes the run's own augmentation instead of the strong one. --lr=0 changes no
weight, but takes the new images' statistics in networks with batch normalisation.

With images, nothing is tested: without labels it is unknown whether the adapted run is better than
the first, and it can be worse. Without images, a run that has a data.target_site adapts to the
target's images that are not test images, and is tested on those, as the run was.

The adapted run has no operating points except the threshold .5, and probabilities that are not
calibrated. An image is out of distribution if it is unlike the images of the adaptation.

Exit codes: 0 done, 1 some files skipped, 2 bad input.
"""

import argparse
import copy
import functools
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_gan_jax import adaptation, inference
from ssl_gan_jax.augment import augmentation, strong
from ssl_gan_jax.commands import arguments, ending, predict
from ssl_gan_jax.data.dataset import Dataset, rows_to_adapt_to
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration, metrics
from ssl_gan_jax.files import write_json
from ssl_gan_jax.inference import FinishedRun
from ssl_gan_jax.report.card import write_card
from ssl_gan_jax.training import checkpoint
from ssl_gan_jax.training.result import FIT, test_scores
from ssl_gan_jax.types import TrainState

FEW = 100  # images below which adaptation is doubtful

PARSER = arguments.Parser("adapt", __doc__)
PARSER.add_argument("images", nargs="*", type=predict.image_argument, metavar="IMAGE",
                    help="file, folder or @list; default: data.target_site's")  # fmt: skip
PARSER.add_path("--data_dir", "DIR", help="where the run's data lies now, if no IMAGE is given")
PARSER.add_output("--out", "DIR", required=True, help="folder of the adapted run, a new one")
PARSER.add_argument("--steps", type=int, default=100, help="of 32 images each; default 100")
PARSER.add_argument("--lr", type=float, default=3e-5, help="learning rate of Adam; default .00003")
PARSER.add_argument("--prevalence", type=arguments.share, metavar="SHARE",
                    help="expected share of the positive class")  # fmt: skip
PARSER.add_argument("--augmentation", choices=("strong", "weak"), default="strong",
                    help="of the images that learn pseudo-labels; default strong")  # fmt: skip
PARSER.add_argument("--seed", type=int, default=0, help="of order, augmentation and noise")


def adapt(
    run: FinishedRun,
    images: np.ndarray,
    prior: np.ndarray,
    steps: int,
    lr: float,
    strongly: bool = True,
    seed: int = 0,
) -> TrainState:
    """The state of `run` after so many steps on uint8 images [N,S,S,1].

    Args:
      run: its method has a classifier.
      images: of the other hospital, all at once.
      prior: [K] expected share of each class.
      steps: of 32 images each, or of all where there are fewer.
      lr: learning rate.
      strongly: whether pseudo-labels are learnt on strongly augmented images.
      seed: of order, augmentation and noise.

    Raises:
      UserError: the weights diverge.
    """
    settings = {"augmentation": "weak", "shift": 0, "flip": False, **run.config["method"]}
    weak = augmentation(types.SimpleNamespace(**settings))
    name = "C" if "C" in run.state.players else "D"  # as in every method
    size, rng = min(32, len(images)), np.random.default_rng(seed)
    state = run.state.replace(rng=jax.random.key(seed))
    state = adaptation.begin(state, name, jnp.asarray(to_float(images[:size])), lr)
    step = jax.jit(
        functools.partial(
            adaptation.step,
            name=name,
            prior=jnp.asarray(prior, jnp.float32),
            weak=weak,
            view=strong if strongly else weak,
        )
    )
    classify, order = jax.jit(run.method.classify), np.zeros(0, int)
    for taken in range(steps):
        if len(order) < size:  # an epoch, with pseudo-labels of its own
            logits, features = metrics.batched(functools.partial(classify, state), images)
            if not np.isfinite(logits).all():
                raise UserError(f"step {taken}: the weights diverge; give a lower --lr")
            label = adaptation.pseudo_labels(features, calibration.tempered(logits, 1.0))
            order = rng.permutation(len(images))
        rows, order = order[:size], order[size:]
        batch, labels = to_float(images[rows]), label[rows].astype(np.int32)
        state, _ = step(state, batch, labels, jnp.int32(taken))
    state = adaptation.end(state, name, run.state.players[name])
    return state.replace(rng=run.state.rng)


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
    before, _ = metrics.batched(functools.partial(jax.jit(run.method.classify), run.state), images)
    called = [metrics.decide(calibration.tempered(x, 1.0)) for x in (before, logits)]
    held = np.arange(len(images)) % 5 == 4
    known, others = (features[~held], features[held]) if held.any() else (features, features)
    known = known[:: -(-len(known) // FIT)]
    ood = calibration.fit_ood_detector(known, others) if len(known) > 1 else None
    about |= {
        "images": len(images),
        "from_step": int(run.state.step),
        "changed": float(np.mean(called[0] != called[1])),
    }
    for when, decisions in zip(("called_before", "called_after"), called, strict=True):
        count = np.bincount(decisions, minlength=len(run.classes)).tolist()
        about[when] = dict(zip(run.classes, count, strict=True))
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
    fitted = calibration.Calibration(1.0, {"youden": {"threshold": 0.5}}, ood)
    calibration.save(out, fitted)
    write_json(out / "config.json", config)
    write_json(out / "result.json", result)
    write_card(out, config, result)
    return about


def read_files(files: Sequence[Path], run: FinishedRun) -> tuple[np.ndarray, bool]:
    """The images [N,S,S,1] of files, and whether some are skipped, of which it says why."""
    skipped: list[tuple[str, str]] = []
    pixels = [chunk for _, chunk in predict.read(files, run.config["data"], skipped)]
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if not pixels:
        raise UserError(f"none of the {len(files)} images can be read")
    return np.concatenate(pixels), bool(skipped)


def at_half(scores: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC, and accuracy at .5, of test scores."""
    return {
        "auroc": scores["auroc"],
        "accuracy": scores.get("accuracy_at_half", scores["accuracy"]),
    }


def of_target(args: argparse.Namespace, run: FinishedRun) -> tuple[np.ndarray, Dataset]:
    """The images [N,S,S,1] of the run's target that are not test images, and the run's data."""
    data = run.config["data"]
    if not data.get("target_site") or data["target_site"] == data["source_site"]:
        raise UserError(f"{args.workdir}: has no data.target_site to adapt to; give images")
    if not run.result["test"]:
        raise UserError(f"{args.workdir}: was not tested, so there is nothing to compare with")
    dataset = inference.dataset_of(run, args.data_dir)
    return dataset.records.image[rows_to_adapt_to(dataset.records, data)], dataset


def main(args: argparse.Namespace) -> int:
    """Adapts, and says how many decisions changed; 1 where a file was skipped."""
    files = predict.find(args.images) if args.images else []
    if files and args.data_dir:
        raise UserError("--data_dir: is for a run's own target; leave it or the images out")
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"--out={args.out}: is there already; choose a new folder")
    if args.steps < 1 or args.lr < 0:
        raise UserError(f"--steps={args.steps} --lr={args.lr}: a step or more, and no rate below 0")
    run = inference.open_run(args.workdir)
    inference.require(run, "classifier")
    inference.require_classes(run, "adapt")
    k, share = len(run.classes), args.prevalence
    if share and k != 2:
        raise UserError(f"--prevalence: is for two classes, and this run has {k}")
    prior = np.array([1 - share, share]) if share else np.full(k, 1 / k)
    skipped, dataset = False, None
    if files:
        images, skipped = read_files(files, run)
    else:
        images, dataset = of_target(args, run)
    if len(images) < FEW:
        print(f"warning: {len(images)} images are few to adapt to", file=sys.stderr)
    state = adapt(run, images, prior, args.steps, args.lr, args.augmentation == "strong", args.seed)
    about = {
        "method": "shot" if args.lr else "statistics",
        "steps": args.steps,
        "lr": args.lr,
        "augmentation": args.augmentation,
        "prior": dict(zip(run.classes, prior.tolist(), strict=True)),
        "seed": args.seed,
    }
    about = write(run, state, images, about, args.out, dataset)
    if dataset and not args.json:
        for when in ("before", "after"):
            about[when] = {metric: of["value"] for metric, of in about[when].items()}
    ending.print_result(args.json, out=str(args.out), **about)
    return int(skipped)


if __name__ == "__main__":
    arguments.run(main, PARSER)
