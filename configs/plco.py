"""Madani et al. 2018, Table 1: few labels per class on PLCO, `ssl_gan` against `supervised`, 32x32.

    --config=configs/plco.py:method=ssl_gan,labels=10,seed=0 --config.data.dir=DIR

`labels` per class: 10, 25, 100, 250, 500, 1000 (the paper's 2000 of each need more images than its
own 80:10:10 split leaves), 0 for all. All other training images take part without labels. DIR holds
PLCO's images and tables (`python -m ssl_gan_jax.main` says which, if they are not there).
`data=kermany` runs the same experiment on public images. `supervised` is here the network of
`ssl_gan` without its generator (with --config.method.norm=batch, as is more common, batch
normalised); --config.method.net=cnn --config.method.norm=batch makes it a conventional CNN with
pooling, of the same depth and number of parameters. Histograms are equalised at full size; Madani
et al. equalise after rescaling to 128x128. The paper leaves open, and validation chose: 1,000 steps
of 32 labelled and 32 unlabelled images, Adam with 5e-4 and beta1 .5, noise .1, dropout .25, w 1/2.

Gave on Kermany, seeds 0 to 4 (results/plco.jsonl): test AUROC .901 against .846 at 10 labels per
class, .942 against .931 at 1000; 93 to 280 s a run of `ssl_gan` on one CPU core.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(
        arg, method="ssl_gan", labels=10, seed=0, data="plco", size=32, steps=1000, preset="default"
    )
    config = base(a.method, data=a.data, size=a.size, seed=a.seed, preset=a.preset)
    config.data.labels_per_class = a.labels
    config.train.steps = a.steps
    config.train.batch_size = 32
    config.train.evaluate_every = 100
    as_ssl_gan(config.method)
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Table 1 and Fig. 5: a seed draws the labels, the weights and the order."""
    for labels in (10, 25, 100, 250, 500, 1000):
        for seed in range(5):
            add(method="supervised", labels=labels, seed=seed)
            add(method="supervised", labels=labels, seed=seed, **{"method.norm": "batch"})
            add(method="ssl_gan", labels=labels, seed=seed)


def tuning(add) -> None:  # noqa: ANN001
    """Settings of each method, by validation alone, on a seed outside of the sweep's."""
    fixed = {"seed": 100, "train.test_at_end": False}
    add(method="ssl_gan", labels=10, **fixed)
    add(method="ssl_gan", labels=10, **fixed, **{"method.lr_d": 2e-4, "method.lr_g": 2e-4})
    add(method="ssl_gan", labels=10, **fixed, **{"method.noise": 0.3})
    for labels in (10, 100):
        add(method="supervised", labels=labels, **fixed)
        add(method="supervised", labels=labels, **fixed, **{"method.lr": 1e-4})
        add(method="supervised", labels=labels, **fixed, **{"method.noise": 0.3})
        add(method="supervised", labels=labels, **fixed, **{"method.norm": "batch"})


def consistency(add) -> None:  # noqa: ANN001
    """Not in the paper: a consistency term, whose weight validation chose of 1 and 10."""
    for weight in (1.0, 10.0):
        fixed = {"labels": 10, "seed": 100, "train.test_at_end": False}
        add(method="ssl_gan", **fixed, **{"method.consistency": weight})
    for seed in range(5):
        add(method="ssl_gan", labels=10, seed=seed, **{"method.consistency": 1.0})
