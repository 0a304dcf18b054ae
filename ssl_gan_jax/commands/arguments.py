"""The arguments of the commands without --config, most of which take a finished run."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ssl_gan_jax import paths
from ssl_gan_jax.commands import ending
from ssl_gan_jax.commands.jax_setup import prepare_jax
from ssl_gan_jax.errors import UserError


def output(text: str | Path, flag: str, folder: bool = False) -> Path:
    """The path of an output, see `paths.output_path` and `paths.result_path`."""
    return paths.result_path(paths.output_path(text, flag, folder), flag)


def share(text: str) -> float:
    """The share that --prevalence names. Raises UserError unless it is between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UserError(f"--prevalence={text}: is the share of the positive class, between 0 and 1")
    return value


class Parser(argparse.ArgumentParser):
    """The parser of the command `name`; --help prints `doc`."""

    def __init__(self, name: str, doc: str, workdir: bool = True):
        show = argparse.RawDescriptionHelpFormatter
        prog = f"python -m ssl_gan_jax.{name}"
        super().__init__(prog, description=doc, formatter_class=show, allow_abbrev=False)
        self.add_argument("--json", action="store_true", help="print the result as JSON")
        if workdir:
            self.add_path("--workdir", "RUN", required=True, help="folder of a finished run")

    def add_path(self, name: str, metavar: str, **options: Any) -> None:  # noqa: ANN401
        """Adds an argument for a file or folder, see `paths.user_path`."""
        flag = name if name.startswith("-") else metavar
        options["type"] = lambda text: paths.user_path(text, flag)
        self.add_argument(name, metavar=metavar, **options)

    def add_output(self, name: str, metavar: str, **options: Any) -> None:  # noqa: ANN401
        """Adds an argument for an output: a folder if `metavar` is DIR, else a file."""
        options["type"] = lambda text: output(text, name, folder=metavar == "DIR")
        self.add_argument(name, metavar=metavar, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError; argparse would print its usage and exit."""
        raise UserError(f"{message}; try --help")


def run(main: Callable[[argparse.Namespace], int | None], parser: Parser) -> None:
    """Parses the arguments, prepares JAX, calls `main` with the arguments and exits."""

    def call() -> int | None:
        args = parser.parse_args()
        prepare_jax()
        return main(args)

    ending.run(call)
