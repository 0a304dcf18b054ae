"""Chest radiographs of children, Kermany et al., Cell 2018, doi:10.17632/rscbjbr9sj; CC BY 4.0."""

import itertools
import re
from pathlib import Path

from ssl_gan_jax.data.images import files_in
from ssl_gan_jax.data.index import Index, Row, index_of_files
from ssl_gan_jax.errors import UserError

KINDS = ("NORMAL", "PNEUMONIA")  # the folders of labels 0 and 1

# Numbers count within a kind: "person1" of the bacterial and of the viral images are two children.
_KAGGLE_PNEUMONIA = re.compile(r"person(\d+)_(bacteria|virus)_\d+", re.IGNORECASE)
_KAGGLE_NORMAL = re.compile(r"((?:NORMAL2-)?IM-\d+)-\d+", re.IGNORECASE)
_MENDELEY = re.compile(r"((?:BACTERIA|VIRUS|NORMAL)-\d+)-\d+", re.IGNORECASE)


def patient_key(file_name: str) -> str:
    """Return the key of the child in a Kaggle or Mendeley file name; `UserError` for any other."""
    if match := _KAGGLE_PNEUMONIA.match(file_name):
        return f"{match[2]}-{match[1]}".lower()
    if match := _KAGGLE_NORMAL.match(file_name) or _MENDELEY.match(file_name):
        return match[1].lower()
    raise UserError(
        f"{file_name}: no patient in this name; expected names like person7_virus_12.jpeg, "
        "IM-0115-0001.jpeg or BACTERIA-1008087-0001.jpeg (data set 'folder' takes any name)"
    )


def index(data_dir: Path, sites: bool = False) -> Index:
    """List `chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}`; Mendeley's release has no `val`.

    The 16 images of Kaggle's `val`, too few to validate with, join `train`. The official test set
    is the 624 images of `test`. They differ from the others as if they came from another hospital:
    with `sites`, 'train' and 'test' are two sites, and no official division.
    """
    root, rows = data_dir / "chest_xray", []
    root = root if root.is_dir() else data_dir
    for split, kind in itertools.product(("train", "val", "test"), KINDS):
        folder = root / split / kind
        if split != "val" and not folder.is_dir():
            raise UserError(
                f"no folder {split}/{kind} in {root}: data.dir should be the folder chest_xray "
                "of the release, or the one that holds it"
            )
        for path in map(folder.joinpath, files_in(folder)):  # none in a folder that is not there
            name, official = path.relative_to(data_dir).as_posix(), split.replace("val", "train")
            row = Row(name, KINDS.index(kind), patient_key(path.name), official)
            rows.append(row._replace(split="", site=official) if sites else row)
    return index_of_files(data_dir, ("normal", "pneumonia"), rows)


DESCRIPTION = "5,856 chest radiographs of children, normal or pneumonia (Kermany et al. 2018)."
INSTRUCTIONS = """
download ChestXRay2017.zip from https://data.mendeley.com/datasets/rscbjbr9sj, or
paultimothymooney/chest-xray-pneumonia from Kaggle, unpack it, and give the folder that holds
chest_xray as data.dir
"""
