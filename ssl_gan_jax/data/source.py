"""What the sources share: the index of a data set, and the TFDS builder that prepares it.

A source says what there is (`index`: one `Row` an image, no pixels read). The builder decodes,
equalises and resizes every row once into uint8 and notes what it cannot read.
"""

import csv
import dataclasses
import errno
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from ssl_gan_jax.data import images, tf_import
from ssl_gan_jax.data.pixels import UnreadableImage
from ssl_gan_jax.data.records import Understood
from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.files import csv_cell

tf_import.tensorflow()  # before TFDS imports it with all its noise

UNLABELED = -1
OUTCOMES = {"positive": 1, "negative": 0, "unlabelled": UNLABELED, "drop": None}
CHUNK = 64  # images that are prepared together, and lost together where that is interrupted
# Errors of disks and permissions, which may pass: not to be kept as a fault of the file.
PASSING = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE)
_MAX_ARRAYS = 2**32  # bytes of an npz file, unpacked
_QUARANTINE = "quarantine.csv"  # in the prepared folder: path,reason
_THREADS = 8  # at most: each holds an image at full resolution


class Row(NamedTuple):
    """One image, as its source describes it."""

    path: str  # unique; relative to data_dir as the user named it, with forward slashes
    label: int  # 0..K-1, or UNLABELED
    patient: str  # images of one patient share it
    split: str = ""  # official split: 'train', 'val', 'test'; '' = none
    site: str = ""  # institution, '' where there is one only
    groups: tuple[tuple[str, str], ...] = ()  # `tables.groups`; listed each time, never stored


class Index(NamedTuple):
    """All that a source knows before it reads a pixel."""

    classes: tuple[str, ...]
    rows: Sequence[Row]
    read: Callable[[Row], np.ndarray]  # float32 [H,W] in [0,1]; raises UnreadableImage
    files: Sequence[Path]  # what the pixels are read from: a change of any prepares again
    understood: Understood = Understood()


def index_of_files(
    data_dir: Path,
    classes: Sequence[str],
    rows: Sequence[Row],
    understood: Understood = Understood(),  # noqa: B008
) -> Index:
    """Return the index of a data set that keeps one file an image, at `data_dir / row.path`."""
    return Index(
        classes=tuple(classes),
        rows=rows,
        read=lambda row: images.read_image(data_dir / row.path),
        files=[data_dir / row.path for row in rows],
        understood=understood,
    )


def stem(name: str) -> str:
    """Return the name of a file without folder, suffix and case."""
    return PurePosixPath(name).stem.casefold()


def index_of_tables(
    data_dir: Path,
    classes: Sequence[str],
    entries: Iterable[Row],
    key: Callable[[str], str] = stem,
) -> Index:
    """Return the index of those images that tables name and the folder holds.

    Args:
        data_dir: the folder, searched with all below it.
        classes: names of the labels.
        entries: a row for each image; its `path` is the name that the table has for it.
        key: what a name in the table and the path of its file have in common.

    Raises:
        UserError: no image is there, two have the same name, or the table contradicts itself.
    """
    on_disk, rows, absent = {}, {}, 0
    for path in images.files_in(data_dir):
        if (other := on_disk.setdefault(key(path), path)) != path:
            raise UserError(f"{other} and {path} in {data_dir} have the same name: remove one")
    for entry in entries:
        if (path := on_disk.get(key(entry.path))) is None:
            absent += 1
        elif rows.setdefault(path, row := entry._replace(path=path)) != row:
            raise UserError(f"{path}: the table names this image twice, and not as the same")
    if not rows:
        raise UserError(
            f"{data_dir} holds {len(on_disk)} images, and the tables link none of them "
            f"({absent} of the images that they name are not there)"
        )
    if absent:
        logging.warning("%d images that the tables name are not in %s", absent, data_dir)
    return index_of_files(data_dir, classes, list(rows.values()))


def outcome(option: str, choice: str) -> int | None:
    """Return the label that an option such as `uncertain="unlabelled"` means; None: left out."""
    return OUTCOMES[check_choice(f"data.options.{option}", choice, OUTCOMES)]


