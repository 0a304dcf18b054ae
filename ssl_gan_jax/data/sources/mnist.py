"""MNIST digits, LeCun et al. 1998, to check the methods against Salimans et al. 2016."""

from pathlib import Path

from ssl_gan_jax.data.index import Index, index_of_npz


def index(data_dir: Path) -> Index:
    """List `mnist.npz` of Keras: 60,000 digits to train, 10,000 to test. Use equalize='none'."""
    parts = {split: (f"x_{split}", f"y_{split}") for split in ("train", "test")}
    return index_of_npz(data_dir, "mnist", "0123456789", parts)


DESCRIPTION = "70,000 handwritten digits, 28x28."
INSTRUCTIONS = """
put https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz into data.dir
"""
