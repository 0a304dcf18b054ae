"""Calibrates a finished run again, as training does at its end.

    python -m ssl_gan_jax.calibration --workdir=RUN [--data_dir=DIR]

Uses the validation images of the run's data set, in `data.dir` of its config or in --data_dir.
Writes into the run's folder. Exit codes: 0 done, 2 bad input.

    calibration.json   temperature, operating points with intervals, and counts of images
    calibration.npz    mean and main directions of the classifier's features, for `OodDetector`
"""

import argparse

import jax
import numpy as np

from ssl_gan_jax import inference
from ssl_gan_jax.commands import arguments, ending
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation import calibration
from ssl_gan_jax.training.result import fit_calibration

PARSER = arguments.Parser("calibration", __doc__)
PARSER.add_path("--data_dir", "DIR", help="where the run's data lies now")


def main(args: argparse.Namespace) -> None:
    """Writes both files, and prints the calibration error before and after."""
    run = inference.open_run(args.workdir)
    inference.require(run, "classifier")
    if "adaptation" in run.result:
        raise UserError(f"{run.workdir}: was adapted to images without labels: calibrate the run "
                        "that it began with")  # fmt: skip
    dataset = inference.dataset_of(run, args.data_dir)
    if not len(dataset.val):
        raise UserError(f"{run.workdir}: there are no validation images to calibrate with")
    classify = jax.jit(run.method.classify)
    fitted, _ = fit_calibration(classify, run.state, dataset)
    calibration.save(run.workdir, fitted)
    ending.print_result(
        args.json, temperature=np.asarray(fitted.scale).tolist(), **fitted.validation
    )


if __name__ == "__main__":
    arguments.run(main, PARSER)
