"""3N-GAN (H): the generator plays against a discriminator and a classifier at once.

    L_c = L_s + lambda L_u + alpha L_kl                                          (H eq. 1)
    L_g = L_d(D(G(z)), 1) + lambda L_cu                                          (H eq. 2)
    L_D = L_d(D(x), 1) + L_d(D(G(z)), 0)                              (conventional, DCGAN)

    L_s       cross-entropy on labelled images
    L_u       cross-entropy of C on generated images against its own predictions above tau
    L_kl      Kullback-Leibler divergence between C's predictions on real and generated images
    L_d       binary cross-entropy
    L_cu      the same loss as L_u, its gradient to G alone

Order of updates: D, C, then G against the new D and C, all on the same generated images (one
forward pass of G). Where H is silent, or its literal form unsound:

  * L_kl pairs unrelated images in H; in expectation that rewards constant predictions. Default
    `kl="marginal"`: between the batch-mean predictions, the real side without gradient.
    `preset=paper` pairs by index and lets both sides move.
  * C's running statistics come from real images (`fake_stats=True`: from both).
  * G's step leaves C and D as they are; L_cu is 0, and so is its gradient, if no prediction
    passes tau.
  * random shifts on every image that a network sees, generated ones included: without them D wins
    within a few epochs of 200 images.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ssl_gan_jax import players
from ssl_gan_jax.augment import augment
from ssl_gan_jax.errors import check_choice
from ssl_gan_jax.losses import cross_entropy, draw_z, kl, pseudo_label, says_fake, says_real
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """H's numbers (section 3); DCGAN's where H gives none."""

    num_classes: int = 2
    size: int = 64  # pixels
    generator: str = "dcgan"  # "upsample"
    width: int = 64
    z_dim: int = 100
    tau: float = 0.9
    lambda_: float = 0.01  # of L_u, in eq. 1
    lambda_g: float = 0.01  # of L_cu, in eq. 2; H has one lambda for both
    alpha: float = 0.3
    kl: str = "marginal"  # "paired"
    kl_direction: str = "real_fake"  # KL(real || fake); "fake_real"
    kl_both: bool = False  # gradient through the real side too
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


PAPER = {"kl": "paired", "kl_both": True, "fake_stats": True, "shift": 0, "ema": 0.0}


def loss_kl(real: Array, fake: Array, config: Config) -> Array:
    """L_kl between C's predictions on real and on generated images; logits [B,K] each -> []."""
    log_p, log_q = jax.nn.log_softmax(real), jax.nn.log_softmax(fake)
    if not config.kl_both:
        log_p = jax.lax.stop_gradient(log_p)
    if config.kl == "marginal":
        log_p, log_q = (jax.nn.logsumexp(x, 0) - jnp.log(len(x)) for x in (log_p, log_q))
    return kl(log_p, log_q) if config.kl_direction == "real_fake" else kl(log_q, log_p)


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    check_choice("method.generator", config.generator, ("upsample", "dcgan"))
    check_choice("method.kl", config.kl, ("marginal", "paired"))
    check_choice("method.kl_direction", config.kl_direction, ("real_fake", "fake_real"))
    check_choice("method.pseudo_mean", config.pseudo_mean, ("kept", "batch"))
    dtype = jnp.dtype(config.dtype)
    net_g = Generator(config.size, config.generator, config.width, dtype=dtype)
    body = (config.width, "batch", config.noise, config.dropout, dtype)
    net_d, net_c = Discriminator(1, *body), Discriminator(config.num_classes, *body)
    opt_g = optax.adam(config.lr_g, b1=config.beta1)
    opt_d = optax.adam(config.lr_d, b1=config.beta1)
    opt_c = optax.adam(config.lr_c, b1=config.beta1)

    def pseudo(logits):
        return pseudo_label(logits, config.tau, config.pseudo_mean, config.pseudo_soft)

    def init(key: Key, batch: Batch) -> TrainState:
        rng, key_g, key_d, key_c = jax.random.split(key, 4)
        g = players.create(net_g, opt_g, key_g, draw_z(key_g, len(batch.image), config.z_dim))
        d = players.create(net_d, opt_d, key_d, batch.image)
        c = players.create(net_c, opt_c, key_c, batch.image)
        return TrainState(jnp.int32(0), rng, {"G": g, "D": d, "C": c}, {})

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key_z, key_x, key_fake, key_g, *keys = players.step_keys(state, 10)
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
            l_u = pseudo(generated)
            l_kl = loss_kl(real, generated, config)
            l_c = l_s + config.lambda_ * l_u.loss + config.alpha * l_kl  # H eq. 1
            metrics = {"L_c": l_c, "L_s": l_s, "L_u": l_u.loss, "L_kl": l_kl}
            return l_c, (both if config.fake_stats else stats, metrics, l_u)

        grad_c = jax.value_and_grad(loss_c, has_aux=True)
        (_, (stats_c, metrics, l_u)), grads = grad_c(c.params)
        c = players.update(c, grads, stats_c, opt_c, state.step, config.ema)

        def loss_g(fake):
            (fake_logit, _), _ = players.run(net_d, d.params, d.stats, keys[4], fake)
            (generated, _), _ = players.run(net_c, c.params, c.stats, keys[5], fake)
            l_cu = pseudo(generated).loss
            l_g = says_real(fake_logit) + config.lambda_g * l_cu  # H eq. 2
            return l_g, {"L_g": l_g, "L_cu": l_cu}

        (_, metrics_g), grad_fake = jax.value_and_grad(loss_g, has_aux=True)(fake)
        (grads,) = backward_g(grad_fake)
        g = players.update(g, grads, stats_g, opt_g, state.step, config.ema)

        metrics |= {"L_d": l_d, **metrics_g, "mask_rate": l_u.mask_rate}
        metrics |= {f"pseudo_labels_{i}": l_u.counts[i] for i in range(config.num_classes)}
        return state.replace(step=state.step + 1, players={"G": g, "D": d, "C": c}), metrics

    def predict(state: TrainState, images: Array) -> Array:
        return players.run_averaged(net_c, state.players["C"], images)[0]

    def sample(state: TrainState, key: Key, n: int) -> Array:
        return players.run_averaged(net_g, state.players["G"], draw_z(key, n, config.z_dim))

    return Method(init, train_step, predict, sample)
