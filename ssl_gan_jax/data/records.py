"""A data set, prepared once into the user's cache and read into memory."""

import contextlib
import hashlib
import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from absl import logging

from ssl_gan_jax.data import images, prepared, sources
from ssl_gan_jax.data.index import VERSION, Index, Metadata, Row
from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.paths import private, user_path


@dataclass(frozen=True)
class Records:
    """One prepared data set in memory, in the order of `path`."""

    image: np.ndarray  # [N,H,W,1] uint8
    label: np.ndarray  # [N] int32, 0..K-1; -1 = unlabelled; or [N,K] of findings, see targets.py
    patient: np.ndarray  # [N] str, grouping key
    path: np.ndarray  # [N] str, relative to data.dir as the user named it
    split: np.ndarray  # [N] str, official split 'train', 'val' or 'test'; '' = none
    site: np.ndarray  # [N] str, '' if there is only one
    classes: tuple[str, ...]  # [K]
    quarantined: tuple[tuple[str, str], ...]  # (path, reason) of what could not be read
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)  # "sex", ... -> [N] str
    metadata: Metadata = Metadata()
    files: Sequence[Path] = ()  # what the pixels were read from, unreadable files included


def load(
    name: str,
    data_dir: str | Path | None,
    size: int,
    *,
    equalize: str = "hist",
    aspect: str = "squash",
    cache_dir: str | Path | None = None,
    max_unreadable: float = 0.01,
    check: Callable[[Records], Any] | None = None,
    **builder_options: Any,  # noqa: ANN401
) -> Records:
    """Load a data set, preparing it first if that has not been done.

    A prepared copy is found again by the source's listing (paths, labels, sizes and times of the
    files), `size`, `equalize`, `aspect` and the options: any change prepares anew, into another
    folder. Of several processes one prepares, and the others wait for it.

    Args:
        name: a module of `ssl_gan_jax.data.sources`.
        data_dir: folder that holds the published layout; None for a source that makes its images.
        size: side of the prepared images in pixels.
        equalize: as `images.prepare` takes it.
        aspect: as `images.prepare` takes it.
        cache_dir: where prepared copies live; default $SSL_GAN_JAX_CACHE, or ~/.cache/ssl_gan_jax.
        max_unreadable: greatest share of images that may be unreadable. They are left out, named
            in one warning, in `Records.quarantined` and in the prepared folder's quarantine.csv.
        check: is called with the listing, as `Records` of images without pixels, before any image
            is prepared, and may raise.
        **builder_options: what the source's `index` takes beside the folder.

    Raises:
        UserError: unknown name or option, a layout that is not the published one, too many
            unreadable images, a cache that cannot be written or is damaged.
        Stopped: on a signal, if the program handles them; what is prepared is kept.
    """
    check_choice("data.equalize", equalize, images.EQUALIZE)
    check_choice("data.aspect", aspect, images.ASPECT)
    if size < 1:
        raise UserError(f"data.size={size}: give the side of the images in pixels")
    with prepared.stopped_by_signals():
        data_dir = user_path(data_dir, "data.dir") if data_dir else None
        index = list_source(name, data_dir, **builder_options)
        key = f"{size}px-{equalize}-" + (f"{aspect}-" if aspect != "squash" else "")
        key += _fingerprint(data_dir, index, builder_options)
        if check:
            check(_records(index, index.rows, np.empty((len(index.rows), 0, 0, 1), np.uint8), ()))
        folder = cache_folder(name, cache_dir) / key / VERSION
        how = {"size": size, "equalize": equalize, "aspect": aspect, "index": index}
        image = prepared.load(_source(name), folder, how)
    rows, bad = prepared.readable(index, folder)
    if len(image) != len(rows):
        raise prepared.damaged(folder)
    records = _records(index, rows, image, bad)
    if bad:
        first = "; ".join(f"{path}: {reason}" for path, reason in bad[:3])
        found = f"{len(bad)} of {len(index.rows)} images cannot be read ({first})"
        if len(bad) > max_unreadable * len(index.rows):
            limit = f"data.max_unreadable={max_unreadable}"
            raise UserError(f"{found}: repair or remove them, or raise {limit}")
        logging.warning("%s; left out and listed in %s/quarantine.csv", found, folder)
    return records


