"""Madani et al. 2018, Fig. 4: an unsupervised GAN makes 128x128 chest X-rays, one for each class.

    --config=configs/synthesis.py:only=normal,seed=0 --config.data.dir=DIR
    --config=configs/synthesis.py:only=pneumonia,seed=0 --config.data.dir=DIR

On Kermany's training images; `data=folder` (or another source) and `only=CLASS` for others, an
empty `only` for all images together. The paper trains 500 epochs on PLCO; recognisable chests
are there after 250 steps here, ribs after 750.
"""

import ml_collections

from ssl_gan_jax.config import base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(arg, data="kermany", only="normal", seed=0, size=128, width=32, steps=3000)
    config = base("dcgan", data=a.data, size=a.size, seed=a.seed)
    config.data.only_class = a.only
    config.method.update(width=a.width, generator="upsample", lr_d=2e-4, lr_g=2e-4, beta1=0.5)
    config.train.batch_size = 16
    config.train.steps = a.steps
    config.train.checkpoint_every = config.train.sample_every = 250
    return config


def sweep(add) -> None:  # noqa: ANN001
    """One GAN for each of Kermany's classes, as Fig. 4 of the paper."""
    for only in ("normal", "pneumonia"):
        add(only=only)
