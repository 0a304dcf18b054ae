"""The arguments of the commands without --config, mostly on a finished run."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ssl_gan_jax import paths
from ssl_gan_jax.commands import ending
from ssl_gan_jax.commands.jax_setup import prepare_jax
from ssl_gan_jax.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; try --help")


def parser(name: str, doc: str, workdir: bool = True) -> argparse.ArgumentParser:
    """The parser of the command `name`; --help shows `doc`."""
    made = _Parser(
        prog=f"python -m ssl_gan_jax.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--json", action="store_true", help="print what came out as JSON")
    if workdir:
        made.add_argument("--workdir", type=path("--workdir"), metavar="RUN", required=True,
                          help="folder of a finished run")  # fmt: skip
    return made


def path(what: str) -> Callable[[str], Path]:
    """The type of an argument `what` that names a file or folder, see `paths.user_path`."""
    return lambda text: paths.user_path(text, what)


def output(what: str, folder: bool = False) -> Callable[[str], Path]:
    """The type of an argument `what` that names an output, see `paths.result_path`."""
    return lambda text: paths.result_path(paths.output_path(text, what, folder), what)


def run(main: Callable[[argparse.Namespace], int | None], made: argparse.ArgumentParser) -> None:
    """Parses the arguments, prepares JAX, calls `main` with the arguments and exits."""

    def call() -> int | None:
        args = made.parse_args()
        prepare_jax()
        return main(args)

    ending.run(call)
