"""Shenzhen and Montgomery radiographs, Jaeger et al., Quant. Imaging Med. Surg. 2014; public."""

import re
from pathlib import Path, PurePosixPath

from ssl_gan_jax.data.images import files_in
from ssl_gan_jax.data.index import Index, Row, index_of_files
from ssl_gan_jax.errors import UserError

SITES = {  # site: its folder
    "shenzhen": "ChinaSet_AllFiles/CXR_png",
    "montgomery": "MontgomerySet/CXR_png",
}

_NAME = re.compile(r"(?:CHN|MCU)CXR_(\d+)_([01])")


def index(data_dir: Path) -> Index:
    """List both sites, or the one that is there; the file name ends in its label, 0 or 1."""
    if not any((data_dir / folder).is_dir() for folder in SITES.values()):
        raise UserError(f"neither {' nor '.join(SITES.values())} in {data_dir}")
    rows = []
    for site, folder in SITES.items():
        for name in files_in(data_dir / folder):  # none in a folder that is not there
            if not (match := _NAME.fullmatch((path := PurePosixPath(folder, name)).stem)):
                raise UserError(f"{path.name}: expected a name like CHNCXR_0001_0.png")
            rows.append(Row(str(path), int(match[2]), f"{site}-{match[1]}", site=site))
    return index_of_files(data_dir, ("normal", "tuberculosis"), rows)


DESCRIPTION = "662 radiographs of Shenzhen and 138 of Montgomery, normal or tuberculosis."
INSTRUCTIONS = """
download ChinaSet_AllFiles.zip and NLM-MontgomeryCXRSet.zip from
https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets, unpack both into one
folder, and give it as data.dir
"""
