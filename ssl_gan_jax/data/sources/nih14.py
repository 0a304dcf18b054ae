"""ChestX-ray14 of the NIH Clinical Center, Wang et al., CVPR 2017; free with attribution."""

from pathlib import Path

from ssl_gan_jax.data import tables
from ssl_gan_jax.data.index import Index, Row, index_of_tables, outcome
from ssl_gan_jax.data.source import SourceBuilder
from ssl_gan_jax.errors import UserError, check_choice

TABLE = "Data_Entry_2017*.csv*"
IMAGE, FINDINGS, PATIENT, VIEW = "image index", "finding labels", "patient id", "view position"
NORMAL = "no finding"
OFFICIAL = {"train": "train_val_list.txt", "test": "test_list.txt"}  # used if they are there


def index(
    data_dir: Path, positive: str = "Cardiomegaly", others: str = "unlabelled", view: str = ""
) -> Index:
    """List the images that the table names: `positive` among the findings against 'No Finding'.

    Args:
        data_dir: holds the table and the images. All are frontal.
        positive: a finding of the table.
        others: what images with only other findings are, one of `OUTCOMES`.
        view: 'PA' or 'AP' for only these images.
    """
    classes = (NORMAL, positive.lower())
    return index_of_tables(data_dir, classes, entries(data_dir, positive, others, view))


def entries(
    data_dir: Path, positive: str = "Cardiomegaly", others: str = "unlabelled", view: str = ""
) -> list[Row]:
    """Return a row for each image of the table, whether it is there or not; else as `index`."""
    label_of_others, splits = outcome("others", others), {}
    for split, name in OFFICIAL.items():
        if (data_dir / name).is_file():
            names = (data_dir / name).read_text(errors="replace").split()
            splits |= dict.fromkeys(names, split)
    check_choice("data.options.view", view, ("", "AP", "PA"))
    table = tables.find(data_dir, TABLE, Builder.MANUAL_DOWNLOAD_INSTRUCTIONS)[0]
    positive, known, found = positive.lower(), set(), []
    for at, row in tables.read(table, (IMAGE, FINDINGS, PATIENT, VIEW)):
        findings = {finding.strip().lower() for finding in row[FINDINGS].split("|")}
        known |= findings
        for column in (FINDINGS, PATIENT):
            if not row[column]:
                raise UserError(f"{at}, column {column!r}: the cell is empty")
        if NORMAL in findings and len(findings) > 1:
            raise UserError(f"{at}, column {FINDINGS!r}: {NORMAL!r} and a finding")
        label = 1 if positive in findings else 0 if NORMAL in findings else label_of_others
        if label is not None and view in ("", row[VIEW]):
            groups, official = tables.groups(row), splits.get(row[IMAGE], "")
            found.append(Row(row[IMAGE], label, row[PATIENT], official, groups=groups))
    check_choice("data.options.positive", positive, known - {NORMAL})
    return found


class Builder(SourceBuilder):
    """112,120 frontal chest radiographs of 30,805 patients; labels mined from reports."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    download Data_Entry_2017_v2020.csv, the images_*.tar.gz and, for the official division,
    train_val_list.txt and test_list.txt from https://nihcc.app.box.com/v/ChestXray-NIHCC, unpack
    the images, and give the folder of all this as data.dir
    """
