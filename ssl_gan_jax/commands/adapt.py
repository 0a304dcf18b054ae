"""Adapts a finished run to another hospital's images, without labels and without its own data.

    python -m ssl_gan_jax.adapt --workdir=RUN IMAGE_OR_FOLDER... --out=RUN2
    python -m ssl_gan_jax.adapt --workdir=RUN images --out=RUN2 --prevalence=.3 --steps=300
    python -m ssl_gan_jax.adapt --workdir=RUN --out=RUN2 [--data_dir=DIR]

Takes images as `predict` does, and writes a run folder that `predict`, `card`, `export` and
`report` open. Source hypothesis transfer (Liang et al. 2020): the last layer is kept, and the
layers below it learn to give the new images features of which it is sure (`adaptation.py`).
--prevalence is the expected share of the positive class, by default one half (of K classes, 1/K).
--augmentation=weak takes the run's own augmentation instead of the strong one.

A network with batch normalisation takes only the new images' statistics by default (--lr=0: no
weight changes), which was better than SHOT on made images of other patients.

With images, nothing is tested: without labels it is unknown whether the adapted run is better than
the first, and it can be worse. Without images, a run that has a data.target_site adapts to the
target's images that are not test images, and is tested on those, as the run was.

The adapted run has no operating points except the threshold .5, and probabilities that are not
calibrated. An image is out of distribution if it is unlike the images of the adaptation.

Exit codes: 0 done, 1 some files skipped, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_gan_jax import adaptation, inference
from ssl_gan_jax.commands import arguments, ending, predict
from ssl_gan_jax.data.dataset import Dataset, rows_to_adapt_to
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.inference import FinishedRun
from ssl_gan_jax.training import adapted

FEW = 100  # images below which adaptation is doubtful
RATE = 3e-5

PARSER = arguments.Parser("adapt", __doc__)
PARSER.add_argument("images", nargs="*", type=predict.image_argument, metavar="IMAGE",
                    help="file, folder or @list; default: data.target_site's")  # fmt: skip
PARSER.add_path("--data_dir", "DIR", help="where the run's data lies now, if no IMAGE is given")
PARSER.add_output("--out", "DIR", required=True, help="folder of the adapted run, a new one")
PARSER.add_argument("--steps", type=int, default=100, help="of 32 images each; default 100")
PARSER.add_argument("--lr", type=float, metavar="RATE",
                    help="of Adam; default .00003, and 0 with batch normalisation")  # fmt: skip
PARSER.add_argument("--prevalence", type=arguments.share, metavar="SHARE",
                    help="expected share of the positive class")  # fmt: skip
PARSER.add_argument("--augmentation", choices=("strong", "weak"), default="strong",
                    help="of the images that learn pseudo-labels; default strong")  # fmt: skip
PARSER.add_argument("--seed", type=int, default=0, help="of order, augmentation and noise")


def read_files(files: Sequence[Path], run: FinishedRun) -> tuple[np.ndarray, bool]:
    """The images [N,S,S,1] of files, and whether some are skipped, of which it says why."""
    skipped: list[tuple[str, str]] = []
    pixels = [chunk for _, chunk in predict.read(files, run.config["data"], skipped)]
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if not pixels:
        raise UserError(f"none of the {len(files)} images can be read")
    return np.concatenate(pixels), bool(skipped)


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
    if args.steps < 1 or (args.lr or 0) < 0:
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
    has_statistics = run.state.players[adaptation.classifier_of(run.state)].stats
    lr = (0.0 if has_statistics else RATE) if args.lr is None else args.lr
    state = adaptation.adapt(
        run, images, prior, args.steps, lr, args.augmentation == "strong", args.seed
    )
    about = {
        "method": "shot" if lr else "statistics",
        "steps": args.steps,
        "lr": lr,
        "augmentation": args.augmentation,
        "prior": dict(zip(run.classes, prior.tolist(), strict=True)),
        "seed": args.seed,
    }
    about = adapted.write(run, state, images, about, args.out, dataset)
    if dataset and not args.json:
        for when in ("before", "after"):
            about[when] = {metric: of["value"] for metric, of in about[when].items()}
    ending.print_result(args.json, out=str(args.out), **about)
    return int(skipped)


if __name__ == "__main__":
    arguments.run(main, PARSER)
