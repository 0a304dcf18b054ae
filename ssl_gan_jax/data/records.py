"""A data set, prepared once into the user's cache and read into memory."""

import contextlib
import csv
import difflib
import hashlib
import importlib
import inspect
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from ssl_gan_jax.data import images, quiet, sources
from ssl_gan_jax.errors import UserError

if TYPE_CHECKING:  # TensorFlow is loaded by `load`, not by an import of this module
    from ssl_gan_jax.data.source import Index, SourceBuilder


@dataclass(frozen=True)
class Records:
    """One prepared data set in memory, in the order of `path`."""

    image: np.ndarray  # [N,H,W,1] uint8
    label: np.ndarray  # [N] int32, 0..K-1; -1 = unlabelled
    patient: np.ndarray  # [N] str, grouping key
    path: np.ndarray  # [N] str, relative to data.dir as the user named it
    split: np.ndarray  # [N] str, official split 'train', 'val' or 'test'; '' = none
    site: np.ndarray  # [N] str, '' where there is one only
    classes: tuple[str, ...]  # [K]
    quarantined: tuple[tuple[str, str], ...]  # (path, reason) of what could not be read


def load(
    name: str,
    data_dir: str | Path | None,
    size: int,
    *,
    equalize: str = "hist",
    cache_dir: str | Path | None = None,
    max_unreadable: float = 0.01,
    **builder_options: Any,  # noqa: ANN401
) -> Records:
    """Load a data set, preparing it first where that has not been done.

    A prepared copy is found again by the source's listing (paths, labels, sizes and times of the
    files), `size`, `equalize` and the options: any change prepares anew, into another folder.

    Args:
        name: a package of `ssl_gan_jax.data.sources`.
        data_dir: folder that holds the published layout; None for a source that makes its images.
        size: side of the prepared images in pixels.
        equalize: 'hist' or 'none', see `images.prepare`.
        cache_dir: where prepared copies live; default $SSL_GAN_JAX_CACHE, or ~/.cache/ssl_gan_jax.
        max_unreadable: greatest share of images that may be unreadable. They are left out, named
            in one warning, in `Records.quarantined` and in the prepared folder's quarantine.csv.
        **builder_options: what the source's `index` takes beside the folder.

    Raises:
        UserError: unknown name or option, a layout that is not the published one, too many
            unreadable images, a cache that cannot be written or is damaged.
    """
    if equalize not in images.EQUALIZE:
        raise UserError(f"equalize={equalize!r}: use one of {images.EQUALIZE}")
    if size < 1:
        raise UserError(f"size={size}: give the side of the images in pixels")
    source = _find(name)
    index = _index(name, source, data_dir, builder_options)
    builder = _prepared(name, source, data_dir, index, size, equalize, cache_dir, builder_options)
    quarantined = _read_quarantine(builder)
    _check_quarantine(quarantined, len(index.rows), max_unreadable, builder)
    return _read(builder, index, quarantined)


def names() -> list[str]:
    """Return the names of the data sets that `load` knows."""
    return sorted(module.name for module in pkgutil.iter_modules(sources.__path__))


def _find(name: str) -> ModuleType:
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0)
        raise UserError(
            f"unknown data set {name!r}, did you mean {near[0]!r}? known: {', '.join(names())}"
        )
    quiet.tensorflow()
    return importlib.import_module(f"{sources.__name__}.{name}.{name}_dataset_builder")


