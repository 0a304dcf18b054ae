"""The best method at each label budget and its difference to the baseline, in sentences."""

from collections.abc import Iterator
from typing import NamedTuple

from ssl_gan_jax.report.rows import UPPER_BOUND, Budget, Panel
from ssl_gan_jax.report.tables import (
    NAMES,
    Estimate,
    at_budget,
    baseline_of,
    columns_of,
    difference,
    mean_score,
    number,
    score_cell,
)


class Answer(NamedTuple):
    """The best method of a budget; `shown`: the interval of the difference excludes 0."""

    budget: Budget
    best: str
    score: str
    sentence: str
    shown: bool


def answers(panel: Panel, baseline: str | None = None) -> Iterator[Answer]:
    """An answer for each budget with a score: AUROC, or accuracy if no run has an AUROC.

    A method with several seeds ranks before methods with a single seed, and an upper bound is no
    method. The best one is compared with the column `baseline`, by default with its own baseline.
    """
    part = panel.part
    columns = columns_of(panel, part) if part else {}
    metric = "auroc" if any(run.score("auroc") for run in panel.runs) else "accuracy"
    for budget in panel.budgets:
        runs = {
            name: at_budget(column, budget)
            for name, column in columns.items()
            if column[0].method != UPPER_BOUND
        }
        means = {name: e for name in runs if (e := mean_score(runs[name], metric))}
        ranked = sorted(means, key=lambda name: (means[name].n > 1, means[name].mean), reverse=True)
        if not ranked:
            continue
        best, *others = ranked
        score = f"{NAMES[metric]} {score_cell(runs[best], metric)}, {part} images"
        rival = baseline if baseline in means and baseline != best else baseline_of(best, columns)
        if rival not in means:  # the best method is a baseline, or has no baseline
            rival = next(iter(others), None)
        gap = difference(runs[best], runs[rival], metric) if rival else None
        yield Answer(budget, best, score, _in_words(gap, rival), _is_shown(gap))


def verdict(found: list[Answer]) -> str:
    """The number of budgets at which a difference is shown."""
    shown = sum(answer.shown for answer in found)
    budgets = "label budget" if len(found) == 1 else "label budgets"
    return f"difference shown at {shown} of {len(found)} {budgets}" if found else "no scores"


def _is_shown(gap: Estimate | None) -> bool:
    return bool(gap and gap.n > 1 and not gap.low <= 0 <= gap.high)


def _in_words(gap: Estimate | None, rival: str | None) -> str:
    if rival is None:
        return "No other method to compare with."
    if gap is None:
        return f"No seed is shared with {rival}: no claim."
    if gap.n == 1:
        return f"{number(gap.mean, '+')} against {rival}, n=1 seed: too few for a claim."
    span = f"{number(gap.mean, '+')} [{number(gap.low)}, {number(gap.high)}]"
    seeds = f"over n={gap.n} shared seeds"
    if _is_shown(gap):
        return f"{'Ahead of' if gap.mean > 0 else 'Behind'} {rival}: {span}, {seeds}."
    return f"No difference to {rival} shown: {span}, {seeds}."
