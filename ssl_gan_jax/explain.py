"""Where in an image the classifier sees its evidence: HiResCAM on our networks.

    heat = relu(sum_channels A * d(evidence)/dA)         A: the 8x8 map of the last but one stage

Grad-CAM (Selvaraju et al. 2017) averages the gradient over the map first, which suits networks
that end in average pooling. Ours end in one linear layer over positions, where that average mixes
up places; HiResCAM (Draelos & Carin 2020) leaves it out. How often either points at the phantom's
heart is in configs/results/trust.jsonl: a map is a hint, not a proof.

Evidence: the log odds of the second class where there are two (the positive one), else of the
class that is called.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluate import batched
from ssl_gan_jax.nets.convolution import StridedConv
from ssl_gan_jax.nets.norm import WeightNorm
from ssl_gan_jax.trained import BATCH, Trained, needs
from ssl_gan_jax.types import Array, Method, TrainState

SIDE = 8  # of the map; the last stage's 4x4 is too coarse for a heart


def heatmaps(method: Method, state: TrainState, images: Array) -> Array:
    """[B,S,S,1] in [-1,1] -> evidence [B,8,8], 0 or more; pure. UserError as `gradients`."""
    gradient, maps = gradients(method, state, images)
    return jax.nn.relu((gradient * maps).sum(-1))


def gradients(method: Method, state: TrainState, images: Array) -> tuple[Array, Array]:
    """[B,S,S,1] in [-1,1] -> d(evidence)/dA and A, both [B,8,8,C].

    Virtual batch norm's reference images go before the others through the network, and are cut.

    Raises:
      UserError: the network has no convolution with an 8x8 map.
    """

    def evidence(added: Array | None) -> tuple[Array, Array]:
        """Summed log odds of the classes of interest, with `added` to the map; and the map."""
        seen = []

        def look(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):  # noqa: ANN202
            out = call(*args, **kwargs)
            module = context.module
            normed = isinstance(module, WeightNorm) and module.kind == "conv"
            if (normed or isinstance(module, StridedConv | nn.Conv)) and out.shape[1] == SIDE:
                seen.append(out)
                out = out if added is None else out + added
            return out

        with nn.intercept_methods(look):
            logits = method.predict(state, images)
        if not seen:
            raise UserError("--explain needs a network of convolutions; this run's has none")
        k = logits.shape[1]
        of = jnp.ones(len(logits), int) if k == 2 else logits.argmax(1)
        own = jax.nn.one_hot(of, k, dtype=bool)
        rest = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=1)
        return (jnp.where(own, logits, 0).sum(1) - rest).sum(), seen[-1]

    shape = jax.eval_shape(evidence, None)[1]
    found = jax.grad(evidence, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    return tuple(part[-len(images) :] for part in found)


def explainer(run: Trained) -> Callable[[np.ndarray], np.ndarray]:
    """`heatmaps`, compiled once: uint8 images [N,S,S,1] -> [N,8,8]."""
    needs(run, "classifier")
    compiled = jax.jit(lambda images: (heatmaps(run.method, run.state, images),))
    return lambda images: batched(compiled, images, BATCH)[0]


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """[h,w] of any dtype -> float32 [side,side], bilinear."""
    image = Image.fromarray(np.asarray(picture, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def overlay(image: np.ndarray, heat: np.ndarray, side: int = 256) -> np.ndarray:
    """uint8 [side,side,3]: `image` [S,S,1] uint8 under `heat` [h,w] in red, scaled to itself."""
    alpha = 0.6 * enlarge(heat / max(heat.max(), 1e-12), side)[..., None]
    gray = enlarge(image[..., 0], side)[..., None]
    pixels = (1 - alpha) * gray + alpha * np.array([255, 40, 0])
    return pixels.round().clip(0, 255).astype(np.uint8)
