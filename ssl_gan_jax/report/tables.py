"""Tables of means over runs with intervals, and of paired differences."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ssl_gan_jax.report.published import paper_columns
from ssl_gan_jax.report.rows import Budget, Panel, ReportRow

NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "Calibration error (ECE)",
    "accuracy_at_half": "Accuracy at the threshold .5",
    "accuracy_label_free": "Accuracy at the prior that EM estimates, or at .5 if that is refused",
    "sensitivity_at_half": "Sensitivity at the threshold .5",
    "specificity_at_half": "Specificity at the threshold .5",
}
MAIN, MORE = tuple(NAMES)[:3], tuple(NAMES)[3:]  # shown; folded
# Keys of a row's "samples".
SAMPLES = {
    "nearest_train": "distance to the nearest training image, median",
    "nearest_train_of_validation": "the same for validation images",
    "copies": "copies: share nearer than the nearest 1 % of validation images",
    "feature_distance": "Fréchet distance of CXR features (not FID) to validation images",
    "feature_distance_of_training": "the same for training images",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
BASELINES = ("supervised", "cnn")
UNDEFINED = "–"


class Table(NamedTuple):
    """Cells as text; the first column names the rows."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = []


class Estimate(NamedTuple):
    """A mean over n runs and its 95 % t-interval (None for n = 1); p of the test against 0."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """The Estimate of a value for each run; None without values. p is None if all are equal."""
    n = len(values)
    if not n:
        return None
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, None, None, None, 1)
    if np.std(values) <= 1e-12 * max(1.0, abs(mean)):  # equal except for rounding
        return Estimate(mean, mean, mean, None, n)
    test = stats.ttest_1samp(values, 0)
    return Estimate(mean, *map(float, test.confidence_interval(0.95)), float(test.pvalue), n)


def paired(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """The Estimate of ours - baseline over the seeds that both have; values by seed."""
    return estimate([ours[seed] - baseline[seed] for seed in sorted(ours.keys() & baseline.keys())])


def difference(
    ours: Sequence[ReportRow], baseline: Sequence[ReportRow], metric: str
) -> Estimate | None:
    """`paired` scores of two methods; None if they share no seed."""
    ours, baseline = (
        {run.seed: score.value for run in runs if (score := run.score(metric))}
        for runs in (ours, baseline)
    )
    return paired(ours, baseline)


def mean_score(runs: Sequence[ReportRow], metric: str) -> Estimate | None:
    """The Estimate of a metric over the runs that have it."""
    return estimate([score.value for run in runs if (score := run.score(metric))])


def number(value: float | None, sign: str = "-") -> str:
    """Formats ".822" and "-.094"; `sign` "+" adds a plus sign."""
    if value is None:
        return UNDEFINED
    text = f"{value:{sign}.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def score_cell(runs: Sequence[ReportRow], metric: str) -> str:
    """Formats ".822 [.700, .930], n=5"; for one run, with the run's interval over patients."""
    scores = [score for run in runs if (score := run.score(metric))]
    if len(scores) == 1:
        value, low, high = scores[0]
        span = "" if low is None else f" [{number(low)}, {number(high)}]*"
        return f"{number(value)}{span}, n=1"
    e = mean_score(runs, metric)
    return f"{number(e.mean)} [{number(e.low)}, {number(e.high)}], n={e.n}" if e else UNDEFINED


def difference_cell(ours: Sequence[ReportRow], baseline: Sequence[ReportRow], metric: str) -> str:
    """Formats "+.094 [.032, .155], p = .013, n=5", over the shared seeds."""
    e = difference(ours, baseline, metric)
    if e is None:
        return UNDEFINED
    if e.low is None:
        return signed(e)
    p = "" if e.p is None else f", p {'< .001' if e.p < 0.001 else '= ' + number(e.p)}"
    return f"{signed(e)}{p}, n={e.n}"


def signed(e: Estimate) -> str:
    """Formats a difference, "+.094 [.032, .155]"; that of one run, "+.094, n=1"."""
    if e.low is None:
        return f"{number(e.mean, '+')}, n=1"
    return f"{number(e.mean, '+')} [{number(e.low)}, {number(e.high)}]"


