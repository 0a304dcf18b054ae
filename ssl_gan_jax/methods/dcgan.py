"""The unsupervised GAN of M section 2.2: one network makes chest X-rays, one tells them apart.

    J_D = -1/2 E log D(x) - 1/2 E log(1 - D(G(z)))
    J_G = -1/2 E log D(G(z))

D(x) = P(real); M's text has it the other way round, its equations as here. M trains one such GAN
for each class. Labels are not used. Order of updates in a step: D, then G against the new D, on
the same generated images (one forward pass of G).
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_gan_jax import players
from ssl_gan_jax.augment import augment
from ssl_gan_jax.errors import check_choice
from ssl_gan_jax.losses import draw_z, says_fake, says_real
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """M gives the networks' shape; learning rates and initialisation are DCGAN's."""

    num_classes: int = 2  # unused; every method has it
    size: int = 128  # pixels
    generator: str = "upsample"  # "dcgan" (H)
    width: int = 64
    z_dim: int = 100
    norm: str = "batch"  # D's; "weight", "none"
    noise: float = 0.0
    dropout: tuple[float, float] = (0.0, 0.25)
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
    check_choice("method.norm", config.norm, ("batch", "weight", "none"))
    dtype = jnp.dtype(config.dtype)
    net_g = Generator(config.size, config.generator, config.width, dtype=dtype)
    net_d = Discriminator(1, config.width, config.norm, config.noise, config.dropout, dtype)
    opt_d = optax.adam(config.lr_d, b1=config.beta1)
    opt_g = optax.adam(config.lr_g, b1=config.beta1)

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_g, key_d = jax.random.split(key, 3)
        g = players.create(net_g, opt_g, key_g, draw_z(key_g, len(batch.image), config.z_dim))
        d = players.create(net_d, opt_d, key_d, batch.image)
        return TrainState(step=jnp.int32(0), rng=rng, players={"G": g, "D": d}, reference={})

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
            (real_logit, _), stats = players.run(net_d, params, d.stats, key_d1, x)
            (fake_logit, _), stats = players.run(net_d, params, stats, key_d2, fake)
            j_d = 0.5 * says_real(real_logit) + 0.5 * says_fake(fake_logit)
            seen = {"D_real": jax.nn.sigmoid(real_logit), "D_fake": jax.nn.sigmoid(fake_logit)}
            return j_d, (stats, {name: p.mean() for name, p in seen.items()})

        (j_d, (stats_d, seen)), grads = jax.value_and_grad(loss_d, has_aux=True)(d.params)
        d = players.update(d, grads, stats_d, opt_d, state.step, config.ema)

        def loss_g(fake):
            (fake_logit, _), _ = players.run(net_d, d.params, d.stats, key_d3, fake)
            return 0.5 * says_real(fake_logit)

        j_g, grad_fake = jax.value_and_grad(loss_g)(fake)
        (grads,) = backward_g(grad_fake)
        g = players.update(g, grads, stats_g, opt_g, state.step, config.ema)
        metrics = {"J_D": j_d, "J_G": j_g, **seen}
        return state.replace(step=state.step + 1, players={"G": g, "D": d}), metrics

    def sample(state: TrainState, key: Key, n: int) -> Array:
        return players.run_averaged(net_g, state.players["G"], draw_z(key, n, config.z_dim))

    return Method(init, train_step, predict=None, sample=sample)
