"""A folder of your own PNG, JPEG, TIFF or DICOM images."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from absl import logging

from ssl_gan_jax.data import tables
from ssl_gan_jax.data.images import files_in
from ssl_gan_jax.data.source import UNLABELLED, Index, Row, SourceBuilder, index_of_files
from ssl_gan_jax.data.splits import OFFICIAL
from ssl_gan_jax.errors import UserError

TABLE = "labels.csv"
UNLABELLED_FOLDERS = ("unlabeled", "unlabelled")


def index(data_dir: Path, classes: Sequence[str] = ()) -> Index:
    """List the images of `labels.csv`, or without it those of the sub-folders, one for each class.

    Args:
        data_dir: the folder.
        classes: names in the order of the labels 0..K-1, any other label being an error; by
            default all names found, sorted (numbers by value).

    Raises:
        UserError: names the row and the column of a faulty table.
    """
    found = (_from_table if (data_dir / TABLE).is_file() else _from_folders)(data_dir)
    used = {name for name, _, _ in found} - {""}
    numbers = all(name.isdecimal() for name in used)
    names, rows = tuple(map(str, classes)) or tuple(sorted(used, key=int if numbers else str)), []
    for name, where, row in found:
        if name and name not in names:
            raise UserError(f"{where}: unknown label {name!r}, known are {', '.join(names)}")
        rows.append(row._replace(label=names.index(name) if name else UNLABELLED))
    return index_of_files(data_dir, names, rows)


_Found = list[tuple[str, str, Row]]  # name of the class or '', where it was read, row


def _from_folders(data_dir: Path) -> _Found:
    found, loose = [], 0
    for path in files_in(data_dir):
        folder, below, _ = path.partition("/")
        loose += not below
        if below:
            name = "" if folder.lower() in UNLABELLED_FOLDERS else folder
            found.append((name, path, Row(path, UNLABELLED, path)))
    if not found:
        raise UserError(
            f"{data_dir} holds neither {TABLE} nor a sub-folder of PNG, JPEG, TIFF or DICOM images "
            "for each class"
        )
    if loose:
        logging.warning("%d images lie in %s outside of any class; left out", loose, data_dir)
    return found


def _from_table(data_dir: Path) -> _Found:
    hint = "; the first row must be path,label[,patient_id][,split]"
    found, first_at, splits = [], {}, {}
    for at, cells in tables.read(data_dir / TABLE, ("path", "label"), hint):
        number = at.rpartition(" ")[2]
        path = _checked_path(data_dir, cells["path"], f"{at}, column 'path'")
        if (other := first_at.setdefault(path, number)) != number:
            raise UserError(f"{at}, column 'path': {path!r} is also in row {other}")
        if cells["label"].lower() in ("nan", "none", "null"):
            raise UserError(
                f"{at}, column 'label': {cells['label']!r} is no class; leave the cell empty "
                "where the label is unknown"
            )
        split, patient = cells.get("split", "").lower(), cells.get("patient_id") or path
        if split not in OFFICIAL:
            raise UserError(f"{at}, column 'split': {cells['split']!r} is none of train, val, test")
        known, earlier = splits.setdefault(patient, (split, number))
        if known != split:
            raise UserError(
                f"{at}, column 'split': {split!r}, but the same patient is {known!r} in row "
                f"{earlier}; a patient belongs to one split"
            )
        row = Row(path, UNLABELLED, patient, split, groups=tables.groups(cells))
        found.append((cells["label"], f"{at}, column 'label'", row))
    if not found:
        raise UserError(f"{TABLE} lists no image")
    return found


def _checked_path(data_dir: Path, cell: str, at: str) -> str:
    path = PurePosixPath(cell.replace("\\", "/"))
    if not cell or path.is_absolute() or PureWindowsPath(cell).drive or ".." in path.parts:
        raise UserError(f"{at}: {cell!r} must name a file inside the folder, relative to it")
    if not (data_dir / path).is_file():
        raise UserError(f"{at}: there is no file {cell!r} in {data_dir}")
    return path.as_posix()


class Builder(SourceBuilder):
    """Your own images: a folder with a `labels.csv`, or with a sub-folder for each class."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    give as data.dir a folder of PNG, JPEG, TIFF or DICOM images with a labels.csv
    (path,label[,patient_id][,split]; an empty label means unlabelled), or with one sub-folder for
    each class and, where there are any, one called unlabelled
    """
    index = staticmethod(index)
