"""PneumoniaMNIST of MedMNIST v2, Yang et al., Scientific Data 2023; CC BY 4.0."""

from pathlib import Path

from ssl_gan_jax.data.source import Index, SourceBuilder, index_of_arrays, open_arrays

SPLITS = ("train", "val", "test")


def index(data_dir: Path) -> Index:
    """List `pneumoniamnist.npz`: 4,708 to train, 524 to validate, 624 to test.

    Kermany's images at 28x28 without their names: patients are unknown, and train and val share
    some. Each image counts as a patient of its own.
    """
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    path, arrays = open_arrays(data_dir, "pneumoniamnist", names)
    parts = {s: (arrays[f"{s}_images"], arrays[f"{s}_labels"][:, 0]) for s in SPLITS}
    return index_of_arrays(data_dir, path, ("normal", "pneumonia"), parts)


class Builder(SourceBuilder):
    """5,856 chest radiographs of children at 28x28, normal or pneumonia."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    put pneumoniamnist.npz from https://zenodo.org/records/10519652 into data.dir
    """
    index = staticmethod(index)
