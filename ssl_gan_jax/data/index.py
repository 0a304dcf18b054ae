"""What a data set holds, before a pixel is read: one `Row` an image, and how to read it.

Sources make an `Index`; `source.SourceBuilder` prepares the images that it lists. TensorFlow is
needed to prepare images, but not to list them or to read them again.
"""

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from absl import logging

from ssl_gan_jax.data import images
from ssl_gan_jax.data.names import class_key
from ssl_gan_jax.errors import UserError, check_choice

VERSION = "1.0.2"  # of the prepared pixels: raise it when they change
QUARANTINE = "quarantine.csv"  # beside them: path,reason of what could not be read
UNLABELED = -1
OUTCOMES = {"positive": 1, "negative": 0, "unlabelled": UNLABELED, "drop": None}
_MAX_ARRAYS = 2**32  # bytes of an npz file, unpacked


class Metadata(NamedTuple):
    """How a source interprets what the user has, for a log and an audit, and what follows."""

    summary: tuple[str, ...] = ()  # what was read, and what was left out
    warnings: tuple[str, ...] = ()
    by_patient: bool = True  # False: no patients were given, so each image counts as one
    train_stays: bool = False  # images that are 'train' never become validation or test images


class Row(NamedTuple):
    """One image, as its source describes it."""

    path: str  # unique; relative to data_dir as the user named it, with forward slashes
    label: int | tuple[int, ...]  # 0..K-1, or UNLABELED; of K findings each 1, 0 or UNLABELED
    patient: str  # images of one patient share it
    split: str = ""  # official split: 'train', 'val', 'test'; '' = none
    site: str = ""  # institution, '' if there is only one
    groups: tuple[tuple[str, str], ...] = ()  # `tables.groups`; listed each time, never stored


class Index(NamedTuple):
    """All that a source knows before it reads a pixel."""

    classes: tuple[str, ...]
    rows: Sequence[Row]
    read: Callable[[Row], np.ndarray]  # float32 [H,W] in [0,1]; raises UnreadableImage
    files: Sequence[Path]  # what the pixels are read from: a change of any prepares again
    metadata: Metadata = Metadata()
    any_size: bool = False  # `read(row, size=S)` makes an image of that size


def index_of_files(data_dir: Path, classes: Sequence[str], rows: Sequence[Row]) -> Index:
    """Return the index of a data set that keeps one file an image, at `data_dir / row.path`."""
    files = [data_dir / row.path for row in rows]
    return Index(tuple(classes), rows, lambda row: images.read_image(data_dir / row.path), files)


def outcome(option: str, choice: str, findings: Sequence[str] | str = "") -> int | None:
    """Return the label that an option such as `uncertain="unlabelled"` means; None: left out.

    With `findings` no image is left out for one of them.
    """
    choices = [name for name in OUTCOMES if not (findings and name == "drop")]
    return OUTCOMES[check_choice(f"data.options.{option}", choice, choices)]


def named_findings(choice: Sequence[str] | str) -> list[str]:
    """Return the `class_key` of each name in `data.options.findings`."""
    given = choice.split(",") if isinstance(choice, str) else choice
    return [class_key(str(name)) for name in given]


def chosen_findings(choice: Sequence[str] | str, known: Sequence[str]) -> tuple[str, ...]:
    """Return those of the `known` findings that `data.options.findings` names; "all": all."""
    if choice == "all":
        return tuple(known)
    by_key = {class_key(name): name for name in known}
    found = [check_choice("data.options.findings", k, by_key) for k in named_findings(choice)]
    if len(set(found)) < len(found):
        raise UserError(f"data.options.findings={','.join(found)}: a finding is named twice")
    return tuple(by_key[key] for key in found)


def stem(name: str) -> str:
    """Return the name of a file without folder, suffix and case."""
    return PurePosixPath(name).stem.casefold()


def index_of_tables(
    data_dir: Path,
    classes: Sequence[str],
    entries: Iterable[Row],
    key: Callable[[str], str] = stem,
) -> Index:
    """Return the index of those images that tables name and the folder, or one below it, holds.

    Args:
        data_dir: the folder.
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


def index_of_npz(
    data_dir: Path, stem: str, classes: Sequence[str], parts: Mapping[str, tuple[str, str]]
) -> Index:
    """Return the index of a data set that is one file, `<stem>.npz` or `<stem>/<stem>.npz`.

    `parts` is official split -> names of its images, [N,H,W] uint8, and of its labels, [N] or
    [N,1]. Each image counts as a patient.

    Raises:
        UserError: no such file, or a damaged one, or pickled arrays, which are refused; or labels
            that are not as many as the images, or of no class.
    """
    names = [name for name in (f"{stem}/{stem}.npz", f"{stem}.npz") if (data_dir / name).is_file()]
    if not names:
        raise UserError(f"no {stem}.npz in {data_dir}, nor in its folder {stem}")
    rows, pixels, path = [], {}, data_dir / names[0]
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_ARRAYS:
            raise ValueError(f"{size >> 20} MB unpacked, {_MAX_ARRAYS >> 20} at most")
        with np.load(path, allow_pickle=False) as arrays:
            loaded = {split: [arrays[name] for name in of] for split, of in parts.items()}
    except Exception as error:  # zip, header or pickle: what a damaged file raises varies
        raise UserError(f"{path} cannot be read ({error}): download it again") from error
    for split, (images_of, labels) in loaded.items():
        if len(images_of) != labels.size or not np.isin(labels, range(len(classes))).all():
            expected = f"those of {len(classes)} classes"
            raise UserError(f"{path}: the labels of {split} are not {expected}")
        for i, label in enumerate(labels.ravel().tolist()):
            name = f"{names[0]}/{split}/{i:05d}"
            rows.append(Row(path=name, label=label, patient=name, split=split))
            pixels[name] = images_of[i]

    def read(row: Row) -> np.ndarray:
        return pixels[row.path].astype(np.float32) / 255

    return Index(tuple(classes), rows, read, [path], Metadata(by_patient=False))
