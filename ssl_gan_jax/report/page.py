"""The report as one HTML page, and its tables as Markdown."""

import collections
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from ssl_gan_jax.report import figures, predictions, tables
from ssl_gan_jax.report.figures import Picture
from ssl_gan_jax.report.markdown import markdown_table, plain
from ssl_gan_jax.report.rows import Found, Panel, ReportRow
from ssl_gan_jax.report.tables import Table

TITLE = "ssl_gan_jax: results"
METHOD = (
    "A run is one seed, with its own draw of labels, weights and order. Cells are means over runs "
    "with 95 % t-intervals; n is the number of runs. With n=1 the interval (*) is that run's own, "
    "from a bootstrap over patients, and says nothing about other seeds. Differences are paired by "
    "seed; p is from the paired t-test, two-sided, not corrected for the number of comparisons. "
    f"{tables.UNDEFINED} is undefined or not run. Columns named after a paper are its own numbers."
)
WARNING = "Not for clinical use. Generated images show no patient."
# Nothing is loaded from anywhere, whatever a row may say.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#111;background:#fff;max-width:70rem;margin:auto;
padding:1rem}
h1,h2{line-height:1.2}h2{border-top:1px solid #ccc;padding-top:1rem;margin-top:2.5rem}
h1,h2,li,p,figcaption{overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.25rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
h3{font-size:1rem;margin:1.5rem 0 0}
th,td{border-bottom:1px solid #ddd;padding:.3rem .75rem .3rem 0;text-align:left;
white-space:nowrap}
thead th{white-space:normal;vertical-align:bottom}
th:first-child{position:sticky;left:0;background:#fff;white-space:normal;overflow-wrap:anywhere;
min-width:6rem;max-width:45vw}
.note{font-size:.875rem;color:#444;margin:.25rem 0}.warning{font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem}
.figures{margin:1rem 0}figure{margin:0}figure img{width:100%;height:auto}
figcaption{font-size:.875rem;color:#444}
summary{cursor:pointer;padding:.5rem 0}
"""


class Section(NamedTuple):
    """A heading and what stands below it; `more` is folded away, groups of pictures are rows."""

    title: str
    notes: list[str]
    tables: Sequence[Table] = ()
    more: Sequence[Table] = ()
    pictures: Sequence[Sequence[Picture]] = ()


def sections(found: Found, real_images: bool = False) -> list[Section]:
    """The head, then a section for each panel; of a single run, its errors too."""
    panels = [_section(panel, real_images) for panel in found.panels]
    if len(found.runs) == 1 and (folder := found.runs[0].folder):
        said = predictions.read(folder / "predictions.csv")
        errors = [predictions.confusion(said), predictions.worst_errors(said)] if said else []
        panels = [one._replace(tables=[*one.tables, *errors]) for one in panels]
    return [_head(found), *panels]


def html(parts: Sequence[Section]) -> str:
    """A page that loads nothing and needs no script."""
    body = [f"<h1>{escape(TITLE)}</h1>", *_html_of(parts[0])]
    links = (f'<li><a href="#s{i}">{escape(p.title)}</a></li>' for i, p in enumerate(parts) if i)
    body += ['<nav aria-label="Contents"><ul>', *links, "</ul></nav>"]
    for i, part in enumerate(parts[1:], 1):
        body += [f'<section><h2 id="s{i}">{escape(part.title)}</h2>', *_html_of(part), "</section>"]
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{escape(TITLE)}</title><style>{STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def markdown(parts: Sequence[Section]) -> str:
    """The tables alone, under the titles of their sections."""
    lines = []
    for part in parts:
        shown = [*part.tables, *part.more]
        lines += [f"## {plain(part.title)}"] if shown else []
        for table in shown:
            lines += [f"**{plain(table.title)}**", *markdown_table(table.header, table.rows)]
            lines += map(plain, table.notes)
    return "\n\n".join(lines) + "\n"


def _head(found: Found) -> Section:
    counts = (len(found.runs), len(found.unfinished), len(found.unreadable))
    notes = [WARNING, METHOD, "Runs: {} finished, {} unfinished, {} unreadable.".format(*counts)]
    notes += [_count(found.runs, key) for key in ("commit", "machine") if found.runs]
    named = {
        "Unfinished": found.unfinished,
        "Unreadable": found.unreadable,
        "Left out, because another run has the same cell and seed": found.repeated,
        "Lines that are no results": found.others,
    }
    notes += [f"{what}: {', '.join(names)}." for what, names in named.items() if names]
    return Section(TITLE, notes)


def _count(runs: Sequence[ReportRow], key: str) -> str:
    count = collections.Counter(str(run.row.get(key, "not recorded")) for run in runs)
    shown = ", ".join(f"{name} ({n})" for name, n in sorted(count.items()))
    return f"{key.capitalize()} (runs): {shown}."


def _section(panel: Panel, real_images: bool) -> Section:
    shown, more = [], []
    for part in ("test", "validation"):
        if any(run.part == part for run in panel.runs):
            shown += tables.score_tables(panel, part, tables.MAIN)
            shown.append(tables.difference_table(panel, part))
            more += tables.score_tables(panel, part, tables.MORE)
    shown = [table for table in (*shown, tables.sample_table(panel)) if table]
    notes = [f"All with {', '.join(panel.common)}."] if panel.common else []
    notes.append(_count(panel.runs, "commit"))  # another may give other numbers
    if any(run.part == "validation" for run in panel.runs):
        notes.append("Some runs were not tested: their tables are of validation images.")
    return Section(panel.title, notes, shown, more, figures.of_panel(panel, real_images))


def _html_of(part: Section) -> Iterator[str]:
    for note in part.notes:
        yield f'<p class="{"warning" if note == WARNING else "note"}">{escape(note)}</p>'
    yield from map(_html_table, part.tables)
    if part.more:
        titles = ", ".join(sorted({table.title.partition(",")[0] for table in part.more}))
        yield f"<details><summary>{escape(titles)}</summary>"
        yield from map(_html_table, part.more)
        yield "</details>"
    for group in part.pictures:
        yield '<div class="figures">'
        for uri, alt, caption in group:
            warning = ' class="warning"' if caption.startswith("WARNING") else ""
            yield f'<figure><img src="{uri}" alt="{escape(alt)}">'
            yield f"<figcaption{warning}>{escape(caption)}</figcaption></figure>"
        yield "</div>"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = [
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell).replace(' [', '<br>[')}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    ]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    # A region that scrolls must be reachable with the keyboard.
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(table.title)}"><table aria-label="{escape(table.title)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{notes}"
    )
