"""Which images a run trains, validates and tests on: a data set seen through its config."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

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
    return records_lib.load(
        data["name"],
        data["dir"] or None,
        data["size"],
        equalize=data["equalize"],
        aspect=data["aspect"],
        cache_dir=data["cache_dir"] or None,
        max_unreadable=data["max_unreadable"],
        check=check,
        **dict(data["options"]),
    )


def divide(records: Records, data: Mapping[str, Any]) -> np.ndarray:
    """[N] the part of each image: 'train', 'val', 'test', 'adapt', or '' for none.

    80:10:10, or the official test set. With `source_site` and `target_site` as Madani et al. 2018,
    Table 2: the source trains and validates; 20 % of the target's patients are the test set, the
    other 80 % 'adapt', or where source and target are one site train and validate.
    """
    everywhere = [(None, data["val"], data["test"], {})]
    transfer = [
        ("source_site", data["val"], 0.0, {"test": ""}),  # '': officially another part's
        ("target_site", 0.0, 0.2, {"train": "adapt", "val": ""}),
    ]
    if data["source_site"] == data["target_site"]:  # the upper bound: its other patients train
        transfer = [("target_site", data["val"], 0.2, {})]
    if data["target_site"] and not data["source_site"]:
        raise UserError("data.target_site is given, and data.source_site is not: give both")
    part, salt = np.full(len(records.path), "", "<U5"), str(data["split_seed"])
    for key, val, test, names in transfer if data["source_site"] else everywhere:
        rows = np.arange(len(part))
        if key:
            check_choice(f"data.{key}", data[key], np.unique(records.site).tolist())
            rows = np.flatnonzero(records.site == data[key])
        found = split(
            records.patient[rows],
            records.split[rows],
            salt=salt,
            val=val,
            test=test,
            train_stays=records.understood.train_stays,
        )
        part[rows] = [names.get(name, name) for name in found.tolist()]
    return part


def open_dataset(data: Mapping[str, Any], seed: int) -> Dataset:
    """Loads `data.name` (prepares it the first time) and divides it as the config's `data` says.

    Raises:
      UserError: everything that can be wrong with the data or with the budget, before images are
        prepared where that can be known.
    """
    return assign(load(data, lambda listed: assign(listed, data, seed)), data, seed)


def assign(records: Records, data: Mapping[str, Any], seed: int) -> Dataset:
    """Divides `records` as the config's `data` says, and draws the labels that training sees.

    Labels, validation's included, never come from images to adapt to. These are the unlabelled
    images with `data.adapt` "target", as in Madani et al. 2018; with "mixture" they join those of
    the source.

    Raises:
      UserError: a choice of `data` that is none, or what the images do not give.
    """
    adapt = ADAPT.get(data["adapt"], data["adapt"])
    check_choice("data.pool", data["pool"], ("all", "labelled"))
    check_choice("data.adapt", adapt, ("none", "target", "mixture"))
    if adapt == "target" and not data["target_site"]:
        raise UserError(f"data.adapt={adapt}: give the site to adapt to as data.target_site")
    part, label = divide(records, data), records.label
    check_disjoint(records.patient, part)
    train = np.flatnonzero(part == "train")
    if not len(train):
        raise UserError(
            f"data: no training images among {len(part)}; give more images or another division"
        )
    judged = label >= 0
    if data["only_class"]:
        check_choice("data.only_class", data["only_class"], records.classes)
        judged = label == records.classes.index(data["only_class"])
        train = train[judged[train]]
        label = np.where(judged, 0, -1)
    labelled = draw_labels(
        label,
        train,
        records.patient,
        records.path,
        per_class=data["labels_per_class"] or None,
        images=data["images"] or None,
        seed=seed,
    )
    unlabelled = train if data["pool"] == "all" else labelled
    if adapt != "none":
        target = np.flatnonzero(part == "adapt")
        unlabelled = target if adapt == "target" else np.union1d(unlabelled, target)
    val, test = (np.flatnonzero((part == name) & judged) for name in ("val", "test"))
    task = Dataset(records, labelled, unlabelled, val, test)
    for line in understood(records):
        logging.info("%s", line)
    for line in warnings(task):
        logging.warning("%s", line)
    return task


def understood(records: Records) -> list[str]:
    """How the source read the data, which class is the positive one, and what splits are by."""
    lines = list(records.understood.lines)
    if len(records.classes) == 2:
        lines.append(f"positive class: {records.classes[1]}; the other: {records.classes[0]}")
    if not records.understood.by_patient:
        lines.append("no patients are given: splits and intervals are by image")
    return lines


def warnings(task: Dataset) -> list[str]:
    """What of the data may mislead: the source's warnings, and parts that lack a class."""
    records, found = task.records, list(task.records.understood.warnings)
    kinds = np.unique(records.label[records.label >= 0])
    for name, rows in (("validation", task.val), ("test", task.test)):
        lacking = np.setdiff1d(kinds, records.label[rows])
        if not len(rows):
            found.append(f"no labelled {name} images: {_WITHOUT[name]}")
        elif len(lacking) and len(np.unique(records.label[task.labeled])) > 1:
            classes = ", ".join(records.classes[k] for k in lacking)
            found.append(
                f"no {name} image of class {classes}: its scores say nothing of that class"
            )
    return found


