"""Distances between generated and real images: are they good, varied, and no copies?"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import fft
from scipy.spatial.distance import cdist

from ssl_gan_jax.data.scale import to_levels

COMPARED = 500  # validation images that samples are compared with; more change little
SIDE = 16  # pixels a side of the small images that choose the candidates
CANDIDATES = 8  # training images that each image is compared with pixel by pixel
BLOCK = 64  # images that are compared at once; bounds the memory
NEIGHBOURS = 5  # k of `neighbourhoods`, as in Naeem et al. 2020


def shift_and_flip(method: Mapping[str, Any]) -> dict[str, Any]:
    """The `shift` and `flip` of `nearest`: those of the training images under these settings.

    A generator that copies may copy images as training has shifted and mirrored them.
    """
    shift = max(method.get("shift", 0), method.get("shift_fake", 0))
    return {"shift": shift, "flip": method.get("flip", False)}


def nearest(
    images: np.ndarray, among: np.ndarray, shift: int = 0, flip: bool = False
) -> np.ndarray:
    """The distance of each of `images` [N,H,W,1] to the nearest of `among` [M,H,W,1]; [N] float64.

    The distance is the root mean square over the pixels that both images have, in the units of the
    pixels. It is the minimum over all shifts of up to `shift` pixels each way and, with `flip`,
    over both mirror images. So a copy that was shifted or mirrored thus has distance 0; a copy that
    was shifted further, rotated, scaled or brightened has not. Only CANDIDATES of `among` are
    compared pixel by pixel: those whose small versions are nearest under the same shifts.
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
    """Compares the samples' distances to training images with those of validation images.

    Args:
      samples: [N,H,W,1] float32 in [-1,1], of G.
      train: [M,H,W,1] uint8, the images that G was trained on.
      validation: [V,H,W,1] uint8; COMPARED of them are used.
      shift: how far training shifts images, in pixels, see `shift_and_flip` and `nearest`.
      flip: whether training mirrors images.

    Returns:
      Median distances to the nearest training image, in gray levels of 255: `nearest_train` of the
      samples, `nearest_train_of_validation`; and `copies`, the share of samples that are nearer
      than the nearest 1 % of the validation images (about .01 if G draws from the distribution, 1
      if it copies). None without validation images.
    """
    if not len(validation):
        return None
    sample_distance = nearest(to_levels(np.asarray(samples)), train, shift, flip)
    validation_distance = nearest(evenly_spaced(validation), train, shift, flip)
    return {
        "nearest_train": float(np.median(sample_distance)),
        "nearest_train_of_validation": float(np.median(validation_distance)),
        "copies": float(np.mean(sample_distance < np.percentile(validation_distance, 1))),
    }


def evenly_spaced(validation: np.ndarray) -> np.ndarray:
    """COMPARED of the validation images [V,...], evenly spaced; all if there are fewer."""
    step = max(1, len(validation) / COMPARED)
    return validation[np.arange(0, len(validation), step).astype(int)]


def _candidates(images: np.ndarray, small: np.ndarray, shift: int) -> np.ndarray:
    """The rows [N,C] of `small` [M,P] nearest to the small `images` [N,H,W]; C <= CANDIDATES.

    The distance is the mean square; shifts are tried in steps of half a small pixel.
    """
    step = max(1, -(-min(images.shape[1:]) // SIDE) // 2)
    reach = np.arange(-(shift // step), shift // step + 1) * step
    least, squares = np.full((len(images), len(small)), np.inf, np.float32), small**2
    for down, right in itertools.product(reach, reach):
        moved = np.full_like(images, np.nan)
        (to_y, from_y), (to_x, from_x) = _overlap(down), _overlap(right)
        moved[:, to_y, to_x] = images[:, from_y, from_x]
        x = _small(moved)
        whole = np.isfinite(x[0])  # small pixels that the shift left without a gap
        x, weight = np.where(whole, x, 0), whole.astype(np.float32) / max(1, whole.sum())
        gap = (x * x) @ weight[:, None] - 2 * (x * weight) @ small.T + weight @ squares.T
        np.minimum(least, gap, out=least)
    return np.argsort(least, axis=1, kind="stable")[:, :CANDIDATES]


def _aligned(a: np.ndarray, b: np.ndarray, shift: int) -> np.ndarray:
    """The distance [N] of each of `a` [N,H,W] to the same row of `b` [N,H,W] at the best shift.

    Sums of products over the overlap are a correlation: one Fourier transform gives all shifts.
    """
    shape = [fft.next_fast_len(side + shift, real=True) for side in a.shape[1:]]
    reach = np.arange(-shift, shift + 1)

    def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        product = fft.rfft2(x, shape) * np.conj(fft.rfft2(y, shape))
        return fft.irfft2(product, shape)[:, reach][:, :, reach]

    ones = np.ones_like(a[:1])
    total = correlation(a * a, ones) - 2 * correlation(a, b) + correlation(ones, b * b)
    mean = np.maximum(total, 0) / correlation(ones, ones)
    return np.sqrt(mean.min(axis=(1, 2)))


def _overlap(move: int) -> tuple[slice, slice]:
    """The slices of an axis that pixels are moved to, and from."""
    to = slice(max(0, move), min(0, move) or None)
    return to, slice(max(0, -move), min(0, -move) or None)


def _small(images: np.ndarray) -> np.ndarray:
    """[N,H,W] -> [N,P] float32: means over squares, at most SIDE squares a side."""
    n, h, w = images.shape
    f = -(-min(h, w) // SIDE)
    cut = images[:, : h // f * f, : w // f * f].reshape(n, h // f, f, w // f, f)
    return cut.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


def _centred(images: np.ndarray) -> np.ndarray:
    """Gray levels around 0, so that squares lose few digits."""
    return np.asarray(images, np.float64) - 127.5


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance (Heusel et al. 2017) of Gaussians fitted to features a [N,F] and b [M,F].

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)
    """
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of (S_a S_b)^1/2 is the sum of the roots of S_a S_b's eigenvalues, which are >= 0.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(s_a @ s_b).real, 0))
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(s_a) + np.trace(s_b) - 2 * roots.sum())


def neighbourhoods(fake: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """How generated and real images lie among each other, by features [N,F] and [M,F]; N, M > k.

    The ball of an image reaches to its k-th nearest of its own kind.

    Returns:
      `precision`, the share of generated images in the ball of a real one, and `recall`, the
      reverse (Kynkäänniemi et al. 2019); `density`, the number of real balls that a generated image
      is in, over k, and `coverage`, the share of real balls that hold a generated image (Naeem et
      al. 2020). Images of one distribution have density 1, and coverage 1 - 2^-k if N = M. All
      depend on N and M, so that only scores of equal numbers can be compared.
    """
    between = cdist(fake, real)
    of_real, of_fake = (np.partition(cdist(x, x), k, axis=1)[:, k] for x in (real, fake))
    in_real = between < of_real
    return {
        "precision": float(in_real.any(1).mean()),
        "recall": float((between < of_fake[:, None]).any(0).mean()),
        "density": float(in_real.sum(1).mean() / k),
        "coverage": float(in_real.any(0).mean()),
    }
