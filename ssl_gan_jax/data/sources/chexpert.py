"""CheXpert, Irvin et al., AAAI 2019; on registration with Stanford AIMI."""

import re
from pathlib import Path

from ssl_gan_jax.data import tables
from ssl_gan_jax.data.index import Index, Row, index_of_tables, outcome
from ssl_gan_jax.data.names import class_key, is_missing
from ssl_gan_jax.data.source import SourceBuilder
from ssl_gan_jax.errors import UserError

TABLES = {"train": "train.csv", "test": "valid.csv"}  # valid.csv: 200 patients, by radiologists
PATH, PROJECTION, NORMAL = "path", "frontal/lateral", "no finding"

_PATIENT = re.compile(r"/(patient\d+)/")


def index(
    data_dir: Path,
    positive: str = "Cardiomegaly",
    uncertain: str = "unlabelled",
    unmentioned: str = "unlabelled",
) -> Index:
    """List the frontal images: `positive` present against absent, or against 'No Finding'.

    The official validation set serves as the test set; validation comes from the training set.

    Args:
        data_dir: the release, or the folder that holds it.
        positive: the column of a finding.
        uncertain: what -1 is, one of `OUTCOMES`.
        unmentioned: what a blank is if 'No Finding' is not 1, one of `OUTCOMES`.
    """
    column, entries = positive.lower(), []
    labels = {"1": 1, "0": 0, "-1": outcome("uncertain", uncertain)}
    labels[""] = outcome("unmentioned", unmentioned)
    for split, name in TABLES.items():
        table = tables.find(data_dir, name, Builder.MANUAL_DOWNLOAD_INSTRUCTIONS)[0]
        for at, row in tables.read(table, (PATH, PROJECTION, NORMAL, column)):
            if row[PROJECTION].lower() != "frontal":
                continue
            value = "" if is_missing(row[column]) else class_key(row[column])  # 1 or 1.0
            if value not in labels:
                raise UserError(f"{at}, column {column!r}: {row[column]!r} is none of 1, 0, -1, ''")
            if not (patient := _PATIENT.search(row[PATH])):
                raise UserError(f"{at}, column {PATH!r}: no patient in it, as in patient00001")
            healthy = value == "" and class_key(row[NORMAL]) == "1"
            if (label := 0 if healthy else labels[value]) is not None:
                groups = tables.groups(row)
                entries.append(Row(row[PATH], label, patient[1], split, groups=groups))
    return index_of_tables(data_dir, ("no " + column, column), entries, _key)


def _key(path: str) -> str:
    """Without the folder of the release: train/patient00001/study1/view1_frontal.jpg."""
    return path.partition("/")[2] if path.startswith("CheXpert") else path


class Builder(SourceBuilder):
    """191,027 frontal chest radiographs; labels mined from reports."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    register for CheXpert at https://aimi.stanford.edu/datasets/chexpert-chest-x-rays, unpack
    CheXpert-v1.0-small.zip (or the large one), and give the folder that holds it as data.dir
    """
