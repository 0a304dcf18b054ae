"""Which images a run trains, validates and tests on, as the `data` of its config says."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ssl_gan_jax import targets
from ssl_gan_jax.config import ADAPT
from ssl_gan_jax.data import records as records_lib
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.data.splits import check_disjoint, draw_labels, split
from ssl_gan_jax.errors import UserError, check_choice

_WITHOUT = {
    "validation": "the last weights and the threshold .5 are taken; name some, or leave some open",
    "test": "there will be no test scores",
}


class Dataset(NamedTuple):
    """A data set and sorted indices into it; `val` and `test` hold labelled images only."""

    records: Records
    labeled: np.ndarray
    unlabeled: np.ndarray
    val: np.ndarray
    test: np.ndarray


def load(data: Mapping[str, Any], check: Callable[[Records], Any] | None = None) -> Records:
    """`records.load` as the config's `data` says; prepares the images the first time."""
    how = {key: data[key] for key in ("equalize", "aspect", "max_unreadable")}
    how |= {"cache_dir": data["cache_dir"] or None, "check": check, **dict(data["options"])}
    return records_lib.load(data["name"], data["dir"] or None, data["size"], **how)


def split_images(records: Records, data: Mapping[str, Any]) -> np.ndarray:
    """[N] the part of each image: 'train', 'val', 'test', 'adapt', or '' for none."""
    if data["source_site"]:
        return _split_for_transfer(records, data)
    if data["target_site"]:
        raise UserError("data.target_site is given, and data.source_site is not: give both")
    return _split(records, data, np.arange(len(records.path)), data["val"], data["test"])


def rows_to_adapt_to(records: Records, data: Mapping[str, Any]) -> np.ndarray:
    """The images of the target site that are not test images; none without such a site."""
    return np.flatnonzero(split_images(records, data) == "adapt")


def _split_for_transfer(records: Records, data: Mapping[str, Any]) -> np.ndarray:
    """As Table 2 of Madani et al.: the source site trains and validates.

    `target_test` of the target site's patients (20 % there) are the test set, the others 'adapt'.
    If source and target are one site, its other patients train and validate: the upper bound.
    """
    sites = np.unique(records.site).tolist()
    source, target = (
        np.flatnonzero(records.site == check_choice(f"data.{key}", data[key], sites))
        for key in ("source_site", "target_site")
    )
    part, test = np.full(len(records.path), "", "<U5"), data.get("target_test", 0.2)
    if data["source_site"] == data["target_site"]:
        part[target] = _split(records, data, target, data["val"], test)
        return part
    part[source] = _split(records, data, source, data["val"], 0.0)
    part[source[part[source] == "test"]] = ""  # officially
    of_target = _split(records, data, target, 0.0, test)
    part[target] = np.select([of_target == "train", of_target == "test"], ["adapt", "test"], "")
    return part


def _split(
    records: Records, data: Mapping[str, Any], rows: np.ndarray, val: float, test: float
) -> np.ndarray:
    return split(
        records.patient[rows],
        records.split[rows],
        salt=str(data["split_seed"]),
        val=val,
        test=test,
        train_stays=records.metadata.train_stays,
    )


def open_dataset(
    data: Mapping[str, Any], seed: int, check: Callable[[np.ndarray], Any] = lambda label: None
) -> Dataset:
    """Loads `data.name` (prepares it the first time) and splits it as the config's `data` says.

    Logs how the data were read, each line once and before preparation if it is known by then.
    Raises `UserError` for all that is wrong with data or budget, if possible before preparation.
    `check` takes the labels of all images, and may raise as well.
    """
    logged = set()

    def checked(records: Records) -> Dataset:
        check(records.label)
        dataset = assign(records, data, seed)
        lines = [(logging.INFO, line) for line in summary(records)]
        lines += [(logging.WARNING, line) for line in warnings(dataset)]
        for level, line in lines:
            if line not in logged:
                logging.log(level, "%s", line)
        logged.update(line for _, line in lines)
        return dataset

    return checked(load(data, checked))