def check_taught(task: Dataset) -> None:
    """Refuse data that teach no classifier.

    Raises:
        UserError: there is one class only, or one without a labelled training image.
    """
    records = task.records
    classes = records.classes
    if len(classes) < 2:
        raise UserError(
            f"data: a classifier needs two classes, and there is {' and '.join(classes) or 'none'}"
            f"{''.join(f'; {line}' for line in records.understood.lines[:1])}; label images of "
            "another class, or give the folder that holds a sub-folder for each"
        )
    count = np.bincount(records.label[task.labeled], minlength=len(classes))
    if (count == 0).any():
        raise UserError(
            f"data: no labelled training image of class {classes[int(np.argmin(count))]!r}; label "
            "some, say in `split` which train, choose another data.split_seed, or leave the class "
            "out"
        )


def fingerprint(task: Dataset) -> dict[str, str]:
    """SHA-256 of what a run sees of its data, the same on every machine.

    "names": which images each part has; "labels": those that training and validation see;
    "pixels": the prepared images of all parts. Classes, whose names are no secret, go beside it.
    """
    names, labels, pixels = _names(task), _labels(task), hashlib.sha256()
    for rows in task[1:]:
        for image in task.records.image[rows]:
            pixels.update(image)
    return {"names": _sha256(names), "labels": _sha256(labels), "pixels": pixels.hexdigest()}


def changes(task: Dataset, old: Mapping[str, str] | str) -> list[str]:
    """What of a `fingerprint` that a run has stored is not `task`'s: [] where all is the same.

    Runs of earlier versions stored one digest of names and labels: of their pixels nothing can be
    said, and a warning says so.
    """
    if isinstance(old, str):
        logging.warning("the run is of an earlier version, which noted names and labels alone: "
                        "whether the pixels are those that it began with is not known")  # fmt: skip
        return [] if old == _sha256(_names(task) + _labels(task)) else ["names or labels"]
    return [kind for kind, digest in fingerprint(task).items() if old.get(kind) != digest]


def check_data(
    where: Path, task: Dataset, classes: Sequence[str], old: Mapping[str, str] | str | None
) -> None:
    """Refuses data that are not those of the run in `where`, of `classes` and fingerprint `old`.

    Raises:
      UserError: says what differs: classes, names (with the division), labels or pixels.
    """
    if list(classes) != list(task.records.classes):
        raise UserError(
            f"{where}: trained on classes {list(classes)}, but the data has "
            f"{list(task.records.classes)}; bring back the run's own data"
        )
    if old is None:
        logging.warning("%s has not noted its data; whether these are the same is not known", where)
    elif differ := changes(task, old):
        raise UserError(
            f"{where}: its images, their division or labels are not those that it began with "
            f"(other {', '.join(differ)}); bring these back, or choose another --workdir"
        )


def _names(task: Dataset) -> bytes:
    return b"".join(repr(task.records.path[rows].tolist()).encode() for rows in task[1:])


def _labels(task: Dataset) -> bytes:
    rows = (task.labeled, task.val)
    return b"".join(repr(task.records.label[some].tolist()).encode() for some in rows)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
