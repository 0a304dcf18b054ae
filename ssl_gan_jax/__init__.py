"""Semi-supervised GANs for chest X-ray classification.

method = ssl_gan_jax.build(ssl_gan_jax.defaults("ssl_gan"))
state = method.init(key, batch)
state, metrics = jax.jit(method.train_step, donate_argnums=0)(state, batch)
"""

from ssl_gan_jax.methods import build, defaults
from ssl_gan_jax.types import Batch, Method, Player, TrainState

__all__ = ["Batch", "Method", "Player", "TrainState", "build", "defaults"]
