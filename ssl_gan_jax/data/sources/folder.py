"""A folder of your own images, with a table of labels or without.

A table has one row an image; its columns go by the names that people give them (`tables.MEANINGS`).
Without a table, the names of folders say class and part (`layouts.read_tree`). In both, spellings
of one class are one class, and words such as NA or unknown mean that a label is not known
(`names`). What was understood, and what was left out, is said before training and by `audit`.

Decided for you: folders and files of masks, heat maps and the like are left out; a cell with
several findings is refused, since a film has one label here; a class that no image carries may be
listed in `classes`, and is refused where a classifier is to learn it.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from ssl_gan_jax.data import layouts, names, outputs, tables
from ssl_gan_jax.data.images import files_in
from ssl_gan_jax.data.index import UNLABELED, Index, Metadata, Row, index_of_files
from ssl_gan_jax.data.source import SourceBuilder
from ssl_gan_jax.data.sources import folder as folder_dataset_builder  # noqa: F401 - as in 0.2
from ssl_gan_jax.errors import UserError

TABLE = "labels.csv"
_SUFFIXES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_HINT = "; the first row must be path,label[,patient_id][,split]"


def index(data_dir: Path, classes: Sequence[str] | str = (), positive: str = "") -> Index:
    """List the images of the table, or without one those of the folders.

    Args:
        data_dir: the folder.
        classes: names in the order of the labels 0..K-1, as a sequence or divided by commas, any
            other label being an error; by default all that are found, sorted (numbers by value),
            and of two the healthy one first (`names.is_healthy`).
        positive: of two classes, the one that comes last: sensitivity, AUPRC and the threshold
            are about it.

    Raises:
        UserError: names the row and the column of a faulty table, or the folder.
    """
    paths = list(files_in(data_dir))
    table, ignored = _find_table(data_dir, paths)
    found = _from_table(data_dir, table, paths) if table else _from_folders(data_dir, paths)
    meaning = names.classes_of(label for label, _, _ in found.films)
    counts = Counter(meaning[label] for label, _, _ in found.films)
    unlabeled = counts.pop("", 0)
    order = names.in_order(counts, positive, classes)
    number = {names.class_key(name): k for k, name in enumerate(order)}
    rows = []
    for label, where, row in found.films:
        k = number.get(names.class_key(meaning[label])) if meaning[label] else UNLABELED
        if k is None:
            raise UserError(f"{where}: unknown label {label!r}, known are {', '.join(order)}")
        rows.append(row._replace(label=k))
    of_class = Counter(row.label for row in rows)
    lines = [
        f"{found.line}; classes: "
        + (", ".join(f"{name} {of_class[k]}" for k, name in enumerate(order)) or "none")
        + (f"; {unlabeled} without a label are unlabelled" if unlabeled else "")
        + _spellings(meaning)
    ]
    used = {row.path for row in rows} | ({table.name} if table else set())
    left_out = found.left_out + layouts.other_files(data_dir, used | set(paths))
    if left_out or ignored:
        counted = [f"{n} {reason}" for reason, n in sorted(left_out.items())]
        lines.append(f"left out: {', '.join([*counted, *ignored])}")
    warnings = list(found.warnings)
    if not found.by_patient and (pair := layouts.films_of_one_patient(row.path for row in rows)):
        warnings.append(
            f"names such as {pair[0]} and {pair[1]} look like films of one patient, and no "
            "patients are given, so they may train and test: give a table with patient_id"
        )
    if len(order) == 2 and classes and not positive and names.is_healthy(order[1]):
        warnings.append(
            f"{order[1]} is the positive class, as data.options.classes orders them; if that is "
            f"not meant, set data.options.positive={order[0]}"
        )
    metadata = Metadata(tuple(lines), tuple(warnings), found.by_patient, found.train_stays)
    return index_of_files(data_dir, order, rows)._replace(metadata=metadata)


class _Found:
    """What a table or the folders say: films are (label as written, where, row)."""

    def __init__(self, line: str, films: list[tuple[str, str, Row]]) -> None:
        self.line, self.films = line, films
        self.left_out: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.by_patient, self.train_stays = False, False


def _from_folders(data_dir: Path, paths: Sequence[str]) -> _Found:
    tree = layouts.read_tree(paths, str(data_dir))
    if not tree.films:
        raise UserError(
            f"{data_dir} holds neither {TABLE} nor a sub-folder of images (PNG, JPEG, TIFF, "
            "BMP, GIF, WebP or DICOM) for each class"
        )
    line = f"folders: {len(tree.films)} images"
    found = _Found(line, [
        (film.label, film.path, Row(film.path, UNLABELED, _nfc(film.path), film.split))
        for film in tree.films
    ])  # fmt: skip
    parts = {film.split for film in tree.films}
    if tree.splits:
        found.line += f"; parts: {', '.join(tree.splits)}"
    # With train and test alone, as publishers divide, a share of train validates.
    found.train_stays = "val" in parts
    found.left_out = tree.left_out
    return found


def _find_table(data_dir: Path, paths: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the table of labels, and what is said of others; raises `UserError` as `index`."""
    here = sorted(path for path in data_dir.iterdir() if path.is_file())
    here = [path for path in here if not outputs.is_passed_over(path.name)]
    if (data_dir / TABLE).is_file():
        return data_dir / TABLE, []
    named = [path for path in here if _stem(path) in ("labels", "label")]
    known = [path for path in named if path.name.lower().endswith((*_SUFFIXES, ".txt"))]
    if len(known) > 1:
        raise UserError(f"{data_dir}: {_listed(known)} may all be the table of labels; keep one")
    if known:
        return known[0], []
    sheets = [path for path in here if path.suffix.lower() in _SHEETS]
    if sheet := [path for path in sheets if path in named]:
        raise _sheet(sheet[0])
    candidates = [path for path in here if path.name.lower().endswith(_SUFFIXES)]
    candidates = [path for path in candidates if _may_be_labels(path)]
    if (candidates or sheets) and _are_classes(paths):
        # The folders say it, and a table by another name may be about something else.
        return None, [f"{path.name} (to use it, call it {TABLE})" for path in candidates]
    if len(candidates) > 1:
        raise UserError(
            f"{data_dir}: {_listed(candidates)} may each be the table of labels; call one {TABLE}"
        )
    if not candidates and len(sheets) == 1 and len(paths):
        raise _sheet(sheets[0])
    return (candidates[0] if candidates else None), []


