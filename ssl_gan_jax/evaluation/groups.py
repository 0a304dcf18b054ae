"""Counts of each split of the data, and scores of groups of the test images."""

from typing import Any

import numpy as np

from ssl_gan_jax import targets
from ssl_gan_jax.data.dataset import Dataset
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.evaluation import metrics

SMALLEST = 10  # images of a group; scores of fewer images mean little


def splits(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Images, patients, images a class and (if there are several) images a site of each split.

    JSON-ready; for `result.json`. `patients` is None if the data name no patients. Classes of the
    unlabelled training images are not counted.
    """
    records, found = dataset.records, {}
    parts = {
        "labelled": dataset.labeled,
        "unlabelled": dataset.unlabeled,
        "validation": dataset.val,
        "test": dataset.test,
    }
    for name, rows in parts.items():
        found[name] = {"images": len(rows), "patients": None}
        if records.metadata.by_patient:
            found[name]["patients"] = len(np.unique(records.patient[rows]))
        if name != "unlabelled":
            found[name]["classes"] = targets.counts(records.label[rows], records.classes)
        sites, count = np.unique(records.site[rows], return_counts=True)
        if len(np.unique(records.site)) > 1:
            found[name]["sites"] = dict(zip(sites.tolist(), count.tolist(), strict=True))
    return found


def by_group(
    probs: np.ndarray, records: Records, rows: np.ndarray, threshold: float
) -> dict[str, dict[str, Any]]:
    """`metrics.report` of groups of the images `rows` [N], such as "sex F"; `probs` is [N,K].

    Groups are those of SMALLEST images or more, by site and by the source's other columns (sex,
    age, view).
    """
    reports = {}
    for kind, values in {"site": records.site, **records.groups}.items():
        names, count = np.unique(values[rows], return_counts=True)
        for name in names[count >= SMALLEST] if len(names) > 1 else ():
            members = values[rows] == name
            label, patient = records.label[rows][members], records.patient[rows][members]
            key = f"{kind} {name or 'unknown'}"
            reports[key] = metrics.report(probs[members], label, patient, threshold)
    return reports