def names() -> list[str]:
    """Return the names of the data sets that `load` knows."""
    return sorted(module.name for module in pkgutil.iter_modules(sources.__path__))


def list_source(name: str, data_dir: str | Path | None, **options: Any) -> Index:  # noqa: ANN401
    """Return what a data set holds, without reading a pixel; arguments and errors as `load`."""
    source = _source(name)
    data_dir = user_path(data_dir, "data.dir") if data_dir else None
    known = list(inspect.signature(source.index).parameters)[1:]
    for option in options:
        check_choice(f"options of data set {name!r}", option, known)
    if source.INSTRUCTIONS is None:
        return source.index(None, **options)
    advice = f"For data set {name!r}, {' '.join(source.INSTRUCTIONS.split())}"
    if not data_dir or not data_dir.is_dir():
        raise UserError(f"data.dir={str(data_dir or '')!r} is no folder. {advice}")
    index = source.index(data_dir, **options)
    if not index.rows:
        raise UserError(f"no image in {data_dir}. {advice}")
    return index


def cache_folder(name: str, cache_dir: str | Path | None = None) -> Path:
    """Make the folder for what this program can make again, which no other user can read.

    It is in `cache_dir`, or $SSL_GAN_JAX_CACHE, or the user's own ~/.cache/ssl_gan_jax. If these
    exist, their modes stay, since they may be shared; the folder `name` is closed to others.
    Raises `UserError` if the folder cannot be made or closed.
    """
    given = os.environ.get("SSL_GAN_JAX_CACHE")
    what = "data.cache_dir" if cache_dir else "SSL_GAN_JAX_CACHE" if given else "cache"
    try:
        cache = user_path(cache_dir or given or "~/.cache/ssl_gan_jax", what)
    except UserError as error:
        raise UserError(f"{error}, or set SSL_GAN_JAX_CACHE to a folder") from None
    with prepared.full_disk(cache), private():
        (cache / name).mkdir(parents=True, exist_ok=True)
        if (cache / name).stat().st_mode & 0o077:
            (cache / name).chmod(0o700)
        if (mode := cache.stat().st_mode & 0o777) & 0o077:
            logging.info("%s has mode %o: others can list it, not the images in it", cache, mode)
    return cache / name


def _source(name: str) -> ModuleType:
    check_choice("data.name", name, names())
    return importlib.import_module(f"{sources.__name__}.{name}")


def _fingerprint(data_dir: Path | None, index: Index, options: dict[str, Any]) -> str:
    digest = hashlib.sha256(repr((index.classes, sorted(options.items()))).encode())
    digest.update(str(data_dir and data_dir.resolve()).encode())
    for row in index.rows:
        digest.update(repr(row[:-1]).encode())  # all but its groups, which are not stored
    for path in index.files:
        with contextlib.suppress(OSError):  # a file that cannot be read is quarantined later
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _records(
    index: Index, rows: Sequence[Row], image: np.ndarray, quarantined: tuple[tuple[str, str], ...]
) -> Records:
    columns = map(np.array, zip(*(row[:-1] for row in rows), strict=True))
    columns = dict(zip(Row._fields[:-1], columns, strict=True))
    columns["label"] = columns["label"].astype(np.int32)
    groups = [dict(row.groups) for row in rows]
    kinds = sorted(set().union(*groups))
    groups = {kind: np.array([group.get(kind, "") for group in groups]) for kind in kinds}
    about = {"groups": groups, "metadata": index.metadata, "files": index.files}
    return Records(image, **columns, classes=index.classes, quarantined=quarantined, **about)
