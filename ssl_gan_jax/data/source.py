"""What the sources share: the index of a data set, and the TFDS builder that prepares it.

A source says what there is (`index`: one `Row` an image, no pixels read). The builder decodes,
equalises and resizes every row once into uint8 and notes what it cannot read.
"""

import contextlib
import csv
import dataclasses
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from ssl_gan_jax.data import images, quiet
from ssl_gan_jax.errors import UserError, check_choice

quiet.tensorflow()  # before TFDS imports it with all its noise

UNLABELLED = -1
OUTCOMES = {"positive": 1, "negative": 0, "unlabelled": UNLABELLED, "drop": None}
PARTS = "parts"  # beside the prepared folder, while it is not complete
_QUARANTINE = "quarantine.csv"  # in the prepared folder: path,reason
_THREADS = 8  # at most: each holds an image at full resolution


class Row(NamedTuple):
    """One image, as its source describes it."""

    path: str  # unique; relative to data_dir as the user named it, with forward slashes
    label: int  # 0..K-1, or UNLABELLED
    patient: str  # images of one patient share it
    split: str = ""  # official split: 'train', 'val', 'test'; '' = none
    site: str = ""  # institution, '' where there is one only
    groups: tuple[tuple[str, str], ...] = ()  # `tables.groups`; listed each time, never stored


class Index(NamedTuple):
    """All that a source knows before it reads a pixel."""

    classes: tuple[str, ...]
    rows: Sequence[Row]
    read: Callable[[Row], np.ndarray]  # float32 [H,W] in [0,1]; raises images.UnreadableImage
    files: Sequence[Path]  # what the pixels are read from: a change of any prepares again


def index_of_files(data_dir: Path, classes: Sequence[str], rows: Sequence[Row]) -> Index:
    """Return the index of a data set that keeps one file an image, at `data_dir / row.path`."""
    return Index(
        classes=tuple(classes),
        rows=rows,
        read=lambda row: images.read_image(data_dir / row.path),
        files=[data_dir / row.path for row in rows],
    )


