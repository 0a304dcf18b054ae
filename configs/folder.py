"""Your own images: a folder with `labels.csv` or one sub-folder per class.

    --config=configs/folder.py:method=mean_teacher,size=32,seed=0 --config.data.dir=DIR

`labels.csv` has the columns path,label[,patient_id][,split], by these names or others that people
give them; an empty label means unlabelled, and such images still train most methods. What
`split` says (train, val or test) holds; patients without it are divided 80:10:10. Give patient_id
where a patient has several images. Columns sex, age, view and site, if there are such, divide the
model card's metrics. Sub-folders may lie within train, val and test.

Of two classes the last is the positive one, which sensitivity is about: normal, healthy, 0 and the
like never are. `--config.data.options.positive=NAME` chooses it, and
`--config.data.options.classes=A,B` the order of all. `python -m ssl_gan_jax.audit` says how the
folder is read, and what is left out.

The default is `mean_teacher`, a classifier without a GAN: on Kermany's images no method of
few_labels.py was better at 10 or 25 labels a class (configs/results/README.md), and it takes half
the time of `ssl_gan`. Take `method=ssl_gan` if you want generated images too. `supervised` is worth
trying with `augmentation=strong`. Settings, steps and batches are those of few_labels.py.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(
        arg, method="mean_teacher", size=32, seed=0, steps=1000, labels=0, augmentation="weak",
        preset="default",
    )  # fmt: skip
    config = base(a.method, data="folder", size=a.size, seed=a.seed, preset=a.preset)
    as_ssl_gan(config.method)
    config.method.augmentation = a.augmentation
    config.data.labels_per_class = a.labels
    config.train.steps = a.steps
    config.train.batch_size = 32
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Five seeds without unlabelled images, with them, and with a GAN; add budgets of labels."""
    for seed in range(5):
        add(method="supervised", augmentation="strong", seed=seed)
        add(method="mean_teacher", seed=seed)
        add(method="ssl_gan", seed=seed)
