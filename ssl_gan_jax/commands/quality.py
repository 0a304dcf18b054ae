"""Measures how far generated images are from real images, and how varied they are.

    python -m ssl_gan_jax.quality --features=REFERENCE RUN [RUN ...]

Writes quality.json into each RUN: the Fréchet distance of generated images to validation images,
and their precision, recall, density and coverage (`evaluation/generated.py`), in the features of
REFERENCE, a run whose classifier was trained on all labels of the same data at the same size. This
is the CXR-feature distance, not FID, whose features are of photographs. Scores of different
REFERENCEs cannot be compared. `report` shows them. Exit codes: 0 done, 2 bad input.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ssl_gan_jax.commands import arguments, ending
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation.generated import NEIGHBOURS, frechet, neighbourhoods
from ssl_gan_jax.files import write_json
from ssl_gan_jax.inference import FinishedRun, dataset_of, open_run, require
from ssl_gan_jax.training.result import generator_rows

SAMPLES = 1000  # of each run; the scores depend on their number
Features = Callable[[np.ndarray], np.ndarray]  # images [N,S,S,1] in [-1,1] -> [N,F]


def features_of(reference: FinishedRun) -> Features:
    """The features of a run's classifier: means over its last 4x4 map.

    They raise UserError for a network without such a map, as one without convolutions.
    """
    classify = jax.jit(lambda x: reference.method.classify(reference.state, x)[1])

    def features(x: np.ndarray) -> np.ndarray:
        maps = np.concatenate([classify(x[i : i + 200]) for i in range(0, len(x), 200)])
        if maps.shape[1] % 16:
            raise UserError(f"{reference.workdir}: its network does not end with a 4x4 map")
        return maps.reshape(len(x), 16, -1).mean(axis=1)

    return features


def measure(
    run: FinishedRun, features: Features, data_dir: str | None = None, samples: int = SAMPLES
) -> dict[str, Any]:
    """The distances to validation images of a run with a generator, in `features`.

    Returns:
      `feature_distance` of the samples, and `feature_distance_of_training` of the images that G was
      trained on, which is the distance of a G that copies them; and `neighbourhoods` of as many
      samples as there are validation images, at most `samples` of both.

    Raises:
      UserError: fewer than two images to compare with, or the run's data has changed.
    """
    dataset = dataset_of(run, data_dir)
    image, val = dataset.records.image, dataset.val
    train = generator_rows(dataset, run.config, bool(run.method.classify))
    if min(len(train), len(val)) < 2:
        raise UserError(f"{run.workdir}: needs two training and two validation images or more")
    z = run.method.draw_z(jax.random.key(1), samples)
    fake = features(np.asarray(jax.jit(run.method.generate)(run.state, z)))
    validation, training = features(to_float(image[val])), features(to_float(image[train]))
    n = min(samples, len(val))
    return {
        "feature_distance": frechet(fake, validation),
        "feature_distance_of_training": frechet(training, validation),
        **(neighbourhoods(fake[:n], validation[:n]) if n > NEIGHBOURS else {}),
    }


PARSER = arguments.Parser("quality", __doc__, workdir=False)
PARSER.add_path("runs", "RUN", nargs="+", help="folder of a finished run")
PARSER.add_path(
    "--features", "REFERENCE", required=True, help="run whose classifier gives the features"
)


def main(args: argparse.Namespace) -> None:
    """Writes quality.json of each run."""
    reference = open_run(args.features)
    features = features_of(reference)
    for workdir in args.runs:
        run = open_run(workdir)
        require(run, "generator")
        if run.config["data"]["size"] != reference.config["data"]["size"]:
            raise UserError(
                f"{workdir}: its images and those of {reference.workdir} differ in size"
            )
        scores = {**measure(run, features), "reference": reference.workdir.name}
        write_json(workdir / "quality.json", scores)
        ending.print_result(args.json, run=str(workdir), **scores)


if __name__ == "__main__":
    arguments.run(main, PARSER)
