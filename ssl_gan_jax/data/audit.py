"""What is odd in a data set: duplicates, patients in two splits, unreadable and constant images."""

import collections
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_gan_jax import targets
from ssl_gan_jax.data import images
from ssl_gan_jax.data.pixels import UnreadableImage
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.data.splits import patients_across

HASH_DISTANCE, CORRELATION = 6, 0.99  # of near duplicates: at most, at least
COLUMNS, ROWS, PAIRS = 16, 2, 64  # of the sheets
LISTED = 1000  # of anything, at most
NEAR = 20_000  # pairs of near duplicates that are kept, within splits and across
COMPARED = 2**22  # pixels that are compared at a time

Pairs = np.ndarray  # [P,2] indices of images


def audit(found: Records, split: np.ndarray) -> tuple[dict[str, Any], Pairs]:
    """Returns the report, and the pairs of duplicates, those across splits first."""
    varied = np.ptp(found.image.reshape(len(found.path), -1), axis=1) > 0
    # Also among those of a split, and those with a label, if the first of all has none.
    first = first_equal(found.image)
    exact, divided, labelled = (
        exact_pairs(first, varied & among)
        for among in (True, split != "", targets.is_labelled(found.label))
    )
    exact = np.unique(np.concatenate([exact, divided]), axis=0)
    near, all_of_them = near_pairs(found.image, varied, first, split)
    patients = patients_across(found.patient, split)
    per_patient = collections.Counter(np.unique(found.patient, return_counts=True)[1].tolist())
    label = found.label.reshape(len(found.label), -1)[labelled]  # [P,2,1], or of findings [P,2,K]
    contradict = labelled[((label.min(1) >= 0) & (np.ptp(label, 1) > 0)).any(1)]

    def listed(pairs: Pairs) -> list[list[str]]:
        return found.path[pairs[:LISTED]].tolist()

    report = {
        "images": len(found.path),
        "splits_by": "patient" if found.metadata.by_patient else "image",
        "patients": len(np.unique(found.patient)),
        "leaks": len(patients) + int(_across(split, *exact.T).sum()),
        "counts": [
            {**group, "images": len(rows), "patients": len(np.unique(found.patient[rows]))}
            for group, rows in _groups(found, split)
        ],
        "images_per_patient": {str(n): times for n, times in sorted(per_patient.items())},
        "unreadable": [list(pair) for pair in found.quarantined[:LISTED]],
        "constant": found.path[~varied][:LISTED].tolist(),
        "patients_in_two_splits": listed(patients),
        "duplicates_with_different_labels": listed(contradict),
        "all_near_duplicates": all_of_them,
    }
    pairs = np.concatenate([exact, near])
    for kind, of_kind in (("exact_duplicates", exact), ("near_duplicates", near)):
        across = _across(split, *of_kind.T)
        report[kind] = {"across": listed(of_kind[across]), "within": listed(of_kind[~across])}
    return report, pairs[np.argsort(~_across(split, *pairs.T), kind="stable")]


def first_equal(image: np.ndarray) -> np.ndarray:
    """[N] the first image that each equals: itself, unless there is one before it."""
    first = {}
    digests = (hashlib.sha256(pixels.tobytes()).digest() for pixels in image)
    return np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)])


