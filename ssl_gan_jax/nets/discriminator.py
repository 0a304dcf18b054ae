"""The strided discriminator of both papers, which is also 3N-GAN's classifier."""

import jax.numpy as jnp
from flax import linen as nn

from ssl_gan_jax.nets.convolution import StridedConv, explainable, stages
from ssl_gan_jax.nets.noise import Dropout, Noise
from ssl_gan_jax.nets.norm import BatchNorm, VirtualBatchNorm, WeightNorm
from ssl_gan_jax.types import Array


class Discriminator(nn.Module):
    """4x4 convolutions of stride 2 down to a 4x4 map, leaky ReLU .2, then one linear layer.

    There are three stages at 32x32, four at 64x64, five at 128x128. The first has `width` channels;
    each further stage doubles them up to 8 `width`. The first has no normalisation, as in DCGAN.

    Attributes:
      outputs: number of logits.
      width: see above.
      norm: "batch" (DCGAN, 3N-GAN), "weight" (Salimans et al.; all layers), "virtual" or "none".
      noise: standard deviation of the noise on the input.
      dropout: rates on the input, and after the first stage and before the last layer. Madani et
        al. mention dropout; places and rates are those of Salimans' code.
      dtype: of the layers.
    """

    outputs: int
    width: int = 64
    norm: str = "batch"
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.0)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, train: bool, reference: Array | None = None
    ) -> tuple[Array, Array]:
        """Images [N,H,W,1] -> logits [N,outputs] float32 and features [N,F] before the last layer.

        `reference` [R,H,W,1] is virtual batch norm's reference batch; the results leave it out.
        """
        references = 0 if reference is None else len(reference)
        h = x if reference is None else jnp.concatenate([reference, x])
        n = stages(h.shape[1], 4)
        h = Dropout(self.dropout[0])(Noise(self.noise)(h, train), train)
        for i in range(n):
            width = min(2**i, 8) * self.width
            if self.norm == "weight":
                h = explainable(self, WeightNorm(width, "conv", dtype=self.dtype)(h))
            else:
                normalise = i > 0 and self.norm in ("batch", "virtual")
                conv = StridedConv(width, use_bias=not normalise, dtype=self.dtype)
                h = explainable(self, conv(h))
                if normalise:
                    norm = BatchNorm() if self.norm == "batch" else VirtualBatchNorm(references)
                    h = norm(h, train)
            h = nn.leaky_relu(h, 0.2)
            if i == 0:
                h = Dropout(self.dropout[1])(h, train)
        features = h[references:].reshape(len(x), -1)
        h = Dropout(self.dropout[1])(features, train)
        if self.norm == "weight":
            logits = WeightNorm(self.outputs, learn_scale=True, dtype=self.dtype)(h)
        else:
            init = nn.initializers.normal(0.02)
            logits = nn.Dense(self.outputs, kernel_init=init, dtype=self.dtype)(h)
        return logits.astype(jnp.float32), features.astype(jnp.float32)
