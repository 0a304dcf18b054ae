"""Which images a run trains, validates and tests on: a data set seen through its config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ssl_gan_jax.data import records as records_lib
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.data.splits import Split, draw_labels, split
from ssl_gan_jax.errors import UserError, check_choice


class Task(NamedTuple):
    """A data set and sorted indices into it; `val` and `test` hold labelled images only."""

    records: Records
    labelled: np.ndarray
    unlabelled: np.ndarray
    val: np.ndarray
    test: np.ndarray


def load(data: Mapping[str, Any]) -> Records:
    """`records.load` as the config's `data` says; prepares the images the first time."""
    return records_lib.load(
        data["name"],
        data["dir"] or None,
        data["size"],
        equalize=data["equalize"],
        aspect=data["aspect"],
        cache_dir=data["cache_dir"] or None,
        max_unreadable=data["max_unreadable"],
        **dict(data["options"]),
    )


def open_task(data: Mapping[str, Any], seed: int) -> Task:
    """Loads `data.name` (prepares it the first time) and divides it as the config's `data` says.

    With `source_site` and `target_site` it is M's Table 2: labels, validation included, come from
    the source alone; 20 % of the target's patients are the test set; the other 80 % join the
    unlabelled images if `adapt` is set. Otherwise 80:10:10, or the official test set.

    Raises:
      UserError: everything that can be wrong with the data or with the budget.
    """
    check_choice("data.pool", data["pool"], ("all", "labelled"))
    records = load(data)
    salt, transfer = str(data["split_seed"]), bool(data["source_site"])
    if transfer:
        source = _of_site(records, data["source_site"], "source_site")
        target = _of_site(records, data["target_site"], "target_site")
        train, val, _ = _split_rows(records, source, salt, data["val"], 0.0)
        rest, _, test = _split_rows(records, target, salt, 0.0, 0.2)
        extra = rest if data["adapt"] else rest[:0]
    else:
        rows = np.arange(len(records.label))
        train, val, test = _split_rows(records, rows, salt, data["val"], data["test"])
        extra = rows[:0]
    if data["only_class"]:
        check_choice("data.only_class", data["only_class"], records.classes)
        wanted = records.classes.index(data["only_class"])
        train = train[records.label[train] == wanted]
    else:
        wanted = None
    labelled = draw_labels(
        records.label if wanted is None else np.where(records.label == wanted, 0, -1),
        train,
        per_class=data["labels_per_class"] or None,
        images=data["images"] or None,
        seed=seed,
    )
    unlabelled = np.union1d(train if data["pool"] == "all" else labelled, extra)
    val, test = (rows[records.label[rows] >= 0] for rows in (val, test))
    return Task(records, labelled, unlabelled, val, test)


def _of_site(records: Records, site: str, key: str) -> np.ndarray:
    check_choice(f"data.{key}", site, np.unique(records.site).tolist())
    return np.flatnonzero(records.site == site)


def _split_rows(records: Records, rows: np.ndarray, salt: str, val: float, test: float) -> Split:
    """`split` of some rows; for a target site nothing is official."""
    parts = split(records.patient[rows], records.split[rows], salt=salt, val=val, test=test)
    if not len(parts.train):
        raise UserError(f"data: no training images among {len(rows)}; give more images or labels")
    return Split(*(rows[part] for part in parts))
