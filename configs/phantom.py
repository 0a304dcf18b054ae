"""The default experiment: few labels on made radiographs, no data needed.

    --config=configs/phantom.py:method=ssl_gan,labels=10,seed=0

`method` is any of ssl_gan_jax/methods, `labels` per class. An enlarged heart (cardiothoracic
ratio above .5) against a normal one, 32x32.
"""

import ml_collections

from ssl_gan_jax.config import base, parse_arg


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; `arg` as in the docstring of the file."""
    a = parse_arg(arg, method="ssl_gan", labels=10, seed=0, preset="default")
    config = base(a.method, data="phantom", size=32, seed=a.seed, preset=a.preset)
    config.data.options = {"images": 4000, "site": "A"}
    config.data.labels_per_class = a.labels
    config.train.steps = 2000
    return config
