"""Tables and figures of runs, beside the numbers of the papers.

    python -m ssl_gan_jax.report runs/chex --out=report --rows=configs/results/chex.jsonl
    python -m ssl_gan_jax.report configs/results/chex.jsonl configs/results/phantom.jsonl

Each argument is a folder with run folders at any depth, or a .jsonl file with a result row a line.
Writes report.html, which needs nothing else, and report.md, the tables alone. Exit codes: 0 done,
2 bad input.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from ssl_gan_jax.errors import UserError

_OUT = flags.DEFINE_string(
    "out", None, "Folder of the report; default: the first argument, or here if that is a file."
)
_ROWS = flags.DEFINE_string("rows", None, "File that takes all finished rows as .jsonl.")
_REAL_IMAGES = flags.DEFINE_boolean(
    "real_images", False, "Show real training images beside generated ones. They may be patients."
)


def main(argv: Sequence[str]) -> None:
    """Writes what the flags say."""
    paths = [Path(text) for text in argv[1:]]
    if not paths:
        raise UserError("name a folder of runs or a .jsonl file; try --help")
    try:
        from ssl_gan_jax import report  # here, so that --help and errors in flags are quick
    except ModuleNotFoundError as error:  # an environment made before there were reports
        raise UserError(f"{error.name} is missing: pip install {error.name}") from None

    out = Path(_OUT.value or (paths[0] if paths[0].is_dir() else "."))
    rows_file = Path(_ROWS.value) if _ROWS.value else None
    found = report.write(paths, out, rows_file, _REAL_IMAGES.value)
    counts = (len(found.runs), len(found.unfinished), len(found.unreadable))
    print("{}: {} runs, {} unfinished, {} unreadable".format(out / "report.html", *counts))


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser. Raises UserError, in one line, for an unknown flag or a bad value."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(str(error).splitlines()[0]) from error


def cli() -> None:
    """The command line: errors of the user's in one line, exit code 2."""
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