def score_tables(panel: Panel, part: str, metrics: Sequence[str]) -> list[Table]:
    """A table for each metric: a row for each budget, a column for each method and paper."""
    columns = columns_of(panel, part)
    tables = []
    for metric in metrics:
        papers = paper_columns(panel, metric) if part == "test" else []
        rows = [
            [
                str(budget),
                *(score_cell(at_budget(runs, budget), metric) for runs in columns.values()),
                *(number(paper.values.get(budget)) for paper in papers),
            ]
            for budget in panel.budgets
            if any(at_budget(runs, budget) for runs in columns.values())
        ]
        if all(cell == UNDEFINED for row in rows for cell in row[1 : 1 + len(columns)]):
            continue
        notes = ["* 95 % interval of the only run, over patients."] if "]*" in str(rows) else []
        header = ["labels", *columns, *(paper.title for paper in papers)]
        title = f"{NAMES[metric]}, {part} images"
        notes += dict.fromkeys(paper.caution for paper in papers if paper.caution)
        tables.append(Table(title, header, rows, notes))
    return tables


def difference_table(panel: Panel, part: str, baseline: str | None = None) -> Table | None:
    """The difference between each column and `baseline`, or its own baseline; None without one.

    The title names the baseline if all have the same, else a column does.
    """
    columns = columns_of(panel, part)
    rows = [
        [str(budget), name, to, *(difference_cell(ours, other, metric) for metric in MAIN)]
        for budget in panel.budgets
        for name, runs in columns.items()
        if (to := baseline if baseline in columns else baseline_of(name, columns))
        not in (None, name)
        if (other := at_budget(columns[to], budget)) and (ours := at_budget(runs, budget))
    ]
    header = ["labels", "method", "baseline", *(NAMES[metric] for metric in MAIN)]
    title = "Difference to {}, paired over shared seeds, {} images"
    named = {row[2] for row in rows}
    if len(named) == 1:
        title = title.format(*named, part)
        header, *rows = ([*row[:2], *row[3:]] for row in (header, *rows))
    else:
        title = title.format("the baseline", part)
    return Table(title, header, rows) if rows else None


def finding_table(panel: Panel, part: str) -> Table | None:
    """AUROC of each finding, and its paired differences to the baseline; None without findings."""
    columns, rows = columns_of(panel, part), []
    findings = {tuple(run.row["classes"]) for runs in columns.values() for run in runs
                if run.row.get("target") == "findings"}  # fmt: skip
    if len(findings) != 1:
        return None
    pairs = [(name, to) for name in columns if (to := baseline_of(name, columns))]
    for budget in panel.budgets:
        for k, finding in enumerate(*findings):
            runs = {
                name: [run.of_finding(k) for run in at_budget(all_, budget)]
                for name, all_ in columns.items()
            }
            scores = [score_cell(some, "auroc") for some in runs.values()]
            differences = [difference_cell(runs[name], runs[to], "auroc") for name, to in pairs]
            if any(cell != UNDEFINED for cell in scores):
                rows.append([str(budget), finding, *scores, *differences])
    header = ["labels", "finding", *columns, *(f"{name} - {to}" for name, to in pairs)]
    return Table(f"AUROC of each finding, {part} images", header, rows)


def sample_table(panel: Panel) -> Table | None:
    """Distances of generated images to training images; None if no row has any."""

    def cell(samples: Sequence[Mapping[str, float | None]], key: str) -> str:
        e = estimate([s[key] for s in samples if s.get(key) is not None])
        span = f" [{e.low:.3g}, {e.high:.3g}]" if e and e.n > 1 else ""
        return f"{e.mean:.3g}{span}, n={e.n}" if e else UNDEFINED

    rows = [
        [str(budget), name, *(cell(samples, key) for key in SAMPLES)]
        for budget in panel.budgets
        for name, runs in panel.columns.items()
        if (samples := [s for run in at_budget(runs, budget) if (s := run.row.get("samples"))])
    ]
    header = ["labels", "method", *SAMPLES.values()]
    return Table("Generated images", header, rows) if rows else None


def columns_of(panel: Panel, part: str) -> dict[str, list[ReportRow]]:
    """The panel's columns, only with runs whose scores are of `part`: "test" or "validation"."""
    scored = {k: [run for run in runs if run.part == part] for k, runs in panel.columns.items()}
    return {name: runs for name, runs in scored.items() if runs}


def at_budget(runs: Sequence[ReportRow], budget: Budget) -> list[ReportRow]:
    """The runs with this number of labels."""
    return [run for run in runs if run.budget == budget]


def baseline_of(name: str, columns: Mapping[str, Sequence[ReportRow]]) -> str | None:
    """The baseline that shares most changes with the column `name`; of several, the simplest.

    A baseline is compared with baselines that have fewer changes.
    """
    changes = {column: set(runs[0].changes) for column, runs in columns.items()}
    found = [column for column, runs in columns.items() if runs[0].method in BASELINES]
    if name in found:
        found = [column for column in found if len(changes[column]) < len(changes[name])]
    return min(
        found, key=lambda b: (-len(changes[name] & changes[b]), len(changes[b])), default=None
    )
