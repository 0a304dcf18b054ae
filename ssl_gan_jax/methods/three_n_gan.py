"""3N-GAN (Haque & Haque): the generator plays against a discriminator and a classifier at once.

    L_c = L_s + lambda L_u + alpha L_kl                                          (eq. 1)
    L_g = L_d(D(G(z)), 1) + lambda L_cu                                          (eq. 2)
    L_D = L_d(D(x), 1) + L_d(D(G(z)), 0)                              (conventional, DCGAN)

    L_s       cross-entropy on labelled images; L_d binary cross-entropy
    L_u       cross-entropy of C on generated images against its own predictions above tau
    L_cu      the same loss, with a gradient only to G
    L_kl      Kullback-Leibler divergence between C's predictions on real and generated images

Order of updates: D, C, then G against the new D and C, all on the same generated images (one
forward pass of G). With `simultaneous=True` G learns against D and C as they were, which the paper
may mean, and their forward passes serve both. Choices that the paper leaves open, and deviations
from it:

  * The paper's L_kl pairs unrelated images, which rewards constant predictions. The default
    `kl="marginal"` compares batch-mean predictions, without gradient to the real images;
    `preset=paper` has the paper's form.
  * C's running statistics come from real images (`fake_stats=True`: from both).
  * G's step does not change C and D; L_cu and its gradient are 0 if no prediction passes tau.
  * All images are shifted, real and generated: else D wins within a few epochs of 200 images.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp

from ssl_gan_jax import targets
from ssl_gan_jax.augment import Augmentation, augmentation
from ssl_gan_jax.losses import PseudoLabeled, bce_fake, bce_real, cross_entropy, kl, pseudo_label
from ssl_gan_jax.methods._dcgan import init_dcgan
from ssl_gan_jax.nets.generator import latent
from ssl_gan_jax.player import averaged
from ssl_gan_jax.types import Array, Batch, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper's numbers (section 3), and DCGAN's if it gives none."""

    num_classes: int = 2
    size: int = 64  # pixels
    generator: Literal["upsample", "dcgan"] = "dcgan"
    width: int = 64
    z_dim: int = 100
    tau: float = 0.9
    lambda_: float = 0.01  # of L_u, in eq. 1
    lambda_g: float = 0.01  # of L_cu, in eq. 2; the paper has one lambda for both
    alpha: float = 0.3
    kl: Literal["marginal", "paired"] = "marginal"
    kl_direction: Literal["real_fake", "fake_real"] = "real_fake"  # KL(real || fake) or reverse
    kl_both: bool = False  # gradient through predictions on real images too
    pseudo_mean: Literal["kept", "batch"] = "kept"
    pseudo_soft: bool = False
    fake_stats: bool = False
    noise: float = 0.0  # D's and C's
    dropout: tuple[float, float] = (0.0, 0.0)  # D's and C's
    simultaneous: bool = False  # results/README.md: quicker, and nothing lost
    lr_c: float = 2e-4
    lr_d: float = 2e-4
    lr_g: float = 2e-4
    beta1: float = 0.5
    ema: float = 0.995
    augmentation: Augmentation = "weak"
    shift: int = 6  # pixels, for real and generated images
    flip: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"


PAPER = {"kl": "paired", "kl_both": True, "fake_stats": True, "shift": 0, "ema": 0.0}
FINDINGS = True


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
    draw_z = functools.partial(latent, z_dim=config.z_dim)
    init = init_dcgan(config, draw_z, D=1, C=config.num_classes)
    augmented = augmentation(config)

    def pseudo(logits: Array) -> PseudoLabeled:
        return pseudo_label(logits, config.tau, config.pseudo_mean, config.pseudo_soft)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = state.keys("z", "x", "fake", "g", "d", "c", "g_d", "g_c")
        g, d, c = (state.players[name] for name in "GDC")
        x, z = augmented(keys.x, batch.image), draw_z(keys.z, len(batch.image))
        fake = g.generate(z, keys.g, then=lambda images: augmented(keys.fake, images))
        batches, tracked = (x, fake.images), 2 if config.fake_stats else 1
        choices = targets.of(batch.label).choices

        def loss_d(real: Array, generated: Array) -> tuple[Array, Metrics]:
            l_d = bce_real(real) + bce_fake(generated)
            return l_d, {"L_d": l_d}

        d, metrics_d = d.learn(loss_d, *batches, key=keys.d, step=state.step)

        def loss_c(real: Array, generated: Array) -> tuple[Array, Metrics]:  # eq. 1
            l_s, l_u = cross_entropy(real, batch.label), pseudo(choices(generated))
            l_kl = loss_kl(choices(real), choices(generated), config)
            l_c = l_s + config.lambda_ * l_u.loss + config.alpha * l_kl
            return l_c, {"L_c": l_c, "L_s": l_s, "L_u": l_u.loss, "L_kl": l_kl, **l_u.metrics()}

        c, metrics_c = c.learn(loss_c, *batches, key=keys.c, step=state.step, tracked=tracked)

        against = state.players if config.simultaneous else {"D": d, "C": c}

        def loss_g(images: Array) -> tuple[Array, Metrics]:  # eq. 2
            l_cu = pseudo(choices(against["C"](images, key=keys.g_c))).loss
            l_g = bce_real(against["D"](images, key=keys.g_d)) + config.lambda_g * l_cu
            return l_g, {"L_g": l_g, "L_cu": l_cu}

        g, metrics_g = fake.learn(loss_g, state.step)
        return state.next(G=g, D=d, C=c), metrics_d | metrics_c | metrics_g

    return Method(init, train_step, averaged("C"), averaged("G"), draw_z)
