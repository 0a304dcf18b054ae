"""How good are G's images, and are they copies? Distances to real images.

    python -m ssl_gan_jax.quality --features=REFERENCE RUN [RUN ...]

writes `quality.json` into each RUN: the Fréchet distance of G's samples to validation images in the
features of REFERENCE, a run whose classifier was trained on all labels of the same data at the
same size. This is the CXR-feature distance, not FID, whose features are of photographs: compare it
under one REFERENCE only. `report` shows it. Exit codes: 0 done, 2 bad input.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_gan_jax import command_line
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.trained import Trained, learnt_from, needs, open_run, outputs, task_of
from ssl_gan_jax.writer import write_json

BLOCK = 1024  # images that are compared at once
SAMPLES = 1000  # a run: more narrow the distance's bias, which is the same for all runs


def nearest(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Distance of each of `images` [N,...] to the nearest of `among` [M,...]; [N] float64.

    The root mean square over pixels, in the units of the pixels. Exact copies give 0; a copy that
    was shifted does not, so that methods which shift their images are judged mildly.
    """

    def blocks(x: np.ndarray) -> Iterator[np.ndarray]:  # all at once would fill the memory
        for start in range(0, len(x), BLOCK):
            part = np.asarray(x[start : start + BLOCK], np.float64)
            yield part.reshape(len(part), -1)

    found = []
    for a in blocks(images):
        least = np.full(len(a), np.inf)
        for b in blocks(among):
            square = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)
            np.minimum(least, square.min(axis=1), out=least)
        found.append(np.sqrt(np.maximum(least, 0) / a.shape[1]))
    return np.concatenate(found)


def memorisation(samples: np.ndarray, train: np.ndarray, validation: np.ndarray) -> dict | None:
    """How near samples lie to training images, beside how near real, unseen images do.

    Args:
      samples: [N,H,W,1] float32 in [-1,1], of G.
      train: [M,H,W,1] uint8, the images that G learnt from.
      validation: [V,H,W,1] uint8, images that it did not.

    Returns:
      Median distances to the nearest training image, in gray levels of 255: `nearest_train` of the
      samples, `nearest_train_of_validation`; and `copies`, the share of samples nearer than all
      but 1 % of the validation images are (about .01 where G has learnt the distribution, 1 where
      it copies). None without validation images.
    """
    if not len(validation):
        return None
    of_samples = nearest((np.asarray(samples) + 1) * 127.5, train)
    of_validation = nearest(validation, train)
    return {
        "nearest_train": float(np.median(of_samples)),
        "nearest_train_of_validation": float(np.median(of_validation)),
        "copies": float(np.mean(of_samples < np.percentile(of_validation, 1))),
    }


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to features a [N,F] and b [M,F].

        |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)

    Source: Heusel et al. 2017, with features of one's own.
    """
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The root's trace is the sum of the roots of the product's eigenvalues, which are >= 0.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(s_a @ s_b).real, 0))
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(s_a) + np.trace(s_b) - 2 * roots.sum())


def measure(workdir: Path, reference: Trained) -> dict[str, Any]:
    """The CXR-feature distances of the run in `workdir`, by the classifier of `reference`.

    All are to the validation images, which no G has seen (of one class, if G learnt one only).

    Returns:
      `feature_distance` of the samples, and `feature_distance_of_training` of the images that G
      learnt from: what a G that copies would get.

    Raises:
      UserError: no finished run, no generator, fewer than two images to compare with, images of
        another size, or a reference without convolutions.
    """
    run = open_run(workdir)
    needs(run, "generator")
    if run.config["data"]["size"] != reference.config["data"]["size"]:
        raise UserError(f"{workdir}: its images are of another size than {reference.workdir}'s")
    task = task_of(run)
    seen = learnt_from(task, run.config, bool(run.method.predict))
    if min(len(seen), len(task.val)) < 2:
        raise UserError(f"{workdir}: needs two training and two validation images or more")
    fake = jax.jit(run.method.sample, static_argnums=2)(run.state, jax.random.key(1), SAMPLES)
    look = jax.jit(lambda x: outputs(reference.method, reference.state, x)[1])

    def features(x: np.ndarray) -> np.ndarray:
        maps = np.concatenate([look(x[i : i + 200]) for i in range(0, len(x), 200)])
        if maps.shape[1] % 16:
            raise UserError(f"{reference.workdir}: its network has no last map of 4x4")
        return maps.reshape(len(x), 16, -1).mean(axis=1)  # over the last 4x4 map

    def real(rows: np.ndarray) -> np.ndarray:
        return features(task.records.image[rows].astype(np.float32) / 127.5 - 1)

    unseen = real(task.val)
    return {
        "feature_distance": frechet(features(np.asarray(fake)), unseen),
        "feature_distance_of_training": frechet(real(seen), unseen),
    }


PARSER = command_line.parser("quality", __doc__, workdir=False)
PARSER.add_argument("runs", nargs="+", type=command_line.path("RUN"), metavar="RUN",
                    help="folder of a finished run")  # fmt: skip
PARSER.add_argument("--features", type=command_line.path("--features"), required=True,
                    metavar="REFERENCE", help="of whose classifier")  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Measures each run that `args` names."""
    reference = open_run(args.features)
    for workdir in args.runs:
        scores = {**measure(workdir, reference), "reference": reference.workdir.name}
        write_json(workdir / "quality.json", scores)
        command_line.tell(args.json, run=str(workdir), **scores)


if __name__ == "__main__":
    command_line.command(main, PARSER)