def images_in(folder: Path) -> list[Path]:
    """List the image files directly in `folder` by suffix, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
    )


def files_in(data_dir: Path) -> Iterator[str]:
    """Yield the image files in a folder and all below, by suffix and relative to it."""
    for folder, subfolders, names in os.walk(data_dir):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in images.SUFFIXES and not name.startswith("."):
                yield Path(folder, name).relative_to(data_dir).as_posix()


def rows_on_disk(
    data_dir: Path, entries: Iterable[tuple[str, Row]], key: Callable[[str], str]
) -> list[Row]:
    """Give rows their paths: of all that a table names, those whose image is in the folder.

    Args:
        data_dir: the folder, searched with all below it.
        entries: (name of the image, its row without a path).
        key: what a name in the table and the path of its file have in common.

    Raises:
        UserError: no image is there, two have the same name, or the table contradicts itself.
    """
    on_disk, rows, absent = {}, {}, 0
    for path in files_in(data_dir):
        if (other := on_disk.setdefault(key(path), path)) != path:
            raise UserError(f"{other} and {path} in {data_dir} have the same name: remove one")
    for name, row in entries:
        if (path := on_disk.get(key(name))) is None:
            absent += 1
        elif rows.setdefault(path, row) != row:
            raise UserError(f"{path}: the table names this image twice, and not as the same")
    if not rows:
        raise UserError(
            f"{data_dir} holds {len(on_disk)} images, and the tables link none of them "
            f"({absent} of the images that they name are not there)"
        )
    if absent:
        logging.warning("%d images that the tables name are not in %s", absent, data_dir)
    return [row._replace(path=path) for path, row in rows.items()]


def outcome(option: str, choice: str) -> int | None:
    """Return the label that an option such as `uncertain="unlabelled"` means; None: left out."""
    return OUTCOMES[check_choice(f"data.options.{option}", choice, OUTCOMES)]


def find_tables(data_dir: Path, pattern: str, instructions: str) -> list[Path]:
    """List the files that match in a folder, or else below; `UserError` if there is none."""
    if tables := sorted(data_dir.glob(pattern)) or sorted(data_dir.rglob(pattern)):
        return tables
    raise UserError(f"no {pattern} in {data_dir}: {' '.join(instructions.split())}")


def open_arrays(
    data_dir: Path, stem: str, names: Sequence[str]
) -> tuple[Path, Mapping[str, np.ndarray]]:
    """Open `<stem>.npz`, in `data_dir` or in a folder `<stem>` of it, and refuse pickled arrays."""
    for path in (data_dir / stem / f"{stem}.npz", data_dir / f"{stem}.npz"):
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    return path, {name: arrays[name] for name in names}
            except Exception as error:  # zip, header or pickle: what a damaged file raises varies
                raise UserError(f"{path} cannot be read ({error}): download it again") from error
    raise UserError(f"no {stem}.npz in {data_dir}, nor in its folder {stem}")


def index_of_arrays(
    data_dir: Path,
    path: Path,
    classes: Sequence[str],
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Index:
    """Return the index of a data set that keeps all images in one file, `path`.

    Args:
        data_dir: the user's folder.
        path: the file, inside of it.
        classes: names of the labels.
        parts: official split -> ([N,H,W] uint8 images, [N] labels). Each image counts as a patient.
    """
    rows, pixels, file = [], {}, path.relative_to(data_dir).as_posix()
    for split, (part, labels) in parts.items():
        for i, (image, label) in enumerate(zip(part, labels.tolist(), strict=True)):
            name = f"{file}/{split}/{i:05d}"
            rows.append(Row(path=name, label=label, patient=name, split=split))
            pixels[name] = image
    return Index(
        classes=tuple(classes),
        rows=rows,
        read=lambda row: pixels[row.path].astype(np.float32) / 255,
        files=[path],
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

    VERSION = tfds.core.Version("1.0.0")  # raise it when prepared pixels change
    BUILDER_CONFIGS = [SourceConfig(name="default")]

    @staticmethod
    def index(data_dir: Path | None, **options: Any) -> Index:  # noqa: ANN401
        """List the data set; raise `UserError` where the layout is not the published one."""
        raise NotImplementedError

    def quarantined(self) -> tuple[tuple[str, str], ...]:
        """Return (path, reason) of each image that the finished preparation could not read."""
        with open(self.data_path / _QUARANTINE, newline="", encoding="utf-8") as file:
            return tuple((path, reason) for path, reason in list(csv.reader(file))[1:])

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        # Found by import path, so TFDS's global table of names (it has an `mnist`) is left alone.
        super().__init_subclass__(skip_registration=True, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size, text = self.builder_config.size, tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(size, size, 1), dtype=np.uint8),
                    "label": tfds.features.Scalar(np.int64),  # a ClassLabel cannot be -1
                    "patient": text,
                    "path": text,
                    "split": text,
                    "site": text,
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
        for row, image in self._prepare_all(index):
            if isinstance(image, images.UnreadableImage):
                unreadable.append((row.path, str(image)))
            else:
                fields = row._asdict()
                del fields["groups"]
                yield row.path, {"image": image, **fields}
        if len(unreadable) == len(index.rows):
            path, reason = unreadable[0]
            raise UserError(f"none of the {len(unreadable)} images can be read; {path}: {reason}")
        with open(self.data_path / _QUARANTINE, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "reason"), *unreadable])

    def _prepare_all(
        self, index: Index, chunk: int = 256
    ) -> Iterator[tuple[Row, np.ndarray | images.UnreadableImage]]:
        """Decode on several cores, in order, holding no more than `chunk` results at a time.

        Finished chunks are kept as files until all is complete, so that a preparation that was
        killed goes on with them. The folder belongs to one listing of unchanged files.
        """
        how = self.builder_config

        def prepared(row: Row) -> tuple[np.ndarray, str]:
            try:
                image = index.read(row)
                return images.prepare(image, how.size, how.equalize, how.aspect), ""
            except images.UnreadableImage as error:
                return np.zeros((how.size, how.size, 1), np.uint8), str(error) or "unreadable"

        parts, total = self.data_path.parent / PARTS, len(index.rows)
        parts.mkdir(parents=True, exist_ok=True)
        threads = min(_THREADS, os.cpu_count() or 1)
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(threads) as pool,
            _progress(total) as advance,
        ):
            warnings.simplefilter("ignore")  # decoders warn of what they repair, and name no file
            for start in range(0, total, chunk):
                rows, part = index.rows[start : start + chunk], parts / f"{start}.npz"
                if (results := _load_part(part)) is None:
                    results = tuple(map(np.array, zip(*pool.map(prepared, rows), strict=True)))
                    _save_part(part, *results)
                for row, image, reason in zip(rows, *results, strict=True):
                    yield row, images.UnreadableImage(reason) if reason else image
                advance(len(rows))


def _save_part(part: Path, image: np.ndarray, reason: np.ndarray) -> None:
    unfinished = part.with_suffix(f".{os.getpid()}")  # another process may prepare the same
    with open(unfinished, "wb") as file:
        np.savez(file, image=image, reason=reason)
    unfinished.replace(part)


def _load_part(part: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(part, allow_pickle=False) as arrays:
            return arrays["image"], arrays["reason"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there yet, or damaged


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line now and then; call the result with what was done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"Preparing {total} images", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        logging.log_every_n_seconds(logging.INFO, "Prepared %d of %d images", 30, done, total)

    yield advance
