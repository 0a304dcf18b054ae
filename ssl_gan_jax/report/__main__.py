"""Writes tables and figures of runs, next to the numbers of the papers.

    python -m ssl_gan_jax.report runs/chex --out=report --rows=configs/results/chex.jsonl
    python -m ssl_gan_jax.report configs/results/chex.jsonl configs/results/phantom.jsonl
    python -m ssl_gan_jax.report configs/results/few_labels.jsonl --baseline=ssl_gan

Each argument is a folder with run folders at any depth, or a .jsonl file with a result row a line.
Writes report.html, which needs no other file, and report.md, the tables as Markdown. The report of
a single run also has its confusion table and its worst errors by file name. Exit codes: 0 done, 2
bad input.
"""

import argparse
from pathlib import Path

from ssl_gan_jax import report
from ssl_gan_jax.commands import arguments, ending
from ssl_gan_jax.errors import UserError

PARSER = arguments.Parser("report", __doc__, workdir=False)
PARSER.add_path("runs", "RUNS", nargs="+", help="folder, or file of rows")
PARSER.add_output("--out", "DIR", help="default: the first folder, or the current one")
PARSER.add_output("--rows", "JSONL", help="file for the rows of all finished runs")
PARSER.add_argument("--baseline", metavar="METHOD", help="column that others are compared with")
PARSER.add_argument(
    "--real_images",
    action="store_true",
    help="show real training images too, which may show patients",
)


def main(args: argparse.Namespace) -> None:
    """Writes the report, and prints the number of its runs."""
    out = args.out or (args.runs[0] if args.runs[0].is_dir() else Path("."))
    if args.rows and args.rows.suffix != ".jsonl":  # so that no other file is overwritten
        raise UserError(f"--rows={args.rows}: name a file that ends in .jsonl")
    found = report.write(args.runs, out, args.rows, args.real_images, args.baseline)
    counts = {key: len(getattr(found, key)) for key in ("runs", "unfinished", "unreadable")}
    ending.print_result(args.json, report=str(out / "report.html"), **counts)


if __name__ == "__main__":
    arguments.run(main, PARSER)
