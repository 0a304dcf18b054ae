"""The semi-supervised GAN of M section 2.3: D has K+1 outputs, and the first K are the classifier.

    L           = L_labeled + w (L_unlabeled + L_generated)
    L_labeled   = -E log p(y | x, y < K+1)
    L_unlabeled = -E log (1 - p(K+1 | x))
    L_generated = -E log p(K+1 | G(z))

With z(x) = logsumexp(l_1..l_K) - l_{K+1}, P(real) = sigmoid(z), so the unsupervised terms are
softplus(-z) and softplus(z), which lose no digits. M weights them 1 (`preset=paper`); the default
w = 1/2 is that of Salimans et al. 2016, whom M follows. M leaves G's loss open:

    non_saturating    L_G = -E log (1 - p(K+1 | G(z)))                   the default
    minimax           L_G =  E log p(K+1 | G(z)) = -L_generated
    feature_matching  L_G = |E f(x) - E f(G(z))|, its mean over features ("_l2": squared)

Virtual batch norm sits in G (as in Salimans' code) unless `vbn` says otherwise. D is weight
normalised, with noise and dropout (Salimans' SVHN and CIFAR-10 networks), where virtual batch
norm does not take its place. Order of updates: D, then G against the new D, on the same generated
images (one forward pass of G).

Not in M: with `consistency` > 0, L gains that weight times L_consistency, under which the class
probabilities of an unlabelled image agree over two augmentations and noises (the Pi model of
Laine & Aila 2017; Wei et al. 2018 brought it to this loss).
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.nn import softplus

from ssl_gan_jax import players
from ssl_gan_jax.augment import augment
from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.losses import draw_z
from ssl_gan_jax.nets.discriminator import Discriminator
from ssl_gan_jax.nets.generator import Generator
from ssl_gan_jax.nets.mlp import MlpDiscriminator, MlpGenerator
from ssl_gan_jax.types import Array, Batch, Key, Method, Metrics, TrainState


@dataclasses.dataclass(frozen=True)
class Config:
    """M gives K, the size and virtual batch norm; the rest was chosen on validation images."""

    num_classes: int = 2  # K
    size: int = 32  # pixels
    nets: str = "strided"  # "mlp": Salimans' MNIST networks
    generator: str = "dcgan"  # "upsample": M's
    width: int = 32
    z_dim: int = 100
    z_prior: str = "normal"  # "uniform"
    vbn: str = "G"  # "D", "both", "none"; with the mlp nets "none"
    reference_size: int = 32  # in the reference batch; D's is at most the first batch
    k_logits: bool = False  # D has K outputs and l_{K+1} = 0: the same family, Salimans' form
    noise: float = 0.1  # on D's input; Salimans' .3 and dropout (.2, .5) learn slower here
    dropout: tuple[float, float] = (0.0, 0.25)
    loss_g: str = "non_saturating"  # "minimax", "feature_matching", "feature_matching_l2"
    w: float = 0.5
    consistency: float = 0.0  # weight of L_consistency
    lr_d: float = 5e-4
    lr_g: float = 5e-4
    beta1: float = 0.5
    eps_root: float = 0.0  # Adam's epsilon under the root; Salimans' code has 1e-8 there
    ema: float = 0.995
    shift: int = 3  # pixels, on every real image
    shift_fake: int = 0  # pixels, on every generated image
    flip: bool = False
    dtype: str = "float32"


PAPER = {"generator": "upsample", "w": 1.0, "shift": 0, "ema": 0.0}


def real_logit(logits: Array) -> Array:
    """z = logsumexp(l_1..l_K) - l_{K+1}, the logit of "real"; [B,K+1] -> [B]."""
    return jax.nn.logsumexp(logits[:, :-1], axis=-1) - logits[:, -1]


def loss_labeled(logits: Array, y: Array) -> Array:
    """-log p(y | x, y < K+1) of each image; [B,K+1], [B] -> [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], y)


def loss_unlabeled(logits: Array) -> Array:
    """-log (1 - p(K+1 | x)) of each image; [B,K+1] -> [B]."""
    return softplus(-real_logit(logits))


def loss_consistency(logits: Array, others: Array) -> Array:
    """|p(y | x, y < K+1) - p(y | x', y < K+1)|^2 of two views of each image; [B,K+1] twice -> [B].

    No gradient through the second, whose probabilities are the targets.
    """
    p, target = jax.nn.softmax(logits[:, :-1]), jax.nn.softmax(others[:, :-1])
    return jnp.square(p - jax.lax.stop_gradient(target)).sum(axis=-1)


def loss_generated(logits: Array) -> Array:
    """-log p(K+1 | G(z)) of each image; [B,K+1] -> [B]."""
    return softplus(real_logit(logits))


