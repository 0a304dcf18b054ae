"""Who trains, who validates, who tests, and whose labels are known. Pure NumPy.

Membership is a hash of the patient, so images of one patient stay together and images that arrive
later never move the patients that are there already.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from ssl_gan_jax.errors import UserError

OFFICIAL = ("", "train", "val", "test")  # '' = the data set prescribes nothing for this image


class Split(NamedTuple):
    """Sorted indices into `Records`, int64, disjoint by image and by patient."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split(
    patient: np.ndarray,
    official: np.ndarray,
    *,
    salt: str = "",
    val: float = 0.1,
    test: float = 0.1,
) -> Split:
    """Divide images by patient.

    Where any image is officially 'test' (or 'val'), exactly those images are; otherwise a patient
    belongs there when the hash of (salt, patient) falls into that part of [0,1): the first `test`
    of it, or the next `val`. In small data sets the parts can be far from these shares.

    Args:
        patient: [N] str, grouping key.
        official: [N] str, one of OFFICIAL.
        salt: another salt gives another division.
        val: expected share of validation patients.
        test: expected share of test patients, where there is no official test set.

    Raises:
        UserError: an unknown split, impossible shares, or a patient in two parts because the
            official splits disagree with the patient keys.
    """
    parts = assign(patient, official, salt=salt, val=val, test=test)
    check_disjoint(np.asarray(patient), parts)
    return parts


def assign(
    patient: np.ndarray, official: np.ndarray, *, salt: str, val: float, test: float
) -> Split:
    """Divide as `split`, and leave it to the caller to look for patients in two parts."""
    patient, official = np.asarray(patient), np.asarray(official)
    if unknown := sorted(set(official.tolist()) - set(OFFICIAL)):
        raise UserError(f"unknown split {unknown[0]!r}: use one of {OFFICIAL}")
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise UserError(f"val={val} and test={test}: both must be >= 0, and their sum below 1")

    keys, of_key = np.unique(patient, return_inverse=True)
    share = np.array([_uniform(salt, key) for key in keys.tolist()], np.float64)[of_key]
    has_test, has_val = (official == "test").any(), (official == "val").any()
    in_test = official == "test" if has_test else (share < test) & (official != "val")
    in_val = official == "val" if has_val else (test <= share) & (share < test + val) & ~in_test
    return Split(*map(np.flatnonzero, (~in_test & ~in_val, in_val, in_test)))


def check_disjoint(patient: np.ndarray, parts: Split) -> None:
    """Raise `UserError` if any patient is in two parts; the message names rows, not patients."""
    names = Split._fields
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if (shared := np.intersect1d(patient[parts[i]], patient[parts[j]])).size:
            rows = (part[patient[part] == shared[0]][0] for part in (parts[i], parts[j]))
            raise UserError(
                "{n} patients are both in {a} and in {b} (first: images number {0} and {1}): "
                "correct the patient keys or the official splits".format(
                    *rows, n=shared.size, a=names[i], b=names[j]
                )
            )


def draw_labels(
    label: np.ndarray,
    pool: np.ndarray,
    *,
    per_class: int | None = None,
    images: int | None = None,
    seed: int,
) -> np.ndarray:
    """Choose the images of `pool` whose labels training may see.

    Each class is put into an order by hash of (seed, index) and its first n are taken, so at one
    seed a smaller budget is a subset of a larger one.

    Args:
        label: [N] int, 0..K-1; -1 = unlabelled. Only labels of `pool` are looked at, and K.
        pool: indices to choose from, such as `Split.train`.
        per_class: exactly so many of each class.
        images: exactly so many in all, the same number of each class.
        seed: of the draw.

    Returns:
        Sorted indices, a subset of `pool`; all labelled ones where no budget is given.

    Raises:
        UserError: both budgets, or one that `pool` cannot give; says what each class holds.
    """
    label, pool = np.asarray(label), np.sort(np.asarray(pool, np.int64))
    if per_class is None and images is None:
        return pool[label[pool] >= 0]
    if per_class is not None and images is not None:
        raise UserError("give labels_per_class or images, not both")

    members = [pool[label[pool] == k] for k in range(label.max(initial=-1) + 1)]
    held = ", ".join(f"class {k}: {len(of_class)}" for k, of_class in enumerate(members))
    if not members:
        raise UserError("a budget of labels needs labelled images, and there is none")
    if images is not None:
        per_class, left = divmod(images, len(members))
        if left:
            raise UserError(f"images={images} does not divide evenly over {len(members)} classes")
    if not 1 <= per_class <= min(map(len, members)):
        raise UserError(
            f"{per_class} labels of each class cannot be drawn; the training set holds {held}"
        )
    chosen = (sorted(of_class, key=lambda i: _uniform(seed, i))[:per_class] for of_class in members)
    return np.sort(np.concatenate(list(chosen)))


def _uniform(*key: object) -> float:
    """Hash into [0,1): the same on every machine and under every version of NumPy."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
