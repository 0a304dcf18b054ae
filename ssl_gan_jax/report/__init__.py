"""Tables and figures of many runs, beside the numbers of the papers.

`rows` finds runs and puts them in their place, `tables` averages them, `predictions` is what a run
predicted for its test images, `answers` says in sentences what they show, `published` holds the
papers' numbers; `figures` draws, and `page` writes by the template `page.html`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import atomic_write
from ssl_gan_jax.report import page, rows


def write(
    paths: Sequence[Path], out: Path, rows_file: Path | None = None, real_images: bool = False
) -> rows.Found:
    """Writes out/report.html and out/report.md about the runs below `paths`; what it found.

    `rows_file` takes the finished rows, one a line, sorted: to be committed, and as good a path as
    the folders but for the figures. `real_images` shows training images, which may be patients.

    Raises:
      UserError: bad paths or lines, nothing to report, or a file that cannot be written.
    """
    found = rows.find(paths)
    if not any((found.runs, found.unfinished, found.unreadable)):
        raise UserError(f"{', '.join(map(str, paths))}: no run folders and no result rows there")
    sections = page.sections(found, real_images)
    html = page.html(found, sections)
    texts = {out / "report.html": html, out / "report.md": page.markdown(sections)}
    if rows_file:
        lines = (json.dumps(run.row, allow_nan=False) for run in found.runs)
        texts[rows_file] = "".join(f"{line}\n" for line in lines)
    for path, text in texts.items():
        with atomic_write(path) as file:
            file.write(text)
    return found
