"""Chest radiographs of the PLCO lung screening trial (NCI), licensed through CDAS.

The columns are those of public user code and are to be confirmed against CDAS's dictionary.
"""

from collections.abc import Iterator
from pathlib import Path

from ssl_gan_jax.data import tables
from ssl_gan_jax.data.index import UNLABELED, Index, Row, index_of_tables
from ssl_gan_jax.data.names import class_key, is_missing
from ssl_gan_jax.errors import UserError

CLASSES = ("no cardiac abnormality", "cardiac abnormality")

SCREENS = "lung_screen_data*.csv"  # one row a screening visit
PATIENT, YEAR, LABEL, RESULT = "plco_id", "study_yr", "an_cardiac", "xry_result"
INADEQUATE = "4"  # of RESULT: the radiologist could not read the film

LINKAGE = "lung_xryimg*_data*.csv"  # one row an image; a visit may have several
IMAGE_NAME, OLDER_YEAR = "image_file_name", "assoc_visit_syr"  # OLDER_YEAR: of older releases

LABELS = {"0": 0, "1": 1}  # of LABEL; '' and '.N', '.M' and the like are missing values


def index(data_dir: Path, positive: str = LABEL) -> Index:
    """Join the screening tables and the image linkage on patient and study year.

    Images of another batch than those on disk are passed over; so are films that were inadequate
    and images of visits that the screening tables do not hold. A missing value is unlabelled.

    Args:
        data_dir: holds tables and images.
        positive: the column (0 or 1) of the abnormality.
    """
    visits, entries = {}, []
    for at, row in _rows(data_dir, SCREENS, PATIENT, YEAR, positive, RESULT):
        value = class_key(row[positive])  # 1 or, once a spreadsheet had it, 1.0
        if class_key(row[RESULT]) == INADEQUATE:
            continue
        if value not in LABELS and not is_missing(value) and not value.startswith("."):
            raise UserError(f"{at}, column {positive!r}: {value!r} is none of {', '.join(LABELS)}")
        visits[row[PATIENT], class_key(row[YEAR])] = LABELS.get(value, UNLABELED)
    for _, row in _rows(data_dir, LINKAGE, PATIENT, IMAGE_NAME, (YEAR, OLDER_YEAR)):
        year = class_key(row.get(YEAR) or row.get(OLDER_YEAR, ""))
        if (label := visits.get((row[PATIENT], year))) is not None:
            entries.append(Row(row[IMAGE_NAME], label, row[PATIENT]))
    classes = CLASSES if positive == LABEL else (f"no {positive}", positive)
    return index_of_tables(data_dir, classes, entries, _key)


def _rows(
    data_dir: Path, pattern: str, *columns: str | tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str]]]:
    for table in tables.find(data_dir, pattern, INSTRUCTIONS):
        yield from tables.read(table, columns)


def _key(image_name: str) -> str:
    """`image_file_name` may lack the suffix and differ in case from the disk."""
    return image_name.rpartition("/")[2].casefold().removesuffix(".tiff").removesuffix(".tif")


DESCRIPTION = (
    "About 205,000 chest radiographs of the PLCO trial; label: likely cardiac abnormality."
)
INSTRUCTIONS = """
request "Lung Screening" data and the lung X-ray images of PLCO from the NCI's CDAS
(https://cdas.cancer.gov/plco), put the tables lung_screen_data_*.csv and
lung_xryimg25_data_*.csv and the TIFF images into one folder, sub-folders allowed, and give it
as data.dir
"""
