"""Checks a data set before training.

    python -m ssl_gan_jax.audit --config=configs/folder.py --config.data.dir=DIR --workdir=OUT

Takes the flags of `ssl_gan_jax.main`. Prints how the data were read and what was left out. Writes
OUT/audit.json (counts; unreadable, constant and duplicate images; patients in two splits; sizes,
bit depths, burned-in annotation), OUT/sheet.png (images as the networks get them, one row or more
for each split and class) and OUT/duplicates.png (pairs side by side). They contain file names, but
no patients. Exit codes: 0 no leak; 1 a patient or an identical image is in two splits; 2 bad input.

Exact duplicates are equal after preparation, even if their files differ. Near duplicates have
similar perceptual hashes and correlate: the same image with another coding, size or brightness, but
not cropped or shifted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from ssl_gan_jax.commands import ending, experiment
from ssl_gan_jax.commands.experiment import CONFIG, WORKDIR
from ssl_gan_jax.data import dataset
from ssl_gan_jax.data.audit import COLUMNS, PAIRS, audit, headers, sheet, summary
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.files import grid, write_json, write_png
from ssl_gan_jax.paths import private

flags.adopt_module_key_flags(experiment)


def main(argv: Sequence[str]) -> int:
    """Writes the audit and returns the exit code."""
    experiment.check(argv)
    data, out = CONFIG.value.data, Path(WORKDIR.value)
    found = dataset.load({**data, "max_unreadable": 1.0})
    split = dataset.split_images(found, data)
    report, pairs = audit(found, split)
    report["understood"] = dataset.summary(found)
    report["warnings"] = list(found.metadata.warnings)
    if len(found.files) == len(found.path) + len(found.quarantined):  # the images are files
        report |= headers(found.files)
    write_json(out / "audit.json", report)
    rows = sheet(found, split)
    black = (rows < 0)[:, None, None, None]
    pixels = np.where(black, -1, to_float(found.image[rows]))
    with private():  # these pictures show patients
        write_png(out / "sheet.png", grid(pixels, COLUMNS))
    if len(pairs):
        pixels = to_float(found.image[pairs[:PAIRS].ravel()])
        with private():
            write_png(out / "duplicates.png", grid(pixels, COLUMNS))
    for line in summary(report):
        logging.info("%s", line)
    logging.info("%s/audit.json, sheet.png", out)
    if experiment.JSON.value:
        ending.print_result(True, **report)
    return 1 if report["leaks"] else 0


if __name__ == "__main__":
    experiment.run(main)
