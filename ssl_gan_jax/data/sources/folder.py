"""A folder of your own images, with a table of labels or without.

A table has one row an image; its columns go by the names that people give them (`tables.MEANINGS`).
Without a table, the names of folders say class and part (`layouts.read_tree`). In both, spellings
of one class are one class, and words such as NA or unknown mean that a label is not known
(`names`). What was read and what was left out is logged before training and by `audit`.

With `findings`, columns of a table each say of one finding whether an image shows it: 1, 0, or -1
or nothing if that is not known. In a table with a column for labels, its cells may instead name all
that an image shows, as in a|b; a cell such as normal says that it shows nothing.

Folders and files of masks, heat maps and the like are left out. Without `findings`, a cell with
several of them is refused. A class that no image carries may be listed in `classes`,
and is refused if a classifier is to learn it.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ssl_gan_jax.data import finding_cells, layouts, names, outputs, tables
from ssl_gan_jax.data.images import files_in
from ssl_gan_jax.data.index import UNLABELED, Index, Metadata, Row, index_of_files
from ssl_gan_jax.errors import UserError

TABLE = "labels.csv"
_SUFFIXES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz")
_SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_HINT = "; the first row must be path,label[,patient_id][,split]"


class _Films(NamedTuple):
    """What a table or the folders say of the images."""

    summary: str
    films: list[tuple[str, str, Row]]  # label as it is written, where, row
    left_out: Counter[str]  # reason -> how many files
    by_patient: bool
    train_stays: bool
    findings: tuple[str, ...] = ()  # in place of classes


def index(
    data_dir: Path,
    classes: Sequence[str] | str = (),
    positive: str = "",
    findings: Sequence[str] | str = "",
) -> Index:
    """List the images of the table, or without one those of the folders.

    Args:
        data_dir: the folder.
        classes: names in the order of the labels 0..K-1, as a sequence or divided by commas, any
            other label being an error; by default all that are found, sorted (numbers by value),
            and of two the healthy one first (`names.is_healthy`).
        positive: of two classes, the one that comes last: sensitivity, AUPRC and the threshold
            are about it.
        findings: columns of a table that each say 1, 0 or -1 of one finding, as a sequence or
            divided by commas, or names in the cells of its column for labels; "all": all of these,
            or without that column, all columns that mean nothing else. Then there are no classes.

    Raises:
        UserError: names the row and the column of a faulty table, or the folder.
    """
    paths = list(files_in(data_dir))
    table, ignored = _find_table(data_dir, paths)
    if findings and (classes or positive or not table):
        why = "goes without classes and positive" if table else f"needs a table, {TABLE}"
        raise UserError(f"data.options.findings {why}")
    if table:
        found = _from_table(data_dir, table, paths, findings)
    else:
        found = _from_folders(data_dir, paths)
    if findings:
        order, rows, described = found.findings, [row for *_, row in found.films], _shown(found)
    else:
        order, rows, described = _in_classes(found, classes, positive)
    summary = [f"{found.summary}; {described}"]
    used = {*paths, *(row.path for row in rows), table.name if table else ""}
    left_out = found.left_out + layouts.other_files(data_dir, used)
    if left_out or ignored:
        counted = [f"{n} {reason}" for reason, n in sorted(left_out.items())]
        summary.append(f"left out: {', '.join([*counted, *ignored])}")
    warnings = []
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
    metadata = Metadata(tuple(summary), tuple(warnings), found.by_patient, found.train_stays)
    return index_of_files(data_dir, order, rows)._replace(metadata=metadata)


def _in_classes(
    found: _Films, classes: Sequence[str] | str, positive: str
) -> tuple[tuple[str, ...], list[Row], str]:
    """Return the classes in order, the rows with their labels, and how many there are of each."""
    class_of = names.classes_of(label for label, _, _ in found.films)
    order = names.in_order(set(class_of.values()) - {""}, positive, classes)
    number = {names.class_key(name): k for k, name in enumerate(order)} | {"": UNLABELED}
    rows = []
    for label, where, row in found.films:
        if (k := number.get(names.class_key(class_of[label]))) is None:
            raise UserError(f"{where}: unknown label {label!r}, known are {', '.join(order)}")
        rows.append(row._replace(label=k))
    counts = Counter(row.label for row in rows)
    described = (
        "classes: "
        + (", ".join(f"{name} {counts[k]}" for k, name in enumerate(order)) or "none")
        + (f"; {counts[UNLABELED]} without a label are unlabelled" if counts[UNLABELED] else "")
        + _spellings(class_of)
    )
    return order, rows, described


def _shown(found: _Films) -> str:
    """As in "findings: effusion 3 (of 4 known), nodule 1 (of 7 known)"."""
    of_each = zip(
        found.findings, zip(*(row.label for *_, row in found.films), strict=True), strict=True
    )
    counts = (
        (name, column.count(1), len(column) - column.count(UNLABELED)) for name, column in of_each
    )
    return "findings: " + ", ".join(f"{name} {n} (of {known} known)" for name, n, known in counts)


def _from_folders(data_dir: Path, paths: Sequence[str]) -> _Films:
    tree = layouts.read_tree(paths, str(data_dir))
    if not tree.films:
        raise UserError(
            f"{data_dir} holds neither {TABLE} nor a sub-folder of images (PNG, JPEG, TIFF, "
            "BMP, GIF, WebP or DICOM) for each class"
        )
    films = [
        (label, path, Row(path, UNLABELED, _nfc(path), split)) for path, label, split in tree.films
    ]
    parts = f"; parts: {', '.join(tree.splits)}" if tree.splits else ""
    # With train and test alone, as publishers divide, a share of train validates.
    train_stays = any(film.split == "val" for film in tree.films)
    return _Films(f"folders: {len(films)} images{parts}", films, tree.left_out, False, train_stays)


def _find_table(data_dir: Path, paths: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the table of labels, and what is said of others; raises `UserError` as `index`."""
    if (data_dir / TABLE).is_file():
        return data_dir / TABLE, []
    here = sorted(path for path in data_dir.iterdir() if path.is_file())
    here = [path for path in here if not outputs.is_passed_over(path.name)]
    named = [path for path in here if path.name.lower().partition(".")[0] in ("labels", "label")]
    known = [path for path in named if path.name.lower().endswith((*_SUFFIXES, ".txt"))]
    if len(known) > 1:
        raise UserError(f"{data_dir}: {_listed(known)} may all be the table of labels; keep one")
    if known:
        return known[0], []
    sheets = [path for path in here if path.suffix.lower() in _SHEETS]
    tables_here = [path for path in here if path.name.lower().endswith(_SUFFIXES)]
    candidates = [path for path in tables_here if _may_be_labels(path)]
    sheet = next((path for path in sheets if path in named), None)
    if not sheet and (candidates or sheets) and _are_classes(paths):
        # The folders say it, and a table by another name may be about something else.
        return None, [f"{path.name} (to use it, call it {TABLE})" for path in candidates]
    if not sheet and len(candidates) > 1:
        raise UserError(
            f"{data_dir}: {_listed(candidates)} may each be the table of labels; call one {TABLE}"
        )
    if sheet or (not candidates and len(sheets) == 1 and paths):
        raise UserError(
            f"{(sheet or sheets[0]).name}: spreadsheets are not read; save it as {TABLE} (File, "
            "Save as, CSV UTF-8)"
        )
    return next(iter(candidates), None), []


