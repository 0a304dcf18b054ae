"""Haque & Haque 2021, Table 1: few images, all labelled, tested on the 624 of Kermany et al. 2018.

    --config=configs/chex.py:method=three_n_gan,images=200,seed=0 --config.data.dir=DIR

`method` is any of ssl_gan_jax/methods (`supervised` is the paper's vanilla classifier), `images`
the total, even over the classes, `size` 64 as in the paper, or 32. As in the paper: batches of 10,
100 epochs, no image beyond the labelled ones; tau .9, lambda .01, alpha .3. Adam with 2e-4 and
beta1 .5 is DCGAN's. `pool=all` gives `ssl_gan` the rest of train, unlabelled.
Gave (32x32, width 32, 2,000 steps, seeds 0 to 2; results/chex.jsonl): test AUROC .91 to .94 for all
methods, no difference between them. DIR holds `chest_xray/` as published (doi 10.17632/rscbjbr9sj).
"""

import ml_collections

from ssl_gan_jax.config import base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(
        arg,
        method="three_n_gan",
        images=200,
        seed=0,
        size=64,
        preset="default",
        pool="labelled",
    )
    config = base(a.method, data="kermany", size=a.size, seed=a.seed, preset=a.preset)
    if a.preset == "paper":
        config.data.equalize = "none"  # the paper normalises, and does not equalise
    config.data.images = a.images
    config.data.pool = a.pool
    config.method.width = 64
    config.train.batch_size = 10
    config.train.epochs = 100
    config.train.evaluate_every = a.images // 2  # five epochs
    config.train.checkpoint_every = 500
    return config


METHODS = ("supervised", "multitask", "ec_gan", "three_n_gan")


def sweep(add) -> None:  # noqa: ANN001
    """Table 1."""
    for images in (200, 500, 750, 1000, 2000):
        for method in METHODS:
            for seed in range(5):
                add(method=method, images=images, seed=seed)


def controls(add) -> None:  # noqa: ANN001
    """What of 3N-GAN does the work? Without pseudo-labels, without KL, with a frozen generator."""
    without = [{"method.lambda_": 0.0, "method.lambda_g": 0.0}, {"method.alpha": 0.0}]
    for changes in (*without, {"method.lr_g": 0.0}):
        for seed in range(5):
            add(method="three_n_gan", images=200, seed=seed, **changes)


def figure2(add) -> None:  # noqa: ANN001
    """Fig. 2: images of DCGAN and of 3N-GAN, from the same z; also at 32x32."""
    length = {"train.epochs": 0, "train.steps": 2000, "train.evaluate_every": 500}
    for size in (64, 32):
        for method in ("dcgan", "three_n_gan"):
            for seed in range(3):
                add(method=method, images=2000, size=size, seed=seed, **length)


def tuning(add) -> None:  # noqa: ANN001
    """Four settings of each method, by validation alone, on a seed outside of the sweep's."""
    for method in METHODS:
        lr = "method.lr" if method == "supervised" else "method.lr_c"
        for changes in ({}, {"method.noise": 0.1}, {"method.ema": 0.999}, {lr: 5e-4}):
            if method == "multitask" and lr in changes:
                changes = {"method.lr_d": 5e-4}  # its classifier is D
            fixed = {"images": 200, "seed": 100, "train.test_at_end": False}
            add(method=method, **fixed, **changes)
