"""What a result says of the parts of the data, and of groups of the test images."""

from typing import Any

import numpy as np

from ssl_gan_jax.data.dataset import Dataset
from ssl_gan_jax.data.records import Records
from ssl_gan_jax.evaluation import metrics

SMALLEST = 10  # images of a group that is reported: of fewer the scores say nothing


def splits(task: Dataset) -> dict[str, dict[str, Any]]:
    """Images, patients and images a class of each part of `task`, by site where there are several.

    JSON-ready; for `result.json`. `patients` is None where none were given. Labels of training
    images that a run may not see are not counted.
    """
    records, found = task.records, {}
    parts = {
        "labelled": task.labeled,
        "unlabelled": task.unlabeled,
        "validation": task.val,
        "test": task.test,
    }
    for name, rows in parts.items():
        found[name] = {"images": len(rows), "patients": None}
        if records.metadata.by_patient:
            found[name]["patients"] = len(np.unique(records.patient[rows]))
        if name != "unlabelled":
            label = records.label[rows]
            counts = {c: int((label == k).sum()) for k, c in enumerate(records.classes)}
            found[name]["classes"] = counts
        sites, count = np.unique(records.site[rows], return_counts=True)
        if len(np.unique(records.site)) > 1:
            found[name]["sites"] = dict(zip(sites.tolist(), count.tolist(), strict=True))
    return found


def by_group(
    probs: np.ndarray, records: Records, rows: np.ndarray, threshold: float
) -> dict[str, dict[str, Any]]:
    """`metrics.report` of subgroups of the images `rows` [N], as "sex F"; `probs` is [N,K].

    By site and whatever else the source's table says (sex, age, view); groups of SMALLEST or more.
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