def build(config: Config) -> Method:
    """The method's pure functions for these settings."""
    losses = ("non_saturating", "minimax", "feature_matching", "feature_matching_l2")
    check_choice("method.loss_g", config.loss_g, losses)
    check_choice("method.nets", config.nets, ("strided", "mlp"))
    check_choice("method.generator", config.generator, ("upsample", "dcgan"))
    check_choice("method.z_prior", config.z_prior, ("normal", "uniform"))
    vbn = ("none",) if config.nets == "mlp" else ("G", "D", "both", "none")
    check_choice("method.vbn", config.vbn, vbn)
    dtype = jnp.dtype(config.dtype)
    outputs = config.num_classes + (not config.k_logits)
    if config.nets == "mlp":
        net_g, net_d = MlpGenerator(config.size, dtype), MlpDiscriminator(outputs, dtype)
    else:
        norm_g = "virtual" if config.vbn in ("G", "both") else "batch"
        norm_d = "virtual" if config.vbn in ("D", "both") else "weight"
        net_g = Generator(config.size, config.generator, config.width, norm_g, dtype)
        net_d = Discriminator(outputs, config.width, norm_d, config.noise, config.dropout, dtype)
    opt_d = optax.adam(config.lr_d, b1=config.beta1, eps_root=config.eps_root)
    opt_g = optax.adam(config.lr_g, b1=config.beta1, eps_root=config.eps_root)

    def discriminate(params, key, images, reference):
        """K+1 logits and features of `images`; this D has no running statistics to keep."""
        (logits, features), _ = players.run(net_d, params, {}, key, images, reference=reference)
        return jnp.pad(logits, ((0, 0), (0, int(config.k_logits)))), features

    def init(key: Key, batch: Batch) -> TrainState:
        if not len(batch.unlabeled):
            raise UserError("train.unlabeled_batch_size: 0; ssl_gan needs unlabelled images")
        rng, key_z, key_ref, key_g, key_d = jax.random.split(key, 5)
        z = draw_z(key_z, len(batch.unlabeled), config.z_dim, config.z_prior)
        reference = {}
        if config.vbn in ("G", "both"):
            reference["G"] = draw_z(key_ref, config.reference_size, config.z_dim, config.z_prior)
        if config.vbn in ("D", "both"):
            reference["D"] = batch.unlabeled[: config.reference_size]
        g = players.create(net_g, opt_g, key_g, z, reference=reference.get("G"))
        d = players.create(net_d, opt_d, key_d, batch.unlabeled, reference=reference.get("D"))
        return TrainState(jnp.int32(0), rng, {"G": g, "D": d}, reference)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key_z, key_x, key_u, key_fake, key_g, key_d1, key_d2 = players.step_keys(state, 7)
        key_again = jax.random.fold_in(key_u, 1)
        g, d = state.players["G"], state.players["D"]
        b, u = len(batch.image), len(batch.unlabeled)

        def generate(params):
            z = draw_z(key_z, u, config.z_dim, config.z_prior)
            ref = state.reference.get("G")
            fake, stats = players.run(net_g, params, g.stats, key_g, z, reference=ref)
            return augment(key_fake, fake, config.shift_fake, config.flip), stats

        x = augment(key_x, batch.image, config.shift, config.flip)
        x_u = augment(key_u, batch.unlabeled, config.shift, config.flip)
        fake, backward_g, stats_g = jax.vjp(generate, g.params, has_aux=True)
        ref = state.reference.get("D")

        def loss_d(params):
            # D has no batch statistics, so its three batches are one: no image sees another.
            again = augment(key_again, batch.unlabeled, config.shift, config.flip)
            images = [x, x_u, fake, again] if config.consistency else [x, x_u, fake]
            logits, _ = discriminate(params, key_d1, jnp.concatenate(images), ref)
            of_u = logits[b : b + u]
            l_labeled = loss_labeled(logits[:b], batch.label).mean()
            l_unlabeled = loss_unlabeled(of_u).mean()
            l_generated = loss_generated(logits[b + u : b + 2 * u]).mean()
            loss = l_labeled + config.w * (l_unlabeled + l_generated)
            metrics = {
                "L_labeled": l_labeled,
                "L_unlabeled": l_unlabeled,
                "L_generated": l_generated,
            }
            if config.consistency:
                l_consistency = loss_consistency(of_u, logits[b + 2 * u :]).mean()
                loss += config.consistency * l_consistency
                metrics["L_consistency"] = l_consistency
            return loss, {"L": loss, **metrics}

        (_, metrics), grads = jax.value_and_grad(loss_d, has_aux=True)(d.params)
        d = players.update(d, grads, d.stats, opt_d, state.step, config.ema)

        def loss_g(fake):
            if config.loss_g.startswith("feature_matching"):
                _, f = discriminate(d.params, key_d2, jnp.concatenate([x_u, fake]), ref)
                gap = f[:u].mean(0) - f[u:].mean(0)
                return jnp.mean(gap**2 if config.loss_g.endswith("l2") else jnp.abs(gap))
            logits, _ = discriminate(d.params, key_d2, fake, ref)
            if config.loss_g == "minimax":
                return -loss_generated(logits).mean()
            return loss_unlabeled(logits).mean()

        l_g, grad_fake = jax.value_and_grad(loss_g)(fake)
        (grads,) = backward_g(grad_fake)
        g = players.update(g, grads, stats_g, opt_g, state.step, config.ema)
        state = state.replace(step=state.step + 1, players={"G": g, "D": d})
        return state, {**metrics, "L_G": l_g}

    def predict(state: TrainState, images: Array) -> Array:
        ref = state.reference.get("D")
        logits, _ = players.run_averaged(net_d, state.players["D"], images, reference=ref)
        return logits[:, : config.num_classes]

    def sample(state: TrainState, key: Key, n: int) -> Array:
        z = draw_z(key, n, config.z_dim, config.z_prior)
        return players.run_averaged(
            net_g, state.players["G"], z, reference=state.reference.get("G")
        )

    return Method(init, train_step, predict, sample)