def assign(records: Records, data: Mapping[str, Any], seed: int) -> Dataset:
    """Splits `records` as the config's `data` says, and draws the labels that training uses.

    Labels, validation's included, never come from images to adapt to. These are the unlabelled
    images with `data.adapt` "target", as in Madani et al. 2018; with "mixture" they join those of
    the source. With `data.validation` "budget" validation has no more labels of a class than
    training; with findings, no more labelled images. Raises `UserError` for a choice of `data` that
    is none, or that the images lack.
    """
    adapt = ADAPT.get(data["adapt"], data["adapt"])
    check_choice("data.pool", data["pool"], ("all", "labelled"))
    check_choice("data.adapt", adapt, ("none", "target", "mixture"))
    if adapt == "target" and not data["target_site"]:
        raise UserError(f"data.adapt={adapt}: give the site to adapt to as data.target_site")
    part, label = split_images(records, data), records.label
    check_disjoint(records.patient, part)
    train = np.flatnonzero(part == "train")
    if not len(train):
        raise UserError(
            f"data: no training images among {len(part)}; give more images or another division"
        )
    has_label = targets.is_labelled(label)
    if data["only_class"]:
        if records.label.ndim == 2:
            raise UserError("data.only_class: with findings there are no classes; leave it out")
        check_choice("data.only_class", data["only_class"], records.classes)
        has_label = label == records.classes.index(data["only_class"])
        train = train[has_label[train]]
        label = np.where(has_label, 0, -1)
    budget = {"per_class": data["labels_per_class"] or None, "images": data["images"] or None}
    labelled = draw_labels(label, train, records.patient, records.path, **budget, seed=seed)
    unlabelled = train if data["pool"] == "all" else labelled
    if adapt != "none":
        target = np.flatnonzero(part == "adapt")
        unlabelled = target if adapt == "target" else np.union1d(unlabelled, target)
    val, test = (np.flatnonzero((part == name) & has_label) for name in ("val", "test"))
    check_choice("data.validation", data.get("validation", "all"), ("all", "budget"))
    if data.get("validation") == "budget":
        budget = {"images": min(len(labelled), len(val))}
        if targets.of(label) is targets.CLASSES:
            classes = np.unique(label[labelled])
            most = [int(np.sum(label[rows] == k)) for rows in (labelled, val) for k in classes]
            budget = {"per_class": min(most, default=0)}
        if min(budget.values()):
            val = draw_labels(label, val, records.patient, records.path, **budget, seed=seed)
    return Dataset(records, labelled, unlabelled, val, test)


def summary(records: Records) -> list[str]:
    """How the source read the data, which class is the positive one, and what splits are by."""
    lines = list(records.metadata.summary)
    if len(records.classes) == 2 and targets.of(records.label) is targets.CLASSES:
        lines.append(f"positive class: {records.classes[1]}; the other: {records.classes[0]}")
    if not records.metadata.by_patient:
        lines.append("no patients are given: splits and intervals are by image")
    return lines


def warnings(dataset: Dataset) -> list[str]:
    """What of the data may mislead: the source's warnings, and parts that lack a class."""
    records, found = dataset.records, list(dataset.records.metadata.warnings)
    if targets.of(records.label) is targets.FINDINGS:
        return [*found, *_findings_without(dataset)]
    kinds = np.unique(records.label[records.label >= 0])
    for name, rows in (("validation", dataset.val), ("test", dataset.test)):
        lacking = np.setdiff1d(kinds, records.label[rows])
        if not len(rows):
            found.append(f"no labelled {name} images: {_WITHOUT[name]}")
        elif len(lacking) and len(np.unique(records.label[dataset.labeled])) > 1:
            which = f"no {name} image of class {', '.join(records.classes[k] for k in lacking)}"
            found.append(f"{which}: its scores say nothing of that class")
    return found


