"""Made chest radiographs, normal or with an enlarged heart: data that anybody has."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_gan_jax.data.index import Index, Row
from ssl_gan_jax.data.source import SourceBuilder
from ssl_gan_jax.data.sources.phantom import anatomy, radiograph
from ssl_gan_jax.errors import UserError, check_choice

CLASSES = ("normal", "cardiomegaly")
LIMIT = 0.5  # cardiothoracic ratio of an adult above which the heart counts as enlarged


def index(data_dir: None, images: int = 4000, seed: int = 0, site: str = "both") -> Index:
    """List `images` radiographs of site 'A', 'B' or 'both'; another `seed`, other patients."""
    check_choice("data.options.site", site, ("both", *anatomy.SITES))
    if images < 1 or seed < 0:
        raise UserError(f"images={images}, seed={seed}: use an image or more, and no seed below 0")
    rows, place = [], {}
    for i in range(images):
        patient, view, name = anatomy.describe(seed, i, site)
        number, take = anatomy.locate(i)
        path = f"{name}/P{number:05d}-{take + 1}.png"
        enlarged = anatomy.cardiothoracic_ratio(patient, view) > LIMIT
        rows.append(Row(path, int(enlarged), f"P{number:05d}", site=name))
        place[path] = i

    def read(row: Row, size: int = radiograph.RAYS) -> np.ndarray:
        return radiograph.render(seed, place[row.path], size, site).astype(np.float32) / 255

    return Index(
        CLASSES, rows, read, files=[Path(module.__file__) for module in (anatomy, radiograph)]
    )


class Builder(SourceBuilder):
    """Chest radiographs made from ellipsoids; a cardiothoracic ratio over 0.5 is cardiomegaly."""

    def _generate_examples(self, index: Index) -> Iterator[tuple[str, dict[str, Any]]]:
        # Made at the prepared size, so nothing is resized.
        read = functools.partial(index.read, size=self.builder_config.size)
        return super()._generate_examples(index._replace(read=read))