def _index(
    name: str, source: ModuleType, data_dir: str | Path | None, options: dict[str, Any]
) -> "Index":
    parameters = list(inspect.signature(source.index).parameters)[1:]
    if unknown := sorted(set(options) - set(parameters)):
        raise UserError(f"data set {name!r} has no option {unknown[0]!r}; it has {parameters}")
    if source.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        return source.index(None, **options)
    if not data_dir or not Path(data_dir).is_dir():
        raise UserError(
            f"data.dir={str(data_dir or '')!r} is no folder. Data set {name!r}: "
            + " ".join(source.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        )
    return source.index(Path(data_dir), **options)


def _prepared(
    name: str,
    source: ModuleType,
    data_dir: str | Path | None,
    index: "Index",
    size: int,
    equalize: str,
    cache_dir: str | Path | None,
    options: dict[str, Any],
) -> "SourceBuilder":
    """Return the builder of a finished preparation. TFDS renames its folder when it is complete."""
    import tensorflow_datasets as tfds

    from ssl_gan_jax.data.source import SourceConfig

    cache = Path(
        cache_dir or os.environ.get("SSL_GAN_JAX_CACHE") or "~/.cache/ssl_gan_jax"
    ).expanduser()
    key = _fingerprint(data_dir, index, options)
    config = SourceConfig(
        f"{size}px-{equalize}-{key}", size=size, equalize=equalize, options=options
    )

    def make() -> "SourceBuilder":
        return source.Builder(data_dir=cache, config=config)

    try:
        with quiet.tfds_chatter():
            builder = make()
            if builder.is_prepared():
                return builder
            logging.info("Preparing %s: %d images in %s", name, len(index.rows), builder.data_dir)
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    manual_dir=data_dir, try_download_gcs=False
                )
            )
    except OSError as error:
        if make().is_prepared():  # another process finished the same preparation first
            return make()
        raise UserError(
            f"cannot write prepared images to {cache}: {error.strerror or error}; "
            "set SSL_GAN_JAX_CACHE to a folder with room"
        ) from error
    return builder


def _fingerprint(data_dir: str | Path | None, index: "Index", options: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr((index.classes, sorted(options.items()))).encode())
    digest.update(str(Path(data_dir).resolve()).encode() if data_dir else b"")
    for row in index.rows:
        digest.update(repr(tuple(row)).encode())
    for path in index.files:
        with contextlib.suppress(OSError):  # a file that cannot be read is quarantined later
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _read_quarantine(builder: "SourceBuilder") -> tuple[tuple[str, str], ...]:
    from ssl_gan_jax.data.source import QUARANTINE

    with open(Path(builder.data_dir) / QUARANTINE, newline="", encoding="utf-8") as file:
        return tuple((path, reason) for path, reason in list(csv.reader(file))[1:])


def _check_quarantine(
    quarantined: tuple[tuple[str, str], ...], total: int, limit: float, builder: "SourceBuilder"
) -> None:
    if not quarantined:
        return
    first = "; ".join(f"{path}: {reason}" for path, reason in quarantined[:3])
    count = f"{len(quarantined)} of {total} images cannot be read ({first})"
    if len(quarantined) > limit * total:
        raise UserError(f"{count}: repair or remove them, or raise max_unreadable={limit}")
    logging.warning("%s; left out and listed in %s/quarantine.csv", count, builder.data_dir)


def _read(
    builder: "SourceBuilder", index: "Index", quarantined: tuple[tuple[str, str], ...]
) -> Records:
    tf = quiet.tensorflow()
    try:
        with quiet.tfds_chatter():
            examples = builder.as_dataset(split="images", batch_size=-1)
        columns = {key: value.numpy() for key, value in examples.items()}
    except tf.errors.OpError as error:
        raise UserError(f"{builder.data_dir} is damaged: delete it, and run again") from error
    if len(columns["path"]) + len(quarantined) != len(index.rows):
        raise UserError(f"{builder.data_dir} is incomplete: delete it, and run again")
    text = {
        key: np.array([value.decode() for value in columns[key]], dtype=np.str_)
        for key in ("patient", "path", "split", "site")
    }
    order = np.argsort(text["path"])
    return Records(
        image=columns["image"][order],
        label=columns["label"][order].astype(np.int32),
        **{key: value[order] for key, value in text.items()},
        classes=index.classes,
        quarantined=quarantined,
    )