def _findings_without(dataset: Dataset) -> Iterator[str]:
    """The parts in which findings are always, or never, present among the images that say so."""
    label, classes = dataset.records.label, dataset.records.classes
    parts = {"training": dataset.labeled, "validation": dataset.val, "test": dataset.test}
    for name, rows in parts.items():
        if not len(rows) and name in _WITHOUT:
            yield f"no labelled {name} images: {_WITHOUT[name]}"
        elif lacking := targets.lacking(label[rows], classes):
            yield (
                f"no {name} image is known to show, or none to lack, {', '.join(lacking)}: "
                f"{'it cannot be learnt' if name == 'training' else 'it has no scores there'}"
            )


def check_classes(dataset: Dataset) -> None:
    """Raise `UserError` for fewer than two classes, or one without a labelled training image.

    Of findings, if none can be learnt; `warnings` names those that cannot.
    """
    records, classes = dataset.records, dataset.records.classes
    if targets.of(records.label) is targets.FINDINGS:
        if len(targets.lacking(records.label[dataset.labeled], classes)) == len(classes):
            names = ", ".join(classes)
            raise UserError(f"data: no training images both show and lack a finding of {names}")
        return
    if len(classes) < 2:
        raise UserError(
            f"data: a classifier needs two classes, and there is {' and '.join(classes) or 'none'}"
            f"{''.join(f'; {line}' for line in records.metadata.summary[:1])}; label images of "
            "another class, or give the folder that holds a sub-folder for each"
        )
    count = np.bincount(records.label[dataset.labeled], minlength=len(classes))
    if (count == 0).any():
        raise UserError(
            f"data: no labelled training image of class {classes[int(np.argmin(count))]!r}; label "
            "some, say in `split` which train, choose another data.split_seed, or leave the class "
            "out"
        )


def fingerprint(dataset: Dataset) -> dict[str, str]:
    """SHA-256 of what a run reads of its data, the same on every machine.

    "names": which images each part has; "labels": those of training and validation; "pixels": the
    prepared images of all parts. Classes, whose names are no secret, go beside it.
    """
    names, labels = _names_and_labels(dataset)
    pixels = (image for rows in dataset[1:] for image in dataset.records.image[rows])
    return {"names": _sha256(names), "labels": _sha256(labels), "pixels": _sha256(pixels)}


def changes(dataset: Dataset, old: Mapping[str, str] | str) -> list[str]:
    """What differs from the fingerprint `old` that a run has stored, [] if nothing does.

    Runs of earlier versions stored one digest of names and labels, so of their pixels nothing is
    known.
    """
    if isinstance(old, str):
        logging.warning("the run is of an earlier version, which noted names and labels alone: "
                        "whether the pixels are those that it began with is not known")  # fmt: skip
        names, labels = _names_and_labels(dataset)
        return [] if old == _sha256(names + labels) else ["names or labels"]
    return [kind for kind, digest in fingerprint(dataset).items() if old.get(kind) != digest]


def check_data(
    where: Path, dataset: Dataset, classes: Sequence[str], old: Mapping[str, str] | str | None
) -> None:
    """Raises `UserError` if the data have not the classes and fingerprint of the run `where`."""
    if list(classes) != list(dataset.records.classes):
        raise UserError(
            f"{where}: trained on classes {list(classes)}, but the data has "
            f"{list(dataset.records.classes)}; bring back the run's own data"
        )
    if old is None:
        logging.warning("%s has not noted its data; whether these are the same is not known", where)
    elif differ := changes(dataset, old):
        raise UserError(
            f"{where}: its images, their division or labels are not those that it began with "
            f"(other {', '.join(differ)}); bring these back, or choose another --workdir"
        )


def _names_and_labels(dataset: Dataset) -> tuple[list[bytes], list[bytes]]:
    path, label = dataset.records.path, dataset.records.label
    names = [repr(path[rows].tolist()).encode() for rows in dataset[1:]]
    return names, [repr(label[rows].tolist()).encode() for rows in (dataset.labeled, dataset.val)]


def _sha256(parts: Iterable[bytes | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
