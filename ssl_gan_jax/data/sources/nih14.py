"""ChestX-ray14 of the NIH Clinical Center, Wang et al., CVPR 2017; free with attribution."""

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
from ssl_gan_jax.errors import UserError, check_choice

TABLE = "Data_Entry_2017*.csv*"
IMAGE, FINDINGS, PATIENT, VIEW = "image index", "finding labels", "patient id", "view position"
NORMAL = "no finding"
OFFICIAL = {"train": "train_val_list.txt", "test": "test_list.txt"}  # used if they are there


def index(
    data_dir: Path,
    positive: str = "Cardiomegaly",
    others: str = "unlabelled",
    view: str = "",
    findings: Sequence[str] | str = "",
) -> Index:
    """List the images that the table names: `positive` among the findings against 'No Finding'.

    Args:
        data_dir: holds the table and the images. All are frontal.
        positive: a finding of the table.
        others: what images with only other findings are, one of `OUTCOMES`.
        view: 'PA' or 'AP' for only these images.
        findings: 'all', or some as a sequence or divided by commas: each image is labelled with
            all that it shows, in place of `positive` alone; 'No Finding' is none of them.
    """
    if findings:
        films = list(_films(data_dir, view))
        known = sorted(set().union(*(shown for shown, _ in films)) - {NORMAL})
        names = chosen_findings(findings, known)
        rows = [
            row._replace(label=tuple(int(k in shown) for k in names)) for shown, row in films if row
        ]
        return index_of_tables(data_dir, names, rows)
    classes = (NORMAL, positive.lower())
    return index_of_tables(data_dir, classes, entries(data_dir, positive, others, view))


def entries(
    data_dir: Path, positive: str = "Cardiomegaly", others: str = "unlabelled", view: str = ""
) -> list[Row]:
    """Return a row for each image of the table, whether it is there or not; else as `index`."""
    label_of_others, positive = outcome("others", others), positive.lower()
    known, found = set(), []
    for findings, row in _films(data_dir, view):
        known |= findings
        label = 1 if positive in findings else 0 if NORMAL in findings else label_of_others
        if row and label is not None:
            found.append(row._replace(label=label))
    check_choice("data.options.positive", positive, known - {NORMAL})
    return found


def _films(data_dir: Path, view: str) -> Iterator[tuple[set[str], Row | None]]:
    """Yield each image's findings, in lower case, and its row without label; None: another view."""
    splits = {}
    for split, name in OFFICIAL.items():
        if (data_dir / name).is_file():
            names = (data_dir / name).read_text(errors="replace").split()
            splits |= dict.fromkeys(names, split)
    check_choice("data.options.view", view, ("", "AP", "PA"))
    table = tables.find(data_dir, TABLE, INSTRUCTIONS)[0]
    for at, row in tables.read(table, (IMAGE, FINDINGS, PATIENT, VIEW)):
        findings = {finding.strip().lower() for finding in row[FINDINGS].split("|")}
        for column in (FINDINGS, PATIENT):
            if not row[column]:
                raise UserError(f"{at}, column {column!r}: the cell is empty")
        if NORMAL in findings and len(findings) > 1:
            raise UserError(f"{at}, column {FINDINGS!r}: {NORMAL!r} and a finding")
        groups, official = tables.groups(row), splits.get(row[IMAGE], "")
        film = Row(row[IMAGE], UNLABELED, row[PATIENT], official, groups=groups)
        yield findings, film if view in ("", row[VIEW]) else None


DESCRIPTION = "112,120 frontal chest radiographs of 30,805 patients; labels mined from reports."
INSTRUCTIONS = """
download Data_Entry_2017_v2020.csv, the images_*.tar.gz and, for the official division,
train_val_list.txt and test_list.txt from https://nihcc.app.box.com/v/ChestXray-NIHCC, unpack
the images, and give the folder of all this as data.dir
"""