def _are_classes(paths: Sequence[str]) -> bool:
    try:
        films = layouts.read_tree(paths).films
    except UserError:  # no layout that is known
        return False
    return len({names.class_key(film.label) for film in films} - {""}) > 1


def _may_be_labels(path: Path) -> bool:
    wanted = " ".join(tables.MEANINGS.values()).split()
    try:
        header, _ = tables.parse(path, wanted)
        found = tables.meanings(path, header)
    except UserError:
        return False
    return {"path", "label"} <= set(found) and not outputs.is_prediction_table(header)


def _from_table(data_dir: Path, table: Path, paths: Sequence[str]) -> _Found:
    header, parsed = tables.parse(table, " ".join(tables.MEANINGS.values()).split())
    column = tables.meanings(table, header)
    for name in ("path", "label"):
        if name not in column:
            raise tables.no_column(table, name, header, _HINT)
    lines = list(parsed)
    if not lines:
        raise UserError(f"{table.name} lists no image")
    if header[column.get("split", 0)].lower() != "split" and not _are_splits(lines, column):
        column.pop("split", None)  # a column such as "set" may be of anything
    labels = {cells[column["label"]] for _, cells in lines}
    disk, films, first_at, parts = _Disk(data_dir, paths), [], {}, {}
    for at, cells in lines:
        read = {meaning: cells[i] for meaning, i in column.items()}
        shown = {meaning: f"{at}, column {header[i]!r}" for meaning, i in column.items()}
        number = at.rpartition(" ")[2]
        path = disk.resolve(read["path"], shown["path"])
        if (other := first_at.setdefault(path, number)) != number:
            raise UserError(f"{shown['path']}: {path!r} is also in row {other}")
        label = _one_finding(read["label"], shown["label"], labels)
        if (split := names.split_of(read.get("split", ""))) is None:
            raise UserError(f"{shown['split']}: {read['split']!r} is none of train, val, test")
        patient = read.get("patient_id", "")
        patient = _nfc(path) if names.is_blank(patient) else patient
        known, earlier = parts.setdefault(patient, (split, number)) if split else (split, number)
        if known != split:
            raise UserError(
                f"{shown['split']}: {split!r}, but the same patient is {known!r} in row "
                f"{earlier}; a patient belongs to one split"
            )
        site = "" if names.is_blank(site := read.get("site", "")) else site
        groups = tables.groups(dict(zip(header, cells, strict=True)))
        row = Row(path, UNLABELED, patient, split, site, groups)
        films.append((label, shown["label"], row))
    found = _Found(f"{table.name}: {len(films)} rows; {_columns(header, column)}", films)
    found.by_patient = any(row.patient != _nfc(row.path) for _, _, row in films)
    found.train_stays = True
    unlisted = len(set(paths) - {row.path for _, _, row in films})
    found.left_out["images that the table does not name"] += unlisted
    found.left_out = +found.left_out
    return found


