"""The TFDS builder of every source: it decodes, equalises and resizes each image once, to uint8.

What cannot be read is left out, and listed with the reason in `quarantine.csv`.
"""

import csv
import dataclasses
import errno
import functools
import os
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from ssl_gan_jax.data import images, tf_import
from ssl_gan_jax.data.index import QUARANTINE, VERSION, Index, Row
from ssl_gan_jax.data.pixels import UnreadableImage
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import csv_cell

tf_import.tensorflow()  # before TFDS imports it with all its noise

CHUNK = 64  # images that are prepared together, and lost together if that is interrupted
# Errors of disks and permissions, which may pass: not to be kept as a fault of the file.
PASSING = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE)
_THREADS = 8  # at most: each holds an image at full resolution


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """What fixes the prepared pixels."""

    size: int = 64  # images become [size,size]
    equalize: str = "hist"  # see images.prepare
    aspect: str = "squash"  # see images.prepare
    index: Index | None = dataclasses.field(default=None, repr=False)


class SourceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The builder of every source, see `builder_of`."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [SourceConfig(name="default")]

    @property
    def parts(self) -> Path:
        """Where prepared chunks are kept until all is complete."""
        return self.data_path.parent / "parts"

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        # Found by import path, so TFDS's global table of names (it has an `mnist`) is left alone.
        cls.name = cls.__module__.rpartition(".")[2]
        super().__init_subclass__(skip_registration=True, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size, index = self.builder_config.size, self.builder_config.index
        shape = np.shape(index.rows[0].label) if index and index.rows else ()
        features = {
            "image": tfds.features.Tensor(shape=(size, size, 1), dtype=np.uint8),
            "label": tfds.features.Tensor(shape=shape, dtype=np.int64),  # a ClassLabel cannot be -1
            **dict.fromkeys(("patient", "path", "split", "site"), tfds.features.Text()),
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        index = self.builder_config.index
        if index.any_size:
            read = functools.partial(index.read, size=self.builder_config.size)
            index = index._replace(read=read)
        return {"images": self._generate_examples(index)}

    def _generate_examples(self, index: Index) -> Iterator[tuple[str, dict[str, Any]]]:
        unreadable = []
        for row, image, reason in self._prepare_all(index):
            if reason:
                unreadable.append((row.path, reason))
            else:
                fields = row._asdict()
                del fields["groups"]
                yield row.path, {"image": image, **fields}
        if len(unreadable) == len(index.rows):
            path, reason = unreadable[0]
            raise UserError(f"none of the {len(unreadable)} images can be read; {path}: {reason}")
        with open(self.data_path / QUARANTINE, "w", newline="", encoding="utf-8") as file:
            rows = [map(csv_cell, row) for row in unreadable]
            csv.writer(file).writerows([("path", "reason"), *rows])

    def _prepare_all(self, index: Index) -> Iterator[tuple[Row, np.ndarray, str]]:
        """Yield (row, uint8 [size,size,1], why it is unreadable or ''), decoded on several cores.

        Finished chunks are kept as files until all is complete, so that a preparation that was
        killed goes on with them. The folder belongs to one listing of unchanged files.
        """
        from rich.console import Console
        from rich.progress import Progress

        self.parts.mkdir(parents=True, exist_ok=True)
        console, total = Console(stderr=True), len(index.rows)
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool,
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            warnings.simplefilter("ignore")  # decoders warn of what they repair, and name no file
            for start in bar.track(range(0, total, CHUNK), description=f"Preparing {total} images"):
                rows = index.rows[start : start + CHUNK]
                part = self.parts / f"{start}-{start + len(rows)}.npz"
                if (results := _load_part(part)) is None:
                    results = pool.map(functools.partial(self._prepare, index), rows)
                    results = tuple(map(np.array, zip(*results, strict=True)))
                    _save_part(part, *results)
                yield from zip(rows, *results, strict=True)
                if not console.is_terminal:
                    done = "Prepared %d of %d images", 30, start + len(rows), total
                    logging.log_every_n_seconds(logging.INFO, *done)

    def _prepare(self, index: Index, row: Row) -> tuple[np.ndarray, str]:
        how = self.builder_config
        try:
            return images.prepare(index.read(row), how.size, how.equalize, how.aspect), ""
        except UnreadableImage as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in PASSING:
                raise UserError(f"{row.path}: {error}; mend that, and run again") from error
            return np.zeros((how.size, how.size, 1), np.uint8), str(error) or "unreadable"


def builder_of(source: ModuleType) -> type[SourceBuilder]:
    """The builder class of a source, a module with DESCRIPTION and INSTRUCTIONS."""
    members = {
        "__doc__": source.DESCRIPTION,
        "__module__": source.__name__,  # which names it
        "MANUAL_DOWNLOAD_INSTRUCTIONS": source.INSTRUCTIONS,
    }
    return type("Builder", (SourceBuilder,), members)


def _save_part(part: Path, image: np.ndarray, reason: np.ndarray) -> None:
    unfinished = part.with_suffix(".tmp")
    with open(unfinished, "wb") as file:
        np.savez(file, image=image, reason=reason)
    unfinished.replace(part)


def _load_part(part: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(part, allow_pickle=False) as arrays:
            return arrays["image"], arrays["reason"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there yet, or damaged
