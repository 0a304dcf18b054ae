"""Your own images: a folder with `labels.csv` or one sub-folder per class.

    --config=configs/folder.py:method=ssl_gan,size=32,seed=0 --config.data.dir=DIR

`labels.csv` has the columns path,label[,patient_id][,split], by these names or others that people
give them; an empty label means unlabelled, and such images still train `ssl_gan` and `dcgan`. What
`split` says (train, val or test) holds; patients without it are divided 80:10:10. Give patient_id
where a patient has several images. Columns sex, age, view and site, if there are such, divide the
model card's metrics. Sub-folders may lie within train, val and test.

Of two classes the last is the positive one, which sensitivity is about: normal, healthy, 0 and the
like never are. `--config.data.options.positive=NAME` chooses it, and
`--config.data.options.classes=A,B` the order of all. `python -m ssl_gan_jax.audit` says how the
folder is read, and what is left out. Steps and batches are those of plco.py on Kermany.
"""

import ml_collections

from ssl_gan_jax.config import base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(arg, method="ssl_gan", size=32, seed=0, steps=1000, labels=0, preset="default")
    config = base(a.method, data="folder", size=a.size, seed=a.seed, preset=a.preset)
    config.data.labels_per_class = a.labels
    config.train.steps = a.steps
    config.train.batch_size = 32
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Five seeds with the generator and without; add your own budgets of labels."""
    for method in ("supervised", "ssl_gan"):
        for seed in range(5):
            add(method=method, seed=seed)