def _are_classes(paths: Sequence[str]) -> bool:
    try:
        films = layouts.read_tree(paths).films
    except UserError:  # no layout that is known
        return False
    return len({names.class_key(film.label) for film in films} - {""}) > 1


def _may_be_labels(path: Path) -> bool:
    try:
        header, _ = tables.parse(path, tables.NAMES)
        found = tables.meanings(path, header)
    except UserError:
        return False
    return {"path", "label"} <= set(found) and not outputs.is_prediction_table(header)


def _from_table(
    data_dir: Path, table: Path, paths: Sequence[str], findings: Sequence[str] | str
) -> _Films:
    header, rows = tables.parse(table, tables.NAMES)
    column = tables.meanings(table, header)
    for name in ("path",) if findings else ("path", "label"):
        if name not in column:
            raise tables.no_column(table, name, header, _HINT)
    if not (rows := list(rows)):
        raise UserError(f"{table.name} lists no image")
    chosen, label_of = (), None
    if findings:
        read = {*(header[i] for i in column.values()), *_groups(header), ""}
        rest = [name for name in header if name not in read]
        if "label" not in column or finding_cells.are_columns(findings, rest):
            column.pop("label", None)  # not read
            chosen, label_of = finding_cells.from_columns(header, rest, findings)
        else:
            chosen, label_of = finding_cells.from_labels(header, rows, column["label"], findings)
    if "split" in column and header[column["split"]].lower() != "split":
        splits = {names.split_of(cells[column["split"]]) for _, cells in rows}
        if None in splits or splits == {""}:  # a column such as "set" may be of anything
            del column["split"]
    labels = set() if findings else {cells[column["label"]] for _, cells in rows}
    find, films, row_of, split_of = _finder(data_dir, paths), [], {}, {}
    for at, cells in rows:
        cell = {meaning: cells[i] for meaning, i in column.items()}
        where = {meaning: f"{at}, column {header[i]!r}" for meaning, i in column.items()}
        number = at.rpartition(" ")[2]
        path = find(cell["path"], where["path"])
        if (other := row_of.setdefault(path, number)) != number:
            raise UserError(f"{where['path']}: {path!r} is also in row {other}")
        text = "" if findings else cell["label"]
        parts = [part for part in names.findings_in(text, labels) if part.strip()]
        if len(parts) > 1:
            raise UserError(
                f"{where['label']}: several findings, {text!r}, and an image has one "
                "label here; name the one that counts, leave the cell empty, make a table for each "
                "finding, or learn them all with data.options.findings=all"
            )
        if (split := names.split_of(cell.get("split", ""))) is None:
            raise UserError(f"{where['split']}: {cell['split']!r} is none of train, val, test")
        patient, site = cell.get("patient_id", ""), cell.get("site", "")
        patient = _nfc(path) if names.is_blank(patient) else patient
        if split and (earlier := split_of.setdefault(patient, (split, number)))[0] != split:
            raise UserError(
                f"{where['split']}: {split!r}, but the same patient is {earlier[0]!r} in row "
                f"{earlier[1]}; a patient belongs to one split"
            )
        site = "" if names.is_blank(site) else site
        groups = tables.groups(dict(zip(header, cells, strict=True)))
        label = label_of(at, cells) if label_of else UNLABELED
        row = Row(path, label, patient, split, site, groups)
        films.append((parts[0] if parts else "", where.get("label", at), row))
    unlisted = len(set(paths) - set(row_of))
    return _Films(
        f"{table.name}: {len(films)} rows; {_columns(header, column, chosen)}",
        films,
        +Counter({"images that the table does not name": unlisted}),
        by_patient=any(row.patient != _nfc(row.path) for _, _, row in films),
        train_stays=True,
        findings=chosen,
    )


