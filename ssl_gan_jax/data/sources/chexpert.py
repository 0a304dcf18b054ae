"""CheXpert, Irvin et al., AAAI 2019; on registration with Stanford AIMI."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_gan_jax.data import tables
from ssl_gan_jax.data.index import (
    UNLABELED,
    Index,
    Row,
    chosen_findings,
    index_of_tables,
    outcome,
)
from ssl_gan_jax.data.names import class_key, is_missing
from ssl_gan_jax.errors import UserError

TABLES = {"train": "train.csv", "test": "valid.csv"}  # valid.csv: 200 patients, by radiologists
PATH, PROJECTION, NORMAL = "path", "frontal/lateral", "no finding"

_NO_FINDING = (PATH, "sex", "age", PROJECTION, "ap/pa", NORMAL)  # columns of something else
_PATIENT = re.compile(r"/(patient\d+)/")


def index(
    data_dir: Path,
    positive: str = "Cardiomegaly",
    uncertain: str = "unlabelled",
    unmentioned: str = "unlabelled",
    findings: Sequence[str] | str = "",
) -> Index:
    """List the frontal images: `positive` present against absent, or against 'No Finding'.

    The official validation set serves as the test set; validation comes from the training set.
    Irvin et al. call the `uncertain` choices U-Ignore (unlabelled), U-Ones (positive) and U-Zeros
    (negative), and take what is `unmentioned` for negative.

    Args:
        data_dir: the release, or the folder that holds it.
        positive: the column of a finding.
        uncertain: what -1 is, one of `OUTCOMES`.
        unmentioned: what a blank is if 'No Finding' is not 1, one of `OUTCOMES`.
        findings: 'all', or some columns as a sequence or divided by commas: each image is labelled
            with all of them, in place of `positive` alone; then 'drop' is no choice.
    """
    labels = {"1": 1, "0": 0, "-1": outcome("uncertain", uncertain, findings)}
    labels[""] = outcome("unmentioned", unmentioned, findings)
    column, names, entries = positive.lower(), (), []
    for at, cells, row in _films(data_dir, () if findings else (column,)):
        if findings:
            if not names:  # all rows have the same columns
                names = chosen_findings(findings, [k for k in cells if k not in _NO_FINDING])
            label = tuple(_label(at, cells, name, labels) for name in names)
        else:
            label = _label(at, cells, column, labels)
        if label is not None:
            entries.append(row._replace(label=label))
    return index_of_tables(data_dir, names or ("no " + column, column), entries, _key)


def _films(data_dir: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str], Row]]:
    """Yield the place, the cells, and the row without label of each frontal image."""
    for split, name in TABLES.items():
        table = tables.find(data_dir, name, INSTRUCTIONS)[0]
        for at, cells in tables.read(table, (PATH, PROJECTION, NORMAL, *columns)):
            if cells[PROJECTION].lower() != "frontal":
                continue
            if not (patient := _PATIENT.search(cells[PATH])):
                raise UserError(f"{at}, column {PATH!r}: no patient in it, as in patient00001")
            groups = tables.groups(cells)
            yield at, cells, Row(cells[PATH], UNLABELED, patient[1], split, groups=groups)


def _label(
    at: str, cells: dict[str, str], column: str, labels: dict[str, int | None]
) -> int | None:
    """What a cell says; a blank is 0 if 'No Finding' is 1."""
    value = "" if is_missing(cells[column]) else class_key(cells[column])  # 1 or 1.0
    if value not in labels:
        raise UserError(f"{at}, column {column!r}: {cells[column]!r} is none of 1, 0, -1, ''")
    healthy = value == "" and class_key(cells[NORMAL]) == "1"
    return 0 if healthy else labels[value]


def _key(path: str) -> str:
    """Without the folder of the release: train/patient00001/study1/view1_frontal.jpg."""
    return path.partition("/")[2] if path.startswith("CheXpert") else path


DESCRIPTION = "191,027 frontal chest radiographs; labels mined from reports."
INSTRUCTIONS = """
register for CheXpert at https://aimi.stanford.edu/datasets/chexpert-chest-x-rays, unpack
CheXpert-v1.0-small.zip (or the large one), and give the folder that holds it as data.dir
"""
