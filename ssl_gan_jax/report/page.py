"""The report as one HTML page, and its tables as Markdown."""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2

from ssl_gan_jax.report import adapted, answers, figures, predictions, tables
from ssl_gan_jax.report.answers import Answer
from ssl_gan_jax.report.figures import Picture
from ssl_gan_jax.report.markdown import markdown_table, plain
from ssl_gan_jax.report.rows import Found, Panel, ReportRow
from ssl_gan_jax.report.tables import Table

TITLE = "ssl_gan_jax: results"
WARNING = (
    "For research only. Not for clinical use: nothing here may inform the care of a patient. "
    "Generated images show no patient."
)
METHOD = (
    "A run has one seed for its labels, weights and order. Cells are means over runs with 95 % "
    "t-intervals; n is the number of runs. If n is 1, the interval (*) is that of the run, "
    "from a bootstrap over patients, and says nothing about other seeds. Differences are paired by "
    "seed; p is from the paired t-test, two-sided, not corrected for the number of comparisons. "
    f"{tables.UNDEFINED} is undefined or not run. Columns with a paper's name are its numbers.",
    "The best method for a number of labels has the highest mean on the images of the table, so "
    "its lead is optimistic. A difference is shown if its 95 % interval excludes 0.",
)
PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("ssl_gan_jax.report", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Section(NamedTuple):
    """A section of the report; the tables of `more` are folded."""

    title: str
    answers: list[Answer]
    notes: list[str]
    pictures: Mapping[str, Sequence[Picture]]
    tables: Sequence[Table]
    more: Sequence[Table]

    @property
    def verdict(self) -> str:
        """A summary of the answers."""
        return answers.verdict(self.answers)

    @property
    def folded(self) -> str:
        """The names of the metrics of `more`."""
        return ", ".join(dict.fromkeys(table.title.partition(",")[0] for table in self.more))


def sections(found: Found, real_images: bool = False, baseline: str | None = None) -> list[Section]:
    """A section for each panel; the section of a single run also has its errors."""
    panels = [_section(panel, real_images, baseline) for panel in found.panels]
    if len(found.runs) == 1 and (folder := found.runs[0].folder):
        p = predictions.read(folder)
        errors = [predictions.confusion(p), predictions.worst_errors(p)] if p else []
        panels = [panel._replace(tables=[*panel.tables, *errors]) for panel in panels]
    return panels


def html(found: Found, parts: Sequence[Section]) -> str:
    """The page, which loads nothing and has no scripts."""
    counts = len(found.runs), len(found.unfinished), len(found.unreadable)
    return PAGE.get_template("page.html").render(
        title=TITLE,
        worse=adapted.warning(found.panels),
        warning=WARNING,
        counts="Runs: {} finished, {} unfinished, {} unreadable.".format(*counts),
        sections=parts,
        notes=_notes(found),
    )


def markdown(found: Found, parts: Sequence[Section]) -> str:
    """The tables as Markdown, under the titles of their sections."""
    worse = adapted.warning(found.panels)
    lines = [f"**{plain(worse)}**"] if worse else []
    for part in parts:
        shown = [*part.tables, *part.more]
        lines += [f"## {plain(part.title)}"] if shown else []
        for table in shown:
            lines += [f"**{plain(table.title)}**", *markdown_table(table.header, table.rows)]
            lines += map(plain, table.notes)
    return "\n\n".join(lines) + "\n"


def _notes(found: Found) -> list[str]:
    named = {
        "Unfinished": found.unfinished,
        "Unreadable": found.unreadable,
        "Left out, because another run has the same cell and seed": found.repeated,
        "Lines that are not results": found.others,
    }
    notes = [*METHOD, *(_count(found.runs, key) for key in ("commit", "machine") if found.runs)]
    return notes + [f"{title}: {', '.join(names)}." for title, names in named.items() if names]


def _count(runs: Sequence[ReportRow], key: str) -> str:
    count = collections.Counter(str(run.row.get(key, "not recorded")) for run in runs)
    shown = ", ".join(f"{name} ({n})" for name, n in sorted(count.items()))
    return f"{key.capitalize()} (runs): {shown}."


def _section(panel: Panel, real_images: bool, baseline: str | None) -> Section:
    shown, more = [], []
    for part in ("test", "validation"):
        if any(run.part == part for run in panel.runs):
            shown += tables.score_tables(panel, part, tables.MAIN)
            shown += [
                tables.difference_table(panel, part, baseline),
                tables.finding_table(panel, part),
            ]
            more += tables.score_tables(panel, part, tables.MORE)
    shown = [table for table in (*shown, tables.sample_table(panel)) if table]
    notes = [f"All with {', '.join(panel.common)}."] if panel.common else []
    rows = [run.row for run in panel.runs if run.row.get("target") != "findings"]
    for classes in sorted({tuple(row.get("classes") or ()) for row in rows}):
        if len(classes) == 2:  # sensitivity, AUPRC and thresholds are those of the last
            notes.append(f"Positive class: {classes[-1]}; the other: {classes[0]}.")
    notes.append(_count(panel.runs, "commit"))  # other code may give other numbers
    if any(run.part == "validation" for run in panel.runs):
        notes.append("Some runs were not tested: their tables are of validation images.")
    pictures = figures.of_panel(panel, real_images)
    return Section(
        panel.title, list(answers.answers(panel, baseline)), notes, pictures, shown, more
    )
