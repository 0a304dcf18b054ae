"""Measures how far generated images are from real images.

    python -m ssl_gan_jax.quality --features=REFERENCE RUN [RUN ...]

Writes quality.json into each RUN: the Fréchet distance of generated images to validation images in
the features of REFERENCE, a run whose classifier was trained on all labels of the same data at the
same size. This is the CXR-feature distance, not FID, whose features are of photographs. Distances
of different REFERENCEs cannot be compared. `report` shows them. Exit codes: 0 done, 2 bad input.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_gan_jax.commands import arguments, ending
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation.generated import frechet
from ssl_gan_jax.files import write_json
from ssl_gan_jax.inference import FinishedRun, dataset_of, open_run, require
from ssl_gan_jax.training.result import generator_rows

SAMPLES = 1000  # of each run; the distance depends on their number


def measure(workdir: Path, reference: FinishedRun) -> dict[str, Any]:
    """The distances to validation images of the run in `workdir`, in features of `reference`.

    Returns:
      `feature_distance` of the samples, and `feature_distance_of_training` of the images that G was
      trained on, which is the distance of a G that copies them.

    Raises:
      UserError: no finished run, no generator, fewer than two images to compare with, images of
        another size, or a reference without convolutions.
    """
    run = open_run(workdir)
    require(run, "generator")
    if run.config["data"]["size"] != reference.config["data"]["size"]:
        raise UserError(f"{workdir}: its images and those of {reference.workdir} differ in size")
    dataset = dataset_of(run)
    train = generator_rows(dataset, run.config, bool(run.method.classify))
    if min(len(train), len(dataset.val)) < 2:
        raise UserError(f"{workdir}: needs two training and two validation images or more")
    z = run.method.draw_z(jax.random.key(1), SAMPLES)
    fake = jax.jit(run.method.generate)(run.state, z)
    classify = jax.jit(lambda x: reference.method.classify(reference.state, x)[1])

    def features(x: np.ndarray) -> np.ndarray:
        maps = np.concatenate([classify(x[i : i + 200]) for i in range(0, len(x), 200)])
        if maps.shape[1] % 16:
            raise UserError(f"{reference.workdir}: its network does not end with a 4x4 map")
        return maps.reshape(len(x), 16, -1).mean(axis=1)  # over the last 4x4 map

    def real(rows: np.ndarray) -> np.ndarray:
        return features(to_float(dataset.records.image[rows]))

    validation = real(dataset.val)
    return {
        "feature_distance": frechet(features(np.asarray(fake)), validation),
        "feature_distance_of_training": frechet(real(train), validation),
    }


PARSER = arguments.Parser("quality", __doc__, workdir=False)
PARSER.add_path("runs", "RUN", nargs="+", help="folder of a finished run")
PARSER.add_path(
    "--features", "REFERENCE", required=True, help="run whose classifier gives the features"
)


def main(args: argparse.Namespace) -> None:
    """Writes quality.json of each run."""
    reference = open_run(args.features)
    for workdir in args.runs:
        scores = {**measure(workdir, reference), "reference": reference.workdir.name}
        write_json(workdir / "quality.json", scores)
        ending.print_result(args.json, run=str(workdir), **scores)


if __name__ == "__main__":
    arguments.run(main, PARSER)
