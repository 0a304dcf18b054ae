"""Looks at a data set before anything is trained on it.

    python -m ssl_gan_jax.audit --config=configs/folder.py --config.data.dir=DIR --workdir=OUT

Takes the flags of `ssl_gan_jax.main`. Says how the data were read and what was left out. Writes
OUT/audit.json (counts; unreadable, constant and
duplicate images; patients in two splits; sizes, bit depths, burned-in annotation), OUT/sheet.png
(images as networks see them, a row or more for each split and class) and OUT/duplicates.png (pairs
side by side). All name images by file, none by patient. Exit codes: 0 nothing leaks; 1 a patient,
or exactly the same image, is in two splits; 2 bad input.

Exact duplicates are equal once prepared, whatever their files. Near ones are found by perceptual
hash and confirmed by correlation: the same image coded, sized or brightened otherwise, but not
cropped or shifted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags, logging

from ssl_gan_jax.commands import command_line
from ssl_gan_jax.commands.command_line import CONFIG, WORKDIR
from ssl_gan_jax.data import dataset
from ssl_gan_jax.data.audit import COLUMNS, PAIRS, audit, headers, sheet, summary
from ssl_gan_jax.data.scale import to_float
from ssl_gan_jax.files import grid, write_json, write_png
from ssl_gan_jax.paths import private

flags.adopt_module_key_flags(command_line)


def main(argv: Sequence[str]) -> int:
    """Writes the audit and returns the exit code."""
    command_line.check_flags(argv)
    data, out = CONFIG.value.data, Path(WORKDIR.value)
    found = dataset.load({**data, "max_unreadable": 1.0})
    split = dataset.split_images(found, data)
    report, pairs = audit(found, split)
    report["understood"] = dataset.summary(found)
    report["warnings"] = list(found.metadata.warnings)
    if len(found.files) == len(found.path) + len(found.quarantined):  # else images are no files
        report |= headers(found.files)
    write_json(out / "audit.json", report)
    chosen = sheet(found, split)
    black = (chosen < 0)[:, None, None, None]
    shown = np.where(black, -1, to_float(found.image[chosen]))
    with private():  # it shows patients, as do the duplicates
        write_png(out / "sheet.png", grid(shown, COLUMNS))
    if len(pairs):
        shown = to_float(found.image[pairs[:PAIRS].ravel()])
        with private():
            write_png(out / "duplicates.png", grid(shown, COLUMNS))
    for line in summary(report):
        logging.info("%s", line)
    logging.info("%s/audit.json, sheet.png", out)
    if command_line.JSON.value:
        command_line.print_result(True, **report)
    return 1 if report["leaks"] else 0


if __name__ == "__main__":
    command_line.cli(main)
