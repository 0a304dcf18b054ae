"""The generators of both papers: z [N,Z] -> images [N,size,size,1] in [-1,1]."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_gan_jax.nets.convolution import StridedConvTranspose, stages
from ssl_gan_jax.nets.norm import BatchNorm, VirtualBatchNorm
from ssl_gan_jax.types import Array, Key

_INIT = nn.initializers.normal(0.02)


def latent(key: Key, n: int, *, z_dim: int, prior: str = "normal") -> Array:
    """[n,z_dim] latent vectors from N(0,1) or, with prior "uniform", from U(0,1) (Salimans)."""
    draw = jax.random.uniform if prior == "uniform" else jax.random.normal
    return draw(key, (n, z_dim))


class Generator(nn.Module):
    """Projects z to a small map, doubles the map's side in each stage, and ends with tanh.

    kind "upsample" (Madani et al., section 2.2): 8x8, then upsampling and 3x3 convolution, leaky
      ReLU. Four stages give their 128x128.
    kind "dcgan" (Radford et al. 2015; 3N-GAN): 4x4, then 4x4 transposed convolutions, ReLU. Four
      stages give 3N-GAN's 64x64.

    Each stage halves the channels; there are at most 8 `width`, and `width` before the image: 512,
    256, 128, 64 for width 64 at 64x64.
    """

    size: int
    kind: str = "dcgan"
    width: int = 64
    norm: str = "batch"  # or "virtual"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, train: bool, reference: Array | None = None) -> Array:
        """`reference` [R,Z] is virtual batch norm's reference batch; the result leaves it out."""
        upsample = self.kind == "upsample"
        smallest = 8 if upsample else 4
        n = stages(self.size, smallest)
        widths = [min(2**i, 8) * self.width for i in reversed(range(n))]
        references = 0 if reference is None else len(reference)

        def normalise_and_activate(h: Array) -> Array:
            norm = VirtualBatchNorm(references) if self.norm == "virtual" else BatchNorm()
            h = norm(h, train)
            return nn.leaky_relu(h, 0.2) if upsample else nn.relu(h)

        h = z if reference is None else jnp.concatenate([reference, z])
        # Without bias: the normalisation that follows would remove it.
        project = nn.Dense(
            smallest**2 * widths[0], use_bias=False, kernel_init=_INIT, dtype=self.dtype
        )
        h = normalise_and_activate(project(h).reshape(-1, smallest, smallest, widths[0]))
        for width in widths[1:]:
            h = StridedConvTranspose(width, upsample, use_bias=False, dtype=self.dtype)(h)
            h = normalise_and_activate(h)
        x = StridedConvTranspose(1, upsample, dtype=self.dtype)(h)
        return jnp.tanh(x[references:].astype(jnp.float32))
