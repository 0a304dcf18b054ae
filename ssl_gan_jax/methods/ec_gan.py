"""EC-GAN (Haque 2021), H's predecessor: a separate classifier learns from what a GAN makes.

    L_C = L_s + lambda L_u
    L_D = L_d(D(x), 1) + L_d(D(G(z)), 0)
    L_g = L_d(D(G(z)), 1)

    L_s       cross-entropy on labelled images
    L_u       cross-entropy of C on generated images against its own predictions above tau
    L_d       binary cross-entropy

The GAN is a DCGAN of its own: nothing of C reaches G. tau = .7 is the paper's (its notebook has
.2, which with two classes keeps everything) and lambda = .1 the notebook's. One optimiser step of
C on the sum, where the notebook takes two. Order of updates: D, C, G, on the same generated
images (one forward pass of G). C's running statistics come from real images (`fake_stats=True`:
from both).
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_gan_jax import players
from ssl_gan_jax.augment import augment
from ssl_gan_jax.errors import check_choice
from ssl_gan_jax.losses import cross_entropy, draw_z, pseudo_label, says_fake, says_real
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """EC-GAN's numbers; DCGAN's where it gives none."""

    num_classes: int = 2
    size: int = 64  # pixels
    generator: str = "dcgan"  # "upsample"
    width: int = 64
    z_dim: int = 100
    tau: float = 0.7
    lambda_: float = 0.1
    pseudo_mean: str = "kept"  # "batch"
    pseudo_soft: bool = False
    fake_stats: bool = False
    noise: float = 0.0  # D's and C's
    dropout: tuple[float, float] = (0.0, 0.0)  # D's and C's
    lr_c: float = 2e-4
    lr_d: float = 2e-4
    lr_g: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    shift: int = 6  # pixels, on real and generated images alike
    flip: bool = False
    dtype: str = "float32"


PAPER = {"fake_stats": True, "shift": 0, "ema": 0.0}


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    check_choice("method.generator", config.generator, ("upsample", "dcgan"))
    check_choice("method.pseudo_mean", config.pseudo_mean, ("kept", "batch"))
    dtype = jnp.dtype(config.dtype)
    net_g = Generator(config.size, config.generator, config.width, dtype=dtype)
    body = (config.width, "batch", config.noise, config.dropout, dtype)
    net_d, net_c = Discriminator(1, *body), Discriminator(config.num_classes, *body)
    opt_g = optax.adam(config.lr_g, b1=config.beta1)
    opt_d = optax.adam(config.lr_d, b1=config.beta1)
    opt_c = optax.adam(config.lr_c, b1=config.beta1)

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_g, key_d, key_c = jax.random.split(key, 4)
        g = players.create(net_g, opt_g, key_g, draw_z(key_g, len(batch.image), config.z_dim))
        d = players.create(net_d, opt_d, key_d, batch.image)
        c = players.create(net_c, opt_c, key_c, batch.image)
        return TrainState(jnp.int32(0), rng, {"G": g, "D": d, "C": c}, {})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key_z, key_x, key_fake, key_g, *keys = players.step_keys(state, 9)
        g, d, c = (state.players[name] for name in "GDC")

        def generate(params):
            z = draw_z(key_z, len(batch.image), config.z_dim)
            fake, stats = players.run(net_g, params, g.stats, key_g, z)
            return augment(key_fake, fake, config.shift, config.flip), stats

        x = augment(key_x, batch.image, config.shift, config.flip)
        fake, backward_g, stats_g = jax.vjp(generate, g.params, has_aux=True)

        def loss_d(params):
            (real_logit, _), stats = players.run(net_d, params, d.stats, keys[0], x)
            (fake_logit, _), stats = players.run(net_d, params, stats, keys[1], fake)
            return says_real(real_logit) + says_fake(fake_logit), stats

        (l_d, stats_d), grads = jax.value_and_grad(loss_d, has_aux=True)(d.params)
        d = players.update(d, grads, stats_d, opt_d, state.step, config.ema)

        def loss_c(params):
            (real, _), stats = players.run(net_c, params, c.stats, keys[2], x)
            (generated, _), both = players.run(net_c, params, stats, keys[3], fake)
            l_s = cross_entropy(real, batch.label)
            l_u = pseudo_label(generated, config.tau, config.pseudo_mean, config.pseudo_soft)
            l_c = l_s + config.lambda_ * l_u.loss
            metrics = {"L_C": l_c, "L_s": l_s, "L_u": l_u.loss}
            return l_c, (both if config.fake_stats else stats, metrics, l_u)

        grad_c = jax.value_and_grad(loss_c, has_aux=True)
        (_, (stats_c, metrics, l_u)), grads = grad_c(c.params)
        c = players.update(c, grads, stats_c, opt_c, state.step, config.ema)

        def loss_g(fake):
            (fake_logit, _), _ = players.run(net_d, d.params, d.stats, keys[4], fake)
            return says_real(fake_logit)

        l_g, grad_fake = jax.value_and_grad(loss_g)(fake)
        (grads,) = backward_g(grad_fake)
        g = players.update(g, grads, stats_g, opt_g, state.step, config.ema)

        metrics |= {"L_d": l_d, "L_g": l_g, "mask_rate": l_u.mask_rate}
        metrics |= {f"pseudo_labels_{i}": l_u.counts[i] for i in range(config.num_classes)}
        return state.replace(step=state.step + 1, players={"G": g, "D": d, "C": c}), metrics

    def predict(state: TrainState, images: Array) -> Array:
        return players.run_averaged(net_c, state.players["C"], images)[0]

    def sample(state: TrainState, key: Key, n: int) -> Array:
        return players.run_averaged(net_g, state.players["G"], draw_z(key, n, config.z_dim))

    return Method(init, train_step, predict, sample)