def _groups(header: Sequence[str]) -> dict[str, str]:
    """Return the columns that divide results, and by what."""
    kinds = {names.squeezed(name): kind for kind, all_ in tables.GROUPS.items() for name in all_}
    return {name: kinds[key] for name in header if (key := names.squeezed(name)) in kinds}


def _columns(header: Sequence[str], column: Mapping[str, int], findings: Sequence[str]) -> str:
    """As in "columns path, label, PatientID -> patient_id; not read: weight"."""
    known = {i: meaning for meaning, i in column.items()}
    groups = _groups(header) | {name: name.lower() for name in findings}
    read, rest = [], []
    for i, name in enumerate(header):
        meaning = known.get(i) or groups.get(name)
        if not meaning:
            rest.append(name or "(no name)")
        else:
            read.append(name if name.lower() == meaning else f"{name} -> {meaning}")
    return f"columns {', '.join(read)}" + (f"; not read: {', '.join(rest)}" if rest else "")


def _spellings(class_of: Mapping[str, str]) -> str:
    """As in "; read as one class: Normal, normal"; '' if each has one spelling."""
    texts = defaultdict(list)
    for text, name in class_of.items():
        texts[name].append(text)
    alike = [", ".join(some) for name, some in texts.items() if name and len(some) > 1]
    return f"; differ in spelling only, read as one class: {' | '.join(alike)}" if alike else ""


def _finder(data_dir: Path, paths: Sequence[str]) -> Callable[[str, str], str]:
    """Return a function from a cell and its place to the path of the file that it names.

    The file may lie in a deeper folder, the cell may begin with the folders above `data_dir`, and
    the spelling may differ (`_key`). It raises `UserError` if there is no such file, or if several
    may be meant, or if it lies outside of the folder.
    """
    above, by_name = data_dir.absolute().as_posix(), defaultdict(list)
    for path in paths:
        for key in {_key(path), _key(os.path.splitext(path)[0])}:
            by_name[key.rpartition("/")[2]].append((key, path))

    def find(cell: str, at: str) -> str:
        path = PurePosixPath(text := cell.strip().replace("\\", "/"))
        if path.is_relative_to(above):
            path = path.relative_to(above)
        if not text or path.is_absolute() or PureWindowsPath(cell).drive or ".." in path.parts:
            raise UserError(f"{at}: {cell!r} must name a file inside the folder, relative to it")
        if (data_dir / path).is_file():
            return path.as_posix()
        key = _key(path.as_posix())
        alike = by_name[key.rpartition("/")[2]]
        same = [found for other, found in alike if other == key]
        deeper = {
            found
            for other, found in alike
            if other.endswith(f"/{key}")
            or (
                key.endswith(f"/{other}")
                and f"{_key(above)}/".endswith(f"/{key.removesuffix(other)}")
            )
        }
        exact = [found for found in same if _nfc(found) == _nfc(path.as_posix())]
        meant = exact or same or sorted(deeper)
        if len(meant) > 1:
            raise UserError(f"{at}: {cell!r} may be {meant[0]!r} or {meant[1]!r}: name one")
        if not meant:
            raise UserError(f"{at}: there is no file {cell!r} in {data_dir}")
        return meant[0]

    return find


def _key(path: str) -> str:
    stem, suffix = os.path.splitext(_nfc(path).casefold())
    return stem + {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


DESCRIPTION = (
    "Your own images: a folder with a table of labels, or with a sub-folder for each class."
)
INSTRUCTIONS = """
give as data.dir a folder of PNG, JPEG, TIFF, BMP, GIF, WebP or DICOM images with a labels.csv
(path,label[,patient_id][,split]; an empty label means unlabelled), or with one sub-folder for
each class and, where there are any, one called unlabelled, either within train, val and test
or not
"""
