"""The multi-tasking discriminator that H compares with: D tells real from generated and classes.

    L_D = L_s + L_d                    L_s = -E log p(y | x)
    L_d = -E log D(x) - E log(1 - D(G(z)))
    L_g = -E log D(G(z))

One DCGAN discriminator with two heads on the same features: K class logits and one real/fake
logit. H cites Salimans et al. 2016 for it without giving a formula; `ssl_gan` is the K+1 form of
the same idea, and two heads are the plain reading of "multi-tasking". Order of updates: D, then G
against the new D, on the same generated images. Running statistics of batch norm, which
evaluation uses, come from real images alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_gan_jax import players
from ssl_gan_jax.augment import augment
from ssl_gan_jax.errors import check_choice
from ssl_gan_jax.losses import cross_entropy, draw_z, says_fake, says_real
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """DCGAN's numbers, as H uses it; the shift and the averaged weights are ours."""

    num_classes: int = 2
    size: int = 64  # pixels
    generator: str = "dcgan"  # "upsample"
    width: int = 64
    z_dim: int = 100
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.0)
    lr_d: float = 2e-4
    lr_g: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    shift: int = 6  # pixels, on real and generated images alike
    flip: bool = False
    dtype: str = "float32"


PAPER = {"shift": 0, "ema": 0.0}


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    check_choice("method.generator", config.generator, ("upsample", "dcgan"))
    dtype = jnp.dtype(config.dtype)
    k = config.num_classes
    net_g = Generator(config.size, config.generator, config.width, dtype=dtype)
    net_d = Discriminator(k + 1, config.width, "batch", config.noise, config.dropout, dtype)
    opt_d = optax.adam(config.lr_d, b1=config.beta1)
    opt_g = optax.adam(config.lr_g, b1=config.beta1)

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_g, key_d = jax.random.split(key, 3)
        g = players.create(net_g, opt_g, key_g, draw_z(key_g, len(batch.image), config.z_dim))
        d = players.create(net_d, opt_d, key_d, batch.image)
        return TrainState(jnp.int32(0), rng, {"G": g, "D": d}, {})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key_z, key_x, key_fake, key_g, key_d1, key_d2, key_d3 = players.step_keys(state, 7)
        g, d = state.players["G"], state.players["D"]

        def generate(params):
            z = draw_z(key_z, len(batch.image), config.z_dim)
            fake, stats = players.run(net_g, params, g.stats, key_g, z)
            return augment(key_fake, fake, config.shift, config.flip), stats

        x = augment(key_x, batch.image, config.shift, config.flip)
        fake, backward_g, stats_g = jax.vjp(generate, g.params, has_aux=True)

        def loss_d(params):
            (real, _), stats = players.run(net_d, params, d.stats, key_d1, x)
            (generated, _), _ = players.run(net_d, params, d.stats, key_d2, fake)
            l_s = cross_entropy(real[:, :k], batch.label)
            l_d = says_real(real[:, k]) + says_fake(generated[:, k])
            return l_s + l_d, (stats, {"L_D": l_s + l_d, "L_s": l_s, "L_d": l_d})

        (_, (stats_d, metrics)), grads = jax.value_and_grad(loss_d, has_aux=True)(d.params)
        d = players.update(d, grads, stats_d, opt_d, state.step, config.ema)

        def loss_g(fake):
            (generated, _), _ = players.run(net_d, d.params, d.stats, key_d3, fake)
            return says_real(generated[:, k])

        l_g, grad_fake = jax.value_and_grad(loss_g)(fake)
        (grads,) = backward_g(grad_fake)
        g = players.update(g, grads, stats_g, opt_g, state.step, config.ema)
        state = state.replace(step=state.step + 1, players={"G": g, "D": d})
        return state, {**metrics, "L_g": l_g}

    def predict(state: TrainState, images: Array) -> Array:
        return players.run_averaged(net_d, state.players["D"], images)[0][:, :k]

    def sample(state: TrainState, key: Key, n: int) -> Array:
        return players.run_averaged(net_g, state.players["G"], draw_z(key, n, config.z_dim))

    return Method(init, train_step, predict, sample)