def _columns(header: Sequence[str], column: dict[str, int]) -> str:
    """As in "columns path, label, PatientID -> patient_id; not read: weight"."""
    read = {i: meaning for meaning, i in column.items()}
    known = {names.squeezed(name): kind for kind, all_ in tables.GROUPS.items() for name in all_}
    read |= {
        i: known[names.squeezed(name)]
        for i, name in enumerate(header)
        if i not in read and names.squeezed(name) in known
    }
    shown = [
        header[i] if header[i].lower() == meaning else f"{header[i]} -> {meaning}"
        for i, meaning in sorted(read.items())
    ]
    rest = [name or "(no name)" for i, name in enumerate(header) if i not in read]
    return f"columns {', '.join(shown)}" + (f"; not read: {', '.join(rest)}" if rest else "")


def _are_splits(lines: Iterable[tuple[str, list[str]]], column: dict[str, int]) -> bool:
    at = column.get("split")
    found = {names.split_of(cells[at]) for _, cells in lines} if at is not None else {None}
    return None not in found and found != {""}


def _one_finding(cell: str, at: str, labels: Iterable[str]) -> str:
    """Return the label of a cell; `UserError` where it holds several."""
    found = [part for part in names.findings_in(cell, labels) if part.strip()]
    if len(found) > 1:
        raise UserError(
            f"{at}: several findings, {cell!r}, and an image has one label here; name the one "
            "that counts, leave the cell empty, or make a table for each finding"
        )
    return found[0] if found else ""


def _spellings(meaning: dict[str, str]) -> str:
    """As in "; read as one class: Normal, normal"; '' where each has one spelling."""
    of_class = defaultdict(list)
    for text, name in meaning.items():
        of_class[name].append(text)
    alike = [", ".join(texts) for name, texts in of_class.items() if name and len(texts) > 1]
    return f"; differ in spelling only, read as one class: {' | '.join(alike)}" if alike else ""


class _Disk:
    """Finds the files that cells name, also by other spellings of the same name."""

    def __init__(self, data_dir: Path, paths: Sequence[str]) -> None:
        self.data_dir, self.paths = data_dir, paths
        self.by_key: dict[str, list[str]] = {}

    def resolve(self, cell: str, at: str) -> str:
        """Return the path of the file, relative and with forward slashes.

        Raises:
            UserError: there is none, or several may be meant, or it lies outside of the folder.
        """
        text = cell.strip().replace("\\", "/")
        path = PurePosixPath(text)
        if path.is_absolute() and path.is_relative_to(self.data_dir.absolute().as_posix()):
            path = path.relative_to(self.data_dir.absolute().as_posix())
        if not text or path.is_absolute() or PureWindowsPath(cell).drive or ".." in path.parts:
            raise UserError(f"{at}: {cell!r} must name a file inside the folder, relative to it")
        if (self.data_dir / path).is_file():
            return path.as_posix()
        self._list()
        meant = self.by_key.get(_key(path.as_posix()), [])
        exact = [found for found in meant if _nfc(found) == _nfc(path.as_posix())]
        meant = exact or meant
        if not meant:
            meant = self._beyond(path)
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise UserError(f"{at}: {cell!r} may be {meant[0]!r} or {meant[1]!r}: name one")
        raise UserError(f"{at}: there is no file {cell!r} in {self.data_dir}")

    def _list(self) -> None:
        if self.by_key or not self.paths:
            return
        for found in self.paths:
            for key in {_key(found), _key(os.path.splitext(found)[0])}:
                self.by_key.setdefault(key, []).append(found)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for key, found in self.by_key.items():
            self.by_name[key.rpartition("/")[2]] += [(key, one) for one in found]

    def _beyond(self, path: PurePosixPath) -> list[str]:
        """Files in deeper folders, or where the cell begins with folders that hold data_dir."""
        key = _key(path.as_posix())
        same = self.by_name.get(key.rpartition("/")[2], []) if self.paths else []
        above = _key(self.data_dir.absolute().as_posix())
        return sorted({
            found
            for other, found in same
            if other.endswith(f"/{key}")
            or (key.endswith(f"/{other}") and f"{above}/".endswith(f"/{key.removesuffix(other)}"))
        })  # fmt: skip


def _key(path: str) -> str:
    stem, suffix = os.path.splitext(_nfc(path).casefold())
    return stem + {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _stem(path: Path) -> str:
    return path.name.lower().partition(".")[0]


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _sheet(path: Path) -> UserError:
    return UserError(
        f"{path.name}: spreadsheets are not read; save it as {TABLE} (File, Save as, CSV UTF-8)"
    )


class Builder(SourceBuilder):
    """Your own images: a folder with a table of labels, or with a sub-folder for each class."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    give as data.dir a folder of PNG, JPEG, TIFF, BMP, GIF, WebP or DICOM images with a labels.csv
    (path,label[,patient_id][,split]; an empty label means unlabelled), or with one sub-folder for
    each class and, where there are any, one called unlabelled, either within train, val and test
    or not
    """
    index = staticmethod(index)
