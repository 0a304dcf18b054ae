"""Who trains, who validates, who tests, and whose labels are known. Pure NumPy.

Membership is a hash of the patient, so images of one patient stay together and images that arrive
later never move the patients that are there already.
"""

import hashlib
import unicodedata

import numpy as np

from ssl_gan_jax import targets
from ssl_gan_jax.errors import UserError

OFFICIAL = ("", "train", "val", "test")  # '' = the data set prescribes nothing for this image


def split(
    patient: np.ndarray,
    official: np.ndarray,
    *,
    salt: str = "",
    val: float = 0.1,
    test: float = 0.1,
    train_stays: bool = False,
) -> np.ndarray:
    """Divide images by patient into 'train', 'val' and 'test', [N] str.

    If any image is officially 'test' (or 'val'), exactly those images are, and the others of their
    patients for which nothing is prescribed. Otherwise a patient belongs there if the hash of
    (salt, patient) falls into that part of [0,1): the first `test` of it, or the next `val`. In
    small data sets the parts can be far from these shares.

    Args:
        patient: [N] str, grouping key.
        official: [N] str, one of OFFICIAL. If it disagrees with the patients, a patient is in two
            parts: see `check_disjoint`.
        salt: another salt gives another division.
        val: expected share of validation patients.
        test: expected share of test patients, if there is no official test set.
        train_stays: what is officially 'train' trains; only images for which nothing is prescribed
            are divided. Else 'train' means "not test", as publishers use it, and is divided too.

    Raises:
        UserError: an unknown split or impossible shares.
    """
    patient, official = np.asarray(patient), np.asarray(official)
    if unknown := sorted(set(official.tolist()) - set(OFFICIAL)):
        raise UserError(f"unknown split {unknown[0]!r}: use one of {OFFICIAL}")
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise UserError(f"val={val} and test={test}: both must be >= 0, and their sum below 1")
    keys, of_key = np.unique(patient, return_inverse=True)
    share = np.array([_uniform(salt, key) for key in keys.tolist()], np.float64)[of_key]
    given = np.zeros(len(keys), official.dtype)
    given[of_key[official != ""]] = official[official != ""]
    official = np.where(official == "", given[of_key], official)
    in_test, in_val = (official == name for name in ("test", "val"))
    divided = (official == "") | ((official == "train") & (not train_stays))
    in_test = in_test if in_test.any() else (share < test) & divided
    in_val = in_val if in_val.any() else (test <= share) & (share < test + val) & divided & ~in_test
    return np.select([in_test, in_val], ["test", "val"], "train")


def patients_across(patient: np.ndarray, part: np.ndarray) -> np.ndarray:
    """[P,2] one pair of images for each patient in two parts; `part` [N] str, '' for none."""
    firsts, pairs = {}, {}
    for i in np.flatnonzero(part != ""):
        first = firsts.setdefault(patient[i], i)
        if part[first] != part[i]:
            pairs.setdefault(patient[i], (first, i))
    return np.array(list(pairs.values()), np.int64).reshape(-1, 2)


def check_disjoint(patient: np.ndarray, part: np.ndarray) -> None:
    """Raise `UserError` if any patient is in two parts; the message names images, not patients."""
    if len(pairs := patients_across(patient, part)):
        i, j = pairs[0]
        raise UserError(
            f"{len(pairs)} patients are in two parts (first: images number {i} in {part[i]} and "
            f"{j} in {part[j]}): correct the patient keys or the official splits"
        )


def draw_labels(
    label: np.ndarray,
    pool: np.ndarray,
    patient: np.ndarray,
    path: np.ndarray,
    *,
    per_class: int | None = None,
    images: int | None = None,
    seed: int,
) -> np.ndarray:
    """Choose the images of `pool` whose labels training may use, as sorted indices.

    Each class is put into an order by hash of (seed, patient, path) and its first n are taken, so
    at one seed a smaller budget is a subset of a larger one, and an image more or less changes the
    draw by itself alone. Without a budget, all labelled images of `pool` are taken.

    If images have several findings (targets.py), there is such an order of the images with each
    finding, and one of the labelled images without any. The draw takes the first image of each
    order, then the second of each and so on, until it has enough; an image counts in the order in
    which it comes first. So K+1 images or more show every finding, and rare findings are more
    frequent in the draw than among all images. A smaller budget is a subset here too.

    Args:
        label: [N] int, 0..K-1; -1 = unlabelled. Labels outside of `pool` give K alone. Or [N,K].
        pool: indices to choose from, such as those of the training images.
        patient: [N] str, grouping key.
        path: [N] str, unique; relative, so that it is the same on every machine.
        per_class: exactly so many of each class.
        images: exactly so many in all; of classes, the same number of each.
        seed: of the draw.

    Raises:
        UserError: both budgets, or one that `pool` cannot give; says what each class holds.
    """
    label, pool = np.asarray(label), np.sort(np.asarray(pool, np.int64))
    labelled = pool[targets.is_labelled(label[pool])]
    if per_class is None and images is None:
        return labelled
    if per_class is not None and images is not None:
        raise UserError("give labels_per_class or images, not both")
    findings = targets.of(label) is targets.FINDINGS
    classes = label.shape[1] if findings else label.max(initial=-1) + 1
    shown = targets.of(label).members(label[labelled], classes)
    members = [labelled[of_class] for of_class in shown.T]
    if not members:
        raise UserError("a budget of labels needs labelled images, and there is none")
    if findings:
        if images is None:
            raise UserError("data.labels_per_class is of classes; with findings give data.images")
        if not 1 <= images <= len(labelled):
            held = f"the training set holds {len(labelled)} with labels"
            raise UserError(f"data.images={images} cannot be drawn; {held}")
        members.append(labelled[~shown.any(axis=1)])
    elif images is not None:
        per_class, left = divmod(images, len(members))
        if left:
            raise UserError(f"images={images} does not divide evenly over {len(members)} classes")
    if not findings and not 1 <= per_class <= min(map(len, members)):
        held = ", ".join(f"class {k}: {len(of_class)}" for k, of_class in enumerate(members))
        raise UserError(
            f"{per_class} labels of each class cannot be drawn; the training set holds {held}"
        )

    def place(i: int) -> float:
        # One form of Unicode: systems write the same name in several.
        return _uniform(seed, *(unicodedata.normalize("NFC", of[i]) for of in (patient, path)))

    turn = {}  # (place in an order, which order), of each image the first
    for k, of_class in enumerate(members):
        for i, image in enumerate(sorted(of_class, key=place)):
            turn[image] = min(turn.get(image, (i, k)), (i, k))
    total = images or per_class * len(members)
    return np.sort(np.array(sorted(turn, key=turn.get)[:total]))


def _uniform(*key: object) -> float:
    """Hash into [0,1): the same on every machine and under every version of NumPy."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
