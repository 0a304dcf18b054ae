"""Semi-supervised GANs for chest X-ray classification.

method = ssl_gan_jax.build(ssl_gan_jax.defaults("ssl_gan"))
state = method.init(key, batch)
state, metrics = jax.jit(method.train_step, donate_argnums=0)(state, batch)
"""

import os as _os

from ssl_gan_jax.methods import build, defaults
from ssl_gan_jax.types import Batch, Method, Player, TrainState

__all__ = ["Batch", "Method", "Player", "TrainState", "build", "defaults"]

# `python -m ssl_gan_jax.predict` runs commands/predict.py.
__path__.append(_os.path.join(__path__[0], "commands"))
