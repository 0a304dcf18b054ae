"""Several findings in one image, few labelled images: made radiographs, or NIH ChestX-ray14.

    --config=configs/findings.py:method=ssl_gan,images=100,seed=0
    --config=configs/findings.py:data=nih14,images=100 --config.data.dir=DIR

`method` is `ssl_gan`, `supervised` or another that can learn findings; `images` are the labelled
ones, drawn so that every finding appears (data/splits.py); the others train `ssl_gan` without
labels. The phantom has an enlarged heart, effusion, a nodule and a pneumothorax, all independent of
the others. For `nih14` DIR holds Data_Entry_2017*.csv, the images and, for the official division,
train_val_list.txt and test_list.txt; `data=folder` reads a table of yours with a column for each.
`--config.data.options.findings=Effusion,Mass` takes some findings instead of all. Scores are means
over the findings that an image set both shows and lacks; result.json and the model card have those
of each finding too.
"""

import ml_collections

from ssl_gan_jax.config import as_ssl_gan, base, parse_arg

ARGUMENTS = {
    "method": "ssl_gan",
    "data": "phantom",
    "images": 100,
    "seed": 0,
    "size": 32,
    "preset": "default",
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(arg, **ARGUMENTS)
    config = base(a.method, data=a.data, size=a.size, seed=a.seed, preset=a.preset)
    config.data.options = {"findings": "all"}
    if a.data == "phantom":
        config.data.options.update(images=4000, site="A")
    config.data.images = a.images
    as_ssl_gan(config.method)
    config.train.steps = 1000
    config.train.batch_size = 32
    return config


def sweep(add) -> None:  # noqa: ANN001
    """Two budgets, five draws of each, with the generator and without."""
    for images in (25, 100):
        for method in ("supervised", "ssl_gan"):
            for seed in range(5):
                add(method=method, images=images, seed=seed)
