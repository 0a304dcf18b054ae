"""The CNN baseline of Madani et al. 3N-GAN's classifier is `Discriminator` with K outputs."""

import jax.numpy as jnp
from flax import linen as nn

from ssl_gan_jax.nets.convolution import explainable, stages
from ssl_gan_jax.nets.noise import Dropout
from ssl_gan_jax.nets.norm import BatchNorm
from ssl_gan_jax.types import Array


class Cnn(nn.Module):
    """The conventional counterpart of `Discriminator`: 3x3 convolutions and max-pooling.

    Madani et al. compare with a CNN of about the same number of layers and parameters. Here the
    depth is the same. The kernels are 3x3 instead of 4x4, so there are 4/3 as many channels:
    9 (4/3)^2 = 16.
    """

    outputs: int
    width: int = 64
    dropout: tuple[float, float] = (0.0, 0.0)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Images [N,H,W,1] -> logits [N,outputs] float32 and features [N,F]."""
        h = Dropout(self.dropout[0])(x, train)
        for i in range(stages(x.shape[1], 4)):
            width = round(min(2**i, 8) * self.width * 4 / 3)
            h = explainable(self, nn.Conv(width, (3, 3), use_bias=False, dtype=self.dtype)(h))
            h = nn.relu(BatchNorm()(h, train))
            h = nn.max_pool(h, (2, 2), (2, 2))
            if i == 0:
                h = Dropout(self.dropout[1])(h, train)
        features = h.reshape(len(x), -1)
        logits = nn.Dense(self.outputs, dtype=self.dtype)(Dropout(self.dropout[1])(features, train))
        return logits.astype(jnp.float32), features.astype(jnp.float32)
