"""Pools test scores over the seeds of each scenario of domain.py, with patients as units.

    python tests/benchmarks/pooled.py --data_dir=DIR --out=pooled.jsonl RUNS [RUNS...]

RUNS is the folder of a sweep, or of its adapted runs. Each of their seeds tests other patients of
the target, drawn anew, so that a patient is in several runs: `evaluation/pooled.py`. Appends a
JSON row for each cell, with the differences to `cnn` if that is among them. Exit codes: 0 done,
2 bad input.
"""

import collections
import json
from pathlib import Path

import numpy as np
import rows

from ssl_gan_jax import inference
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation.metrics import csv_cell
from ssl_gan_jax.evaluation.pooled import Scored, pooled
from ssl_gan_jax.report import predictions

COMMAND = "python tests/benchmarks/pooled.py --data_dir=DIR --out=OUT RUNS"
METRICS = ("auroc", "accuracy")  # accuracy at the threshold .5


def main(args):
    folders = sorted(path.parent for runs in args.runs for path in Path(runs).glob("*/result.json"))
    if not folders:
        raise UserError(f"{', '.join(args.runs)}: no finished run of a sweep")
    cells, patients = collections.defaultdict(dict), {}
    for folder in folders:
        run = inference.open_run(folder)
        data = run.config["data"]
        place = json.dumps([data[key] for key in ("name", "size", "equalize", "options")])
        if place not in patients:
            records = inference.dataset_of(run, args.data_dir).records
            patients[place] = dict(zip(map(csv_cell, records.path), records.patient, strict=True))
        found = predictions.read(folder)
        patient = np.array([patients[place][path] for path in found.path])
        scored = Scored(found.probs, found.label, patient, 0.5)
        cells[key_of(run.result["cell"])][run.result["seed"]] = scored
    for key, runs in cells.items():
        cell = json.loads(key)
        baseline = cells.get(key_of(cell | {"scenario": "cnn", "adapted": None}), {})
        rows.append(args.out, {"cell": cell, **scores(runs, baseline)}, COMMAND)


def key_of(cell):
    """The cell of a run without its seed, and without the method, which its scenario implies."""
    kept = {k: v for k, v in cell.items() if k not in ("seed", "method") and v is not None}
    return json.dumps(kept, sort_keys=True)


def scores(runs, baseline):
    """Those of the runs {seed: Scored}, and the differences to the baseline's of the same seeds."""
    both = sorted(runs.keys() & baseline.keys())
    found = pooled([runs[seed] for seed in sorted(runs)], METRICS)
    row = {"runs": len(runs), **{name: value._asdict() for name, value in found.items()}}
    row["patients"] = len(set().union(*(run.patient for run in runs.values())))
    if both and runs is not baseline:
        ours, theirs = ([each[seed] for seed in both] for each in (runs, baseline))
        assert all(
            np.array_equal(a.patient, b.patient) for a, b in zip(ours, theirs, strict=True)
        ), "the runs do not share their test images"
        found = pooled(ours, METRICS, theirs)
        row["minus_cnn"] = {name: value._asdict() for name, value in found.items()}
    return row


if __name__ == "__main__":
    rows.run(main, "pooled", __doc__, "RUNS")
