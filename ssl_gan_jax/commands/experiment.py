"""The flags of the commands that take a config file: main, sweep, audit."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from ssl_gan_jax import config as config_lib
from ssl_gan_jax import paths, processes
from ssl_gan_jax.commands import ending
from ssl_gan_jax.commands.jax_setup import tune_malloc
from ssl_gan_jax.errors import UserError

MISSING = "{} is missing; try --help"

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "FILE or FILE:key=value,...",
    # A config has no options of a source until they are given; `parse` refuses other keys.
    accept_new_attributes=True,
    lock_config=False,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run or runs; made if missing.")
JSON = flags.DEFINE_bool("json", False, "Print the result as JSON on stdout; the log is on stderr.")
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    processes.MODE,
    "One run on several processes: off; auto, as TPU, SLURM or Kubernetes say; HOST:PORT,n,i.",
)


def check(argv: Sequence[str]) -> None:
    """Raises UserError if --config or --workdir is missing or bad, or an argument is no flag.

    Expands `~` in --workdir, because shells do not after a `=`.
    """
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; options begin with --")
    for flag in (CONFIG, WORKDIR):
        if flag.value is None:
            raise UserError(MISSING.format(f"--{flag.name}"))
    if "://" in WORKDIR.value:  # pathlib would make a folder of the name "gs:"
        raise UserError(
            f"--workdir={WORKDIR.value}: not a folder; mount the bucket, as launch/ does, and name "
            "the folder in it"
        )
    flags.FLAGS.workdir = str(paths.output_path(WORKDIR.value, "--workdir", folder=True))


def parse(argv: Sequence[str]) -> list[str]:
    """Parses flags with absl, with one-line errors; --config=FILE must be the first argument.

    Raises:
      UserError: an unknown flag or key, a value of the wrong type, or no such config file.
    """
    config = flags.FLAGS["config"]
    try:
        if argv[1:] and argv[1].startswith("--config="):
            _check_keys(config, argv)
        rest = flags.FLAGS(argv)
        if config.value is not None:
            config.value.lock()
            config_lib.resolve_steps(config.value, config_flags.get_override_values(config))
        return rest
    except flags.Error as error:
        missing = any(a.startswith("--config.") for a in argv) and "--config=" not in argv[1]
        message = MISSING.format("--config") if missing else str(error).splitlines()[0]
        raise UserError(message) from error
    except (AttributeError, KeyError) as error:
        raise UserError(str(error)) from error
    except BrokenPipeError:  # the reader of --help is gone
        raise
    except OSError as error:
        raise UserError(f"{argv[1]}: there is no such file, or it cannot be read") from error


def _check_keys(config: flags.Flag, argv: Sequence[str]) -> None:
    keys = config_lib.flat(config.parser.parse(argv[1].partition("=")[2]))
    for text in argv[2:]:
        if text.startswith(("--config.", "-config.")):
            config_lib.check_key("--config", text.partition("=")[0].split(".", 1)[1], keys)


def config_first(args: Sequence[str]) -> list[str]:
    """Puts --config=FILE before the other arguments, which may override its keys.

    --config FILE becomes --config=FILE, and `~` in it becomes the user's home.
    """
    args = list(args)
    for i, text in enumerate(args[:-1]):
        if text == "--config":
            args[i : i + 2] = [f"--config={args[i + 1]}"]
            break
    args = [
        f"--config={os.path.expanduser(a[9:])}" if a.startswith("--config=") else a for a in args
    ]
    return sorted(args, key=lambda text: not text.startswith("--config="))


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Calls `main` with the arguments that are no flags, and exits."""
    tune_malloc()
    sys.argv[1:] = config_first(sys.argv[1:])
    ending.run(lambda: app.run(main, flags_parser=parse), logging.INFO)
