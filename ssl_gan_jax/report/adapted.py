"""Runs that adaptation to another site made worse than the runs without it."""

import re
from collections.abc import Iterable, Iterator, Mapping

from ssl_gan_jax.report.rows import Panel, ReportRow
from ssl_gan_jax.report.tables import (
    NAMES,
    at_budget,
    baseline_of,
    columns_of,
    difference,
    signed,
)

METRICS = ("auroc", "accuracy_at_half")  # accuracy at other thresholds depends on validation


def warning(panels: Iterable[Panel]) -> str:
    """A sentence that names the methods that adaptation made worse on average; "" if none."""
    worse = {panel.title: list(worse_than_source(panel)) for panel in panels}
    named = [f"{title}: {', '.join(lines)}" for title, lines in worse.items() if lines]
    return f"Adaptation made these worse than without it: {'; '.join(named)}." if named else ""


def worse_than_source(panel: Panel) -> Iterator[str]:
    """Each adapted column of test scores, and the budgets and metrics at which it is worse."""
    columns = columns_of(panel, "test")
    for name, runs in columns.items():
        if not (source := _source_of(name, columns)):
            continue
        against = "" if name.startswith(source) else f" against {source}"
        for budget in panel.budgets:
            pair = at_budget(runs, budget), at_budget(columns[source], budget)
            losses = [
                f"{NAMES[metric]} {signed(gap)}"
                for metric in METRICS
                if (gap := difference(*pair, metric)) and gap.mean < 0
            ]
            if losses:
                yield f"{name}{against}, {budget} ({', '.join(losses)})"


def _source_of(name: str, columns: Mapping[str, list[ReportRow]]) -> str | None:
    """The column of the same method before adaptation, or the baseline; None if not adapted."""
    run = columns[name][0]
    if (kept := re.sub(r", adapted \w+", "", name)) != name:
        return kept if kept in columns else None
    sites = (run.row.get("splits") or {}).get("unlabelled", {}).get("sites", {})
    cell = run.row["cell"]
    if not run.row.get("unlabelled") or cell.get("source") == cell.get("target"):
        return None
    if cell.get("target") not in sites:
        return None
    source = name.replace("_adapted", "")
    return source if source in columns and source != name else baseline_of(name, columns)
