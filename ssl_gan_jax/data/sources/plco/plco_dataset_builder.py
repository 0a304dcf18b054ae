"""Chest radiographs of the PLCO lung screening trial (NCI), licensed through CDAS.

The columns are those of public user code and are to be confirmed against CDAS's dictionary.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from ssl_gan_jax.data.source import UNLABELLED, Index, Row, SourceBuilder, index_of_files
from ssl_gan_jax.errors import UserError

CLASSES = ("no cardiac abnormality", "cardiac abnormality")

SCREENS = "lung_screen_data*.csv"  # one row a screening visit
PATIENT, YEAR, LABEL, RESULT = "plco_id", "study_yr", "an_cardiac", "xry_result"
INADEQUATE = "4"  # of RESULT: the radiologist could not read the film

LINKAGE = "lung_xryimg*_data*.csv"  # one row an image; a visit may have several
IMAGE_NAME = "image_file_name"
LINKAGE_YEARS = (YEAR, "assoc_visit_syr")  # newer, older releases

LABELS = {"0": 0, "1": 1}  # of LABEL; '' and '.N', '.M' and the like are missing values


def index(data_dir: Path) -> Index:
    """Join the screening tables and the image linkage on patient and study year.

    Images of another batch than those on disk are passed over; so are films that were inadequate
    and images of visits that the screening tables do not hold.
    """
    visits = {}
    for at, row in _rows(data_dir, SCREENS, (PATIENT, YEAR, LABEL, RESULT)):
        if row[RESULT] == INADEQUATE:
            continue
        value = row[LABEL]
        if value not in LABELS and value and not value.startswith("."):
            raise UserError(f"{at}, column {LABEL!r}: {value!r} is none of {', '.join(LABELS)}")
        visits[row[PATIENT], row[YEAR]] = LABELS.get(value, UNLABELLED)

    on_disk = {
        path.stem.casefold(): path.relative_to(data_dir).as_posix()
        for path in sorted(data_dir.rglob("*"))
        if path.suffix.lower() in (".tif", ".tiff")
    }
    rows, absent = {}, 0
    for _, row in _rows(data_dir, LINKAGE, (PATIENT, IMAGE_NAME), LINKAGE_YEARS):
        year = row.get(YEAR) or row.get(LINKAGE_YEARS[1])
        label = visits.get((row[PATIENT], year))
        path = on_disk.get(_stem(row[IMAGE_NAME]))
        if path is None:
            absent += 1
        elif label is not None:
            rows[path] = Row(path=path, label=label, patient=row[PATIENT])
    if not rows:
        raise UserError(
            f"{data_dir} holds {len(on_disk)} TIFF images and {len(visits)} readable visits, but "
            f"{LINKAGE} links none of them ({absent} of its images are not there)"
        )
    if absent:
        logging.warning("PLCO: %d images of the linkage table are not in the folder", absent)
    return index_of_files(data_dir, CLASSES, list(rows.values()))


def _rows(
    data_dir: Path, pattern: str, columns: tuple[str, ...], any_of: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of all tables that match, with stripped cells and lower-case columns."""
    if not (tables := sorted(data_dir.rglob(pattern))):
        raise UserError(f"no table {pattern} in {data_dir}: {_instructions()}")
    for table in tables:
        with open(table, newline="", encoding="latin-1") as file:
            reader = csv.DictReader(file)
            names = [name.strip("ï»¿ ").lower() for name in reader.fieldnames or []]
            reader.fieldnames = names
            missing = [name for name in columns if name not in names]
            if any_of and not set(any_of) & set(names):
                missing.append(" or ".join(any_of))
            if missing:
                raise UserError(f"{table.name}: no column {missing[0]!r} among {names}")
            for row in reader:
                cells = {name: (row.get(name) or "").strip() for name in names}
                yield f"{table.name} row {reader.line_num}", cells


def _stem(image_name: str) -> str:
    """`image_file_name` may lack the suffix and differ in case from the disk."""
    name = image_name.casefold()
    return name.removesuffix(".tiff").removesuffix(".tif")


def _instructions() -> str:
    return " ".join(Builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())


class Builder(SourceBuilder):
    """About 205,000 chest radiographs of the PLCO trial; label: likely cardiac abnormality."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    request "Lung Screening" data and the lung X-ray images of PLCO from the NCI's CDAS
    (https://cdas.cancer.gov/plco), put the tables lung_screen_data_*.csv and
    lung_xryimg25_data_*.csv and the TIFF images into one
    folder, sub-folders allowed, and give it as data.dir
    """
    index = staticmethod(index)
