"""Tables and figures of many runs, next to the numbers of the papers.

`rows` finds and sorts the runs, `tables` averages them, `predictions` reads their test predictions,
`answers` states the differences in sentences, `adapted` names what adaptation made worse,
`published` has the papers' numbers, `figures` draws, and `page` fills the template `page.html`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.files import atomic_write
from ssl_gan_jax.report import page, rows


def write(
    paths: Sequence[Path],
    out: Path,
    rows_file: Path | None = None,
    real_images: bool = False,
    baseline: str | None = None,
) -> rows.Found:
    """Writes out/report.html and out/report.md about the runs below `paths`; returns the runs.

    Args:
      paths: run folders, folders above them, or .jsonl files of rows.
      out: folder of the report.
      rows_file: gets the rows of the finished runs, sorted, one a line. It can replace the folders
        in `paths`, but has no figures except for the scores, and of groups of patients no scores of
        single findings.
      real_images: show training images, which may show patients.
      baseline: name of the column that others are compared with, such as "supervised"; default: of
        the supervised ones, the column that shares most settings.

    Raises:
      UserError: bad paths or lines, nothing to report, or a file that cannot be written.
    """
    found = rows.find(paths)
    if not any((found.runs, found.unfinished, found.unreadable)):
        raise UserError(f"{', '.join(map(str, paths))}: no run folders and no result rows there")
    if baseline is not None:
        columns = (name for panel in found.panels for name in panel.columns)
        check_choice("--baseline", baseline, dict.fromkeys(columns))
    sections = page.sections(found, real_images, baseline)
    html = page.html(found, sections)
    texts = {out / "report.html": html, out / "report.md": page.markdown(found, sections)}
    if rows_file:
        lines = (json.dumps(_short(run.row), allow_nan=False) for run in found.runs)
        texts[rows_file] = "".join(f"{line}\n" for line in lines)
    for path, text in texts.items():
        with atomic_write(path) as file:
            file.write(text)
    return found


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row in which the scores of groups of patients are means over findings."""
    groups = row.get("test_by_group") or {}
    means = {name: {k: v for k, v in of.items() if k != "findings"} for name, of in groups.items()}
    return {**row, "test_by_group": means} if groups else row