def index_of_npz(
    data_dir: Path, stem: str, classes: Sequence[str], parts: Mapping[str, tuple[str, str]]
) -> Index:
    """Return the index of a data set that is one file, `<stem>.npz` or `<stem>/<stem>.npz`.

    Args:
        data_dir: the user's folder.
        stem: of the file's name.
        classes: names of the labels.
        parts: official split -> names of its images, [N,H,W] uint8, and of its labels, [N] or
            [N,1]. Each image counts as a patient.

    Raises:
        UserError: no such file, or a damaged one, or pickled arrays, which are refused; or labels
            that are not as many as the images, or of no class.
    """
    places = [path for path in (f"{stem}/{stem}.npz", f"{stem}.npz") if (data_dir / path).is_file()]
    if not places:
        raise UserError(f"no {stem}.npz in {data_dir}, nor in its folder {stem}")
    rows, pixels, path = [], {}, data_dir / places[0]
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_ARRAYS:
            raise ValueError(f"{size >> 20} MB unpacked, {_MAX_ARRAYS >> 20} at most")
        with np.load(path, allow_pickle=False) as arrays:
            loaded = {split: [arrays[name] for name in names] for split, names in parts.items()}
    except Exception as error:  # zip, header or pickle: what a damaged file raises varies
        raise UserError(f"{path} cannot be read ({error}): download it again") from error
    for split, (images_of, labels) in loaded.items():
        if len(images_of) != labels.size or not np.isin(labels, range(len(classes))).all():
            raise UserError(
                f"{path}: the labels of {split} are not those of {len(classes)} classes"
            )
        for i, (image, label) in enumerate(zip(images_of, labels.ravel().tolist(), strict=True)):
            name = f"{places[0]}/{split}/{i:05d}"
            rows.append(Row(path=name, label=label, patient=name, split=split))
            pixels[name] = image
    return Index(
        classes=tuple(classes),
        rows=rows,
        read=lambda row: pixels[row.path].astype(np.float32) / 255,
        files=[path],
        understood=Understood(by_patient=False),
    )


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """What fixes the prepared pixels."""

    size: int = 64  # images become [size,size]
    equalize: str = "hist"  # see images.prepare
    aspect: str = "squash"  # see images.prepare
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the source's index


class SourceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The builder of every source: subclasses set `index`, a version and instructions."""

    VERSION = tfds.core.Version("1.0.2")  # raise it when prepared pixels change
    BUILDER_CONFIGS = [SourceConfig(name="default")]

    @staticmethod
    def index(data_dir: Path | None, **options: Any) -> Index:  # noqa: ANN401
        """List the data set; raise `UserError` where the layout is not the published one."""
        raise NotImplementedError

    @property
    def parts(self) -> Path:
        """Where prepared chunks are kept until all is complete."""
        return self.data_path.parent / "parts"

    def quarantined(self) -> tuple[tuple[str, str], ...]:
        """Return (path, reason) of each image that could not be read, as `csv_cell` wrote them."""
        with open(self.data_path / _QUARANTINE, newline="", encoding="utf-8") as file:
            return tuple((path, reason) for path, reason in list(csv.reader(file))[1:])

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        # Found by import path, so TFDS's global table of names (it has an `mnist`) is left alone.
        super().__init_subclass__(skip_registration=True, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        text = ("patient", "path", "split", "site")
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(size, size, 1), dtype=np.uint8),
                    "label": tfds.features.Scalar(np.int64),  # a ClassLabel cannot be -1
                    **dict.fromkeys(text, tfds.features.Text()),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        needs_data = self.MANUAL_DOWNLOAD_INSTRUCTIONS is not None
        data_dir = Path(dl_manager.manual_dir) if needs_data else None
        index = self.index(data_dir, **self.builder_config.options)
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
        with open(self.data_path / _QUARANTINE, "w", newline="", encoding="utf-8") as file:
            rows = [map(csv_cell, row) for row in unreadable]
            csv.writer(file).writerows([("path", "reason"), *rows])

    def _prepare_all(self, index: Index) -> Iterator[tuple[Row, np.ndarray, str]]:
        """Yield (row, uint8 [size,size,1], why it is unreadable or ''), decoded on several cores.

        Finished chunks are kept as files until all is complete, so that a preparation that was
        killed goes on with them. The folder belongs to one listing of unchanged files.
        """
        from rich.console import Console
        from rich.progress import Progress

        how, total = self.builder_config, len(index.rows)

        def prepared(row: Row) -> tuple[np.ndarray, str]:
            try:
                image = index.read(row)
                return images.prepare(image, how.size, how.equalize, how.aspect), ""
            except UnreadableImage as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in PASSING:
                    raise UserError(f"{row.path}: {error}; mend that, and run again") from error
                return np.zeros((how.size, how.size, 1), np.uint8), str(error) or "unreadable"

        self.parts.mkdir(parents=True, exist_ok=True)
        console = Console(stderr=True)
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool,
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            warnings.simplefilter("ignore")  # decoders warn of what they repair, and name no file
            task = bar.add_task(f"Preparing {total} images", total=total)
            for start in range(0, total, CHUNK):
                rows = index.rows[start : start + CHUNK]
                part = self.parts / f"{start}-{start + len(rows)}.npz"
                if (results := _load_part(part)) is None:
                    results = tuple(map(np.array, zip(*pool.map(prepared, rows), strict=True)))
                    _save_part(part, *results)
                yield from zip(rows, *results, strict=True)
                bar.advance(task, len(rows))
                if not console.is_terminal:
                    done = start + len(rows)
                    logging.log_every_n_seconds(
                        logging.INFO, "Prepared %d of %d images", 30, done, total
                    )


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
