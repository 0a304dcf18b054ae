"""Made chest radiographs, normal or with an enlarged heart, or several findings: data for all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_gan_jax.data.index import Index, Row, chosen_findings
from ssl_gan_jax.data.sources.phantom import anatomy, radiograph
from ssl_gan_jax.data.sources.phantom import findings as several
from ssl_gan_jax.errors import UserError, check_choice

CLASSES = ("normal", "cardiomegaly")


def index(
    data_dir: None,
    images: int = 4000,
    seed: int = 0,
    site: str = "both",
    findings: Sequence[str] | str = "",
) -> Index:
    """List `images` radiographs of site 'A', 'B' or 'both'; another `seed`, other patients.

    With `findings`, the same patients have those of findings.py, in place of the heart's alone:
    'all' are labelled, or some, as a sequence or divided by commas.
    """
    check_choice("data.options.site", site, ("both", *anatomy.SITES))
    if images < 1 or seed < 0:
        raise UserError(f"images={images}, seed={seed}: use an image or more, and no seed below 0")
    rows, place, render = [], {}, several.render if findings else radiograph.render
    files = (anatomy, radiograph, several) if findings else (anatomy, radiograph)
    names = chosen_findings(findings, several.NAMES) if findings else CLASSES
    for i in range(images):
        patient, view, name = anatomy.describe(seed, i, site)
        number, take = anatomy.locate(i)
        path = f"{name}/P{number:05d}-{take + 1}.png"
        shown = dict(zip(several.NAMES, several.labels(patient, view), strict=True))
        label = tuple(shown[k] for k in names) if findings else shown[CLASSES[1]]
        rows.append(Row(path, label, f"P{number:05d}", site=name))
        place[path] = i

    def read(row: Row, size: int = radiograph.RAYS) -> np.ndarray:
        return render(seed, place[row.path], size, site).astype(np.float32) / 255

    files = [Path(module.__file__) for module in files]
    return Index(names, rows, read, files, any_size=True)


DESCRIPTION = (
    "Chest radiographs made from ellipsoids; a cardiothoracic ratio over 0.5 is cardiomegaly."
)
INSTRUCTIONS = None
