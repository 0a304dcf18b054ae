"""PneumoniaMNIST (MedMNIST v2): few labels against published GANs, all labels against MedMNIST.

    --config=configs/pneumonia_mnist.py:method=ssl_gan,labels=10,seed=0 --config.data.dir=DIR

`labels` per class, 0 for all; the official validation and test images. The 28x28 images are
enlarged to 32x32, which adds nothing to them. All other training images take part without labels
in `ssl_gan`; the other methods see the labelled ones only. The function `sweep` holds the few
labels of the published comparison (5, 10, 20, 50 per class), `full` all labels. DIR holds
`pneumoniamnist.npz`.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(arg, method="ssl_gan", labels=10, seed=0, steps=1000, preset="default")
    config = base(a.method, data="pneumonia_mnist", size=32, seed=a.seed, preset=a.preset)
    config.data.labels_per_class = a.labels
    config.method.width = 32
    config.train.batch_size = 32
    as_ssl_gan(config.method)
    config.train.steps = a.steps
    config.train.evaluate_every = 100
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Few labels: every method, five draws of labels."""
    for labels in (5, 10, 20, 50):
        for method in ("supervised", "ssl_gan", "multitask", "ec_gan", "three_n_gan"):
            for seed in range(5):
                add(method=method, labels=labels, seed=seed)


def full(add) -> None:  # noqa: ANN001
    """All labels."""
    for method in ("supervised", "ssl_gan"):
        for seed in range(3):
            add(method=method, labels=0, seed=seed)
