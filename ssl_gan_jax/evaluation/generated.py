"""How good are generated images, and are they copies? Distances to real images."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import fft

from ssl_gan_jax.data.scale import to_levels

COMPARED = 500  # validation images that samples are compared with: more change little
SIDE = 16  # of the small images that choose whom to compare pixel by pixel
CHOSEN = 8  # training images that each image is compared with pixel by pixel
BLOCK = 64  # images that are compared at once: bounds the memory


def moves(method: Mapping[str, Any]) -> dict[str, Any]:
    """`shift` and `flip` of `nearest`: what the settings of a method do to the images of training.

    A G that copies may have learnt its copies from images that were moved as far.
    """
    shift = max(method.get("shift", 0), method.get("shift_fake", 0))
    return {"shift": shift, "flip": method.get("flip", False)}


def nearest(
    images: np.ndarray, among: np.ndarray, shift: int = 0, flip: bool = False
) -> np.ndarray:
    """Distance of each of `images` [N,H,W,1] to the nearest of `among` [M,H,W,1]; [N] float64.

    The root mean square over the pixels that both have, in the units of the pixels: the least over
    all shifts of up to `shift` pixels each way and, with `flip`, over both mirror images. So copies
    that were moved thus give 0, and those that were moved further, turned, scaled or made brighter
    do not. Of a large `among` all pixels are compared with the CHOSEN alone whose small versions,
    moved likewise, are nearest.
    """
    shift = min(shift, min(images.shape[1:3]) // 2)
    small = np.concatenate(
        [_small(_centred(among[i : i + BLOCK, :, :, 0])) for i in range(0, len(among), BLOCK)]
    )
    found = []
    for start in range(0, len(images), BLOCK):
        part = _centred(images[start : start + BLOCK, :, :, 0])
        least = np.full(len(part), np.inf)
        for view in (part, part[..., ::-1]) if flip else (part,):
            for rows in _candidates(view, small, shift).T:
                gaps = _aligned(view, _centred(among[rows, :, :, 0]), shift)
                np.minimum(least, gaps, out=least)
        found.append(least)
    return np.concatenate(found)


def memorisation(
    samples: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    shift: int = 0,
    flip: bool = False,
) -> dict | None:
    """How near samples lie to training images, beside how near real, unseen images do.

    Args:
      samples: [N,H,W,1] float32 in [-1,1], of G.
      train: [M,H,W,1] uint8, the images that G learnt from.
      validation: [V,H,W,1] uint8, images that it did not; COMPARED of them serve.
      shift: how far training moves images, in pixels, see `moves` and `nearest`.
      flip: whether it mirrors them.

    Returns:
      Median distances to the nearest training image, in gray levels of 255: `nearest_train` of the
      samples, `nearest_train_of_validation`; and `copies`, the share of samples nearer than all
      but 1 % of the validation images are (about .01 where G has learnt the distribution, 1 where
      it copies). None without validation images.
    """
    if not len(validation):
        return None
    of_samples = nearest(to_levels(np.asarray(samples)), train, shift, flip)
    of_validation = nearest(unseen(validation), train, shift, flip)
    return {
        "nearest_train": float(np.median(of_samples)),
        "nearest_train_of_validation": float(np.median(of_validation)),
        "copies": float(np.mean(of_samples < np.percentile(of_validation, 1))),
    }


def unseen(validation: np.ndarray) -> np.ndarray:
    """COMPARED of the validation images [V,...], spread evenly over them; or all."""
    step = max(1, len(validation) / COMPARED)
    return validation[np.arange(0, len(validation), step).astype(int)]


def _candidates(images: np.ndarray, small: np.ndarray, shift: int) -> np.ndarray:
    """The rows [N,C] of `small` [M,P] that may be nearest to `images` [N,H,W]: CHOSEN, or all.

    By mean squares between small versions, at every half of a small pixel of shift.
    """
    step = max(1, -(-min(images.shape[1:]) // SIDE) // 2)
    reach = np.arange(-(shift // step), shift // step + 1) * step
    least, squares = np.full((len(images), len(small)), np.inf, np.float32), small**2
    for down, right in itertools.product(reach, reach):
        moved = np.full_like(images, np.nan)
        (to_y, from_y), (to_x, from_x) = _overlap(down), _overlap(right)
        moved[:, to_y, to_x] = images[:, from_y, from_x]
        x = _small(moved)
        whole = np.isfinite(x[0])  # without the small pixels that lack some
        x, weight = np.where(whole, x, 0), whole.astype(np.float32) / max(1, whole.sum())
        gap = (x * x) @ weight[:, None] - 2 * (x * weight) @ small.T + weight @ squares.T
        np.minimum(least, gap, out=least)
    return np.argsort(least, axis=1, kind="stable")[:, :CHOSEN]


def _aligned(a: np.ndarray, b: np.ndarray, shift: int) -> np.ndarray:
    """Distance of each of `a` [N,H,W] to its own of `b` [N,H,W], at the best of all shifts; [N].

    What is summed over the overlap at every shift is a correlation, which a Fourier transform
    gives for all of them at once.
    """
    shape = [fft.next_fast_len(side + shift, real=True) for side in a.shape[1:]]
    reach = np.arange(-shift, shift + 1)

    def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        product = fft.rfft2(x, shape) * np.conj(fft.rfft2(y, shape))
        return fft.irfft2(product, shape)[:, reach][:, :, reach]

    one = np.ones_like(a[:1])
    total = correlation(a * a, one) - 2 * correlation(a, b) + correlation(one, b * b)
    mean = np.maximum(total, 0) / correlation(one, one)
    return np.sqrt(mean.min(axis=(1, 2)))


def _overlap(move: int) -> tuple[slice, slice]:
    """Where pixels come to lie that are moved, and where from, along an axis."""
    to = slice(max(0, move), min(0, move) or None)
    return to, slice(max(0, -move), min(0, -move) or None)


def _small(images: np.ndarray) -> np.ndarray:
    """[N,H,W] -> [N,P] float32: means over squares, SIDE or fewer to a side."""
    n, h, w = images.shape
    f = -(-min(h, w) // SIDE)
    cut = images[:, : h // f * f, : w // f * f].reshape(n, h // f, f, w // f, f)
    return cut.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


def _centred(images: np.ndarray) -> np.ndarray:
    """Gray levels around 0, where squares lose the fewest digits."""
    return np.asarray(images, np.float64) - 127.5


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to features a [N,F] and b [M,F].

        |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)

    Source: Heusel et al. 2017, with features of one's own.
    """
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The root's trace is the sum of the roots of the product's eigenvalues, which are >= 0.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(s_a @ s_b).real, 0))
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(s_a) + np.trace(s_b) - 2 * roots.sum())
