"""Prepared images: TFDS makes them once, and a copy is read again without it, which takes seconds.

The folder of a prepared data set holds the records of TFDS, `quarantine.csv` with what could not be
read, and the copy, whose sums are checked.
"""

import contextlib
import csv
import errno
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.data import tf_import
from ssl_gan_jax.data.index import QUARANTINE, Index, Row
from ssl_gan_jax.errors import Stopped, UserError
from ssl_gan_jax.files import atomic_write, csv_cell
from ssl_gan_jax.paths import private

if TYPE_CHECKING:  # TFDS is loaded if there is something to prepare
    from ssl_gan_jax.data.source import SourceBuilder

COPY = "images.npz"
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def load(source: ModuleType, folder: Path, how: dict[str, Any]) -> np.ndarray:
    """The images [N,S,S,1] of `folder` in the order of `path`; prepares them the first time.

    `how` are the fields of `source.SourceConfig`. Raises UserError if the folder is damaged, or
    cannot be written.
    """
    try:
        with np.load(folder / COPY, allow_pickle=False) as arrays:
            return arrays["image"]
    except FileNotFoundError:
        return _from_tfds(source, folder, how)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(folder) from error


def readable(index: Index, folder: Path) -> tuple[list[Row], tuple[tuple[str, str], ...]]:
    """The rows whose images could be read, by path, and (path, reason) of the others."""
    try:
        with open(folder / QUARANTINE, newline="", encoding="utf-8") as file:
            reasons = dict(list(csv.reader(file))[1:])  # names are as `csv_cell` writes them
    except (OSError, ValueError) as error:
        raise damaged(folder) from error
    rows = sorted(index.rows, key=lambda row: row.path)
    bad = [(row.path, reasons[cell]) for row in rows if (cell := csv_cell(row.path)) in reasons]
    return [row for row in rows if csv_cell(row.path) not in reasons], tuple(bad)


def damaged(folder: Path) -> UserError:
    """The error of a prepared folder that holds something else than was written."""
    return UserError(f"{folder} is damaged: delete it, and run again")


def _from_tfds(source: ModuleType, folder: Path, how: dict[str, Any]) -> np.ndarray:
    """As `load`, from the records of TFDS, which it makes if necessary; keeps the copy."""
    from ssl_gan_jax.data.source import builder_of

    make, cache = builder_of(source), folder.parents[2]
    config = make.builder_config_cls(folder.parent.name, **how)
    with full_disk(cache), tf_import.silence_tfds(), private():
        builder = _prepared(lambda: make(data_dir=cache, config=config))
        image = _read(builder, how["index"])
        # Whoever may not write there, or has no room, reads the records of TFDS each time.
        with contextlib.suppress(UserError), atomic_write(folder / COPY, "wb") as file:
            np.savez(file, image=image)
    return image


@contextlib.contextmanager
def full_disk(cache: Path) -> Iterator[None]:
    """Turn what TFDS, TensorFlow and the system raise of a disk or folder into a UserError."""
    try:
        yield
    except Exception as error:  # TFDS wraps TensorFlow's, each of a class of its own
        whole = f"{error} {error.__cause__}"
        cause = next((text for text in map(os.strerror, _OF_DISKS) if text in whole), None)
        if isinstance(error, UserError | Stopped) or not (cause or isinstance(error, OSError)):
            raise
        raise UserError(
            f"cannot write prepared images to {cache}: {cause or error}; set SSL_GAN_JAX_CACHE to "
            "a folder of yours with room"
        ) from error


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the block at once, though training answers them after a step only."""

    def stop(*_: object) -> None:
        raise Stopped("stopped while images were prepared; those that are done are kept")

    with contextlib.ExitStack() as restore:
        # A SIGTERM without a handler in Python ends the program anyway, or is JAX's own.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and callable(signal.getsignal(signal.SIGTERM)):
            for number in (signal.SIGTERM, signal.SIGINT):
                restore.callback(signal.signal, number, signal.signal(number, stop))
        yield


def _prepared(make: Callable[[], "SourceBuilder"]) -> "SourceBuilder":
    """Prepare what is not prepared; TFDS renames its folder when it is complete."""
    import tensorflow_datasets as tfds

    builder = make()
    if builder.is_prepared():
        return builder
    folder = builder.data_path.parent
    folder.mkdir(parents=True, exist_ok=True)

    waiting = "Waiting for another process, which prepares the same images"
    with open(folder / "lock", "w") as file:
        processes.lock(file, lambda: logging.info(waiting))
        builder = make()  # it reads what another process has prepared meanwhile
        if not builder.is_prepared():
            logging.info("Preparing the images of %s, once, in %s", builder.name, builder.data_dir)
            for left in folder.glob("incomplete.*"):  # TFDS's, of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            offline = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=offline)
            shutil.rmtree(builder.parts, ignore_errors=True)
    return builder


def _read(builder: "SourceBuilder", index: Index) -> np.ndarray:
    """Read the images of TFDS into their places, so that memory holds them once."""
    tf = tf_import.tensorflow()
    rows, _ = readable(index, builder.data_path)
    place = {row.path: i for i, row in enumerate(rows)}
    image = np.empty((len(rows), *builder.info.features["image"].shape), np.uint8)
    count = 0
    try:
        for batch in builder.as_dataset(split="images", batch_size=256).as_numpy_iterator():
            image[[place[path.decode()] for path in batch["path"]]] = batch["image"]
            count += len(batch["path"])
    except (tf.errors.OpError, OSError, KeyError) as error:
        raise damaged(builder.data_path) from error
    if count != len(rows):
        raise damaged(builder.data_path)
    return image