def exact_pairs(first: np.ndarray, among: np.ndarray) -> Pairs:
    """Each image of `among` with the first of them that is equal; `first` as `first_equal`."""
    rows = np.flatnonzero(among)
    _, at, back = np.unique(first[rows], return_index=True, return_inverse=True)
    pairs = np.stack([rows[at[back]], rows], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def near_pairs(
    image: np.ndarray, among: np.ndarray, first: np.ndarray, split: np.ndarray
) -> tuple[Pairs, bool]:
    """Pairs of `among` [N] that are similar and not equal, and whether these are all of them.

    Takes time as N squared, and memory as N: of pairs across splits, and of others, NEAR at most
    are kept, and no more than these are compared.

    Args:
        image: [N,H,W,1] uint8.
        among: [N] bool.
        first: [N] as `first_equal`.
        split: [N] the part of each image, '' for none.
    """
    import imagehash

    rows = np.flatnonzero(among)
    if not len(rows):
        return np.zeros((0, 2), np.int64), True
    bits = [imagehash.phash(Image.fromarray(image[i, ..., 0])).hash.ravel() for i in rows]
    codes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    flat = image.reshape(len(image), -1)
    piece = max(1, COMPARED // flat.shape[1])
    kept, room = [np.zeros((0, 2), np.int64)], np.array([NEAR, NEAR])  # pairs within, across
    for k, (i, code) in enumerate(zip(rows, codes, strict=True)):
        if not (room > 0).any():
            break
        alike = rows[k + 1 :][np.bitwise_count(codes[k + 1 :] ^ code) <= HASH_DISTANCE]
        alike = alike[first[alike] != first[i]]
        a = flat[i] - flat[i].mean()
        for start in range(0, len(alike), piece):
            j = alike[start : start + piece]
            j = j[room[_across(split, i, j).astype(int)] > 0]
            b = flat[j] - flat[j].mean(1, keepdims=True)
            j = j[(a * b).sum(1) >= CORRELATION * np.sqrt((a**2).sum() * (b**2).sum(1))]
            kept.append(np.stack([np.full(len(j), i), j], 1))
            room -= np.bincount(_across(split, i, j), minlength=2)
    return np.concatenate(kept), bool((room > 0).all())


def _across(split: np.ndarray, i: np.ndarray | int, j: np.ndarray) -> np.ndarray:
    """Whether images `i` and `j` are in different parts of the data; '' is none."""
    return (split[i] != split[j]) & (split[i] != "") & (split[j] != "")


def headers(files: Sequence[Path]) -> dict[str, Any]:
    """Sizes, bit depths and DICOM's annotation flags, as the headers of the files have them."""
    sizes, bits, burned_in = (collections.Counter() for _ in range(3))
    for path in files:
        with contextlib.suppress(UnreadableImage):  # listed already
            head = images.read_header(path)
            sizes[f"{head.width}x{head.height}"] += 1
            bits[str(head.bits)] += 1
            if head.burned_in is not None:
                burned_in[head.burned_in or "not given"] += 1
    counts = {"sizes": sizes, "bits": bits, "burned_in_annotation": burned_in}
    return {key: dict(counter.most_common(LISTED)) for key, counter in counts.items()}


def sheet(found: Records, split: np.ndarray) -> np.ndarray:
    """Random images of each split and class, COLUMNS to a row; -1 for an empty place."""
    random, chosen = np.random.default_rng(0), []
    for _, rows in _groups(found, split):
        take = random.permutation(rows)[: COLUMNS * ROWS]
        chosen += [*take, *[-1] * (-len(take) % COLUMNS)]
    return np.array(chosen)


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as lines of a log."""
    yield from report.get("understood", ())
    yield from (f"WARNING: {line}" for line in report.get("warnings", ()))

    def count(row: Mapping[str, Any]) -> str:
        of = f" of {row['patients']} patients" if report["splits_by"] == "patient" else ""
        return f"{row['images']} images{of}"

    yield count(report)
    for row in report["counts"]:
        name = ", ".join(row[key] for key in ("site", "split", "class") if row[key])
        yield f"  {name}: {count(row)}"
    for key in ("sizes", "bits", "burned_in_annotation"):
        if few := list(report.get(key, {}).items())[:5]:
            yield f"{key.replace('_', ' ')}: " + ", ".join(f"{name} {n}" for name, n in few)
    for key in ("unreadable", "constant", "duplicates_with_different_labels"):
        if found := report[key]:
            yield f"{key.replace('_', ' ')}: {len(found)}, such as {found[0]}"
    for key in ("exact_duplicates", "near_duplicates"):
        a, b = (report[key][where] for where in ("across", "within"))
        yield f"{key.replace('_', ' ')}: {len(a)} pairs across splits, {len(b)} within"
        for pair in a[:5]:
            yield f"  {pair[0]} = {pair[1]}"
    if not report["all_near_duplicates"]:
        yield f"there may be more near duplicates: the search kept {NEAR} of a kind"
    for pair in report["patients_in_two_splits"][:5]:
        yield f"the same patient in two splits: {pair[0]}, {pair[1]}"
    yield f"{report['leaks']} leaks between splits" if report["leaks"] else "nothing leaks"


def _groups(found: Records, split: np.ndarray) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """The images of each site, split and class; those with several findings come several times."""
    members = targets.of(found.label).members(found.label, len(found.classes))
    labelled = targets.is_labelled(found.label)
    none = {"none": labelled & ~members.any(1)} if found.label.ndim == 2 else {}
    of_class = {"unlabelled": ~labelled, **none, **dict(zip(found.classes, members.T, strict=True))}
    keys = np.stack([found.site, split], axis=1)
    for site, part in np.unique(keys, axis=0).tolist():
        here = (keys == (site, part)).all(axis=1)
        for name, of_it in of_class.items():
            if len(rows := np.flatnonzero(here & of_it)):
                yield {"site": site, "split": part, "class": name}, rows
