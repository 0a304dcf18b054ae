"""PneumoniaMNIST of MedMNIST v2, Yang et al., Scientific Data 2023; CC BY 4.0."""

from pathlib import Path

from ssl_gan_jax.data.index import Index, index_of_npz


def index(data_dir: Path) -> Index:
    """List `pneumoniamnist.npz`: 4,708 to train, 524 to validate, 624 to test.

    Kermany's images at 28x28 without their names: patients are unknown, and train and val share
    some. Each image counts as a patient of its own.
    """
    parts = {part: (f"{part}_images", f"{part}_labels") for part in ("train", "val", "test")}
    return index_of_npz(data_dir, "pneumoniamnist", ("normal", "pneumonia"), parts)


DESCRIPTION = "5,856 chest radiographs of children at 28x28, normal or pneumonia."
INSTRUCTIONS = """
put pneumoniamnist.npz from https://zenodo.org/records/10519652 into data.dir
"""
