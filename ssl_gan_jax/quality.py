"""Does the generator copy its training images? Distances in pixel space, NumPy only."""

import numpy as np


def nearest(images: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Distance of each of `images` [N,...] to the nearest of `among` [M,...]; [N] float64.

    The root mean square over pixels, in the units of the pixels. Exact copies give 0; a copy that
    was shifted does not, so that methods which shift their images are judged mildly.
    """
    a = np.asarray(images, np.float64).reshape(len(images), -1)
    b = np.asarray(among, np.float64).reshape(len(among), -1)
    square = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)
    return np.sqrt(np.maximum(square.min(axis=1), 0) / a.shape[1])


def memorisation(samples: np.ndarray, train: np.ndarray, validation: np.ndarray) -> dict | None:
    """How near samples lie to training images, beside how near real, unseen images do.

    Args:
      samples: [N,H,W,1] float32 in [-1,1], of G.
      train: [M,H,W,1] uint8, the images that G learnt from.
      validation: [V,H,W,1] uint8, images that it did not.

    Returns:
      Median distances to the nearest training image, in gray levels of 255: `nearest_train` of the
      samples, `nearest_train_of_validation`; and `copies`, the share of samples nearer than all
      but 1 % of the validation images are (about .01 where G has learnt the distribution, 1 where
      it copies). None without validation images.
    """
    if not len(validation):
        return None
    of_samples = nearest((np.asarray(samples) + 1) * 127.5, train)
    of_validation = nearest(validation, train)
    return {
        "nearest_train": float(np.median(of_samples)),
        "nearest_train_of_validation": float(np.median(of_validation)),
        "copies": float(np.mean(of_samples < np.percentile(of_validation, 1))),
    }
