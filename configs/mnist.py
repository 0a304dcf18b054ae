"""Salimans et al. 2016, Table 1: MNIST with few labels and feature matching, their networks.

    --config=configs/mnist.py:labels=100,seed=0 --config.data.dir=DIR

A check of the semi-supervised loss against published numbers (errors of 10,000 at 20 / 50 / 100 /
200 labels: 1677 / 221 / 93 / 90). `labels` is the total. DIR holds `mnist/mnist.npz` or
`mnist.npz`, as Keras distributes it. Theirs are 300 epochs, the default of `epochs`.

D runs ahead within the first fifty steps, and with it L_G to 10 and more; G is back after two or
three epochs, and from the fifth on the accuracy rises. Nothing is wrong with such a start.
"""

import ml_collections

from ssl_gan_jax.config import base, parse_arg
from ssl_gan_jax.errors import check_choice

SETTINGS = {
    "ssl_gan": {
        "nets": "mlp",
        "z_prior": "uniform",
        "vbn": "none",
        "k_logits": True,
        "loss_g": "feature_matching_l2",
        "lr_d": 3e-3,
        "lr_g": 3e-3,
        "eps_root": 1e-8,
        "ema": 0.9999,
    },
    "supervised": {"net": "mlp", "lr": 3e-3, "ema": 0.9999},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(arg, method="ssl_gan", labels=100, seed=0, epochs=300)
    config = base(a.method, data="mnist", size=28, seed=a.seed)
    config.data.equalize = "none"
    config.data.images = a.labels
    config.method.shift = 0
    config.method.update(SETTINGS[check_choice("method", a.method, SETTINGS)])
    config.train.batch_size = 100
    config.train.steps = a.epochs * 540  # of the 54,000 images that validation leaves
    config.train.evaluate_every = config.train.checkpoint_every = 540
    config.train.sample_every = 5400
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Three draws of 100 labels."""
    for seed in range(3):
        add(labels=100, seed=seed)
