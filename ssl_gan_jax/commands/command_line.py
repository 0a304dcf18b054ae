"""What the command lines share: the flags --config and --workdir, errors in one line, signals."""

import argparse
import contextlib
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from ssl_gan_jax import config as config_lib
from ssl_gan_jax import paths, processes
from ssl_gan_jax.errors import UserError

MISSING = "{} is missing; try --help"

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "FILE or FILE:key=value,...",
    # A source's options are in no config until they are given; `parse_flags` refuses other keys.
    accept_new_attributes=True,
    lock_config=False,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run or runs; made if need be.")
JSON = flags.DEFINE_bool("json", False, "Prints what came out as JSON on stdout; the log: stderr.")
DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    processes.MODE,
    "One run on several processes: off; auto, as TPU, SLURM or Kubernetes say; HOST:PORT,n,i.",
)


def check_flags(argv: Sequence[str]) -> None:
    """Raises UserError where --config or --workdir is missing or unfit, or something is no flag.

    Expands `~` in --workdir, which shells leave as it is after a `=`.
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


def origins() -> dict[str, tuple[Any, str]]:
    """Each key of --config: its value, and where that comes from.

    That is: the package ("default"), the config file ("file"), an argument after the file's name
    ("argument"), or a --config.KEY=VALUE ("flag"). Where epochs count, train.steps is None.
    """
    flag, config = flags.FLAGS["config"], config_lib.flat(CONFIG.value)
    path = config_flags.get_config_filename(flag).partition(":")[0]
    file = {}
    with contextlib.suppress(TypeError):  # a get_config that needs its argument
        file = config_lib.flat(runpy.run_path(path)["get_config"]())
    usual = config_lib.usual(config)

    def origin(key: str) -> str:
        if any(f"{key}.".startswith(f"{k}.") for k in config_flags.get_override_values(flag)):
            return "flag"
        if key not in config_lib.ARGUMENT_KEYS and usual.get(key) == config[key]:
            return "default"
        return "file" if file.get(key) == config[key] else "argument"

    found = {key: (value, origin(key)) for key, value in config.items()}
    if config.get("train.epochs"):
        found["train.steps"] = (None, "train.epochs")
    return found


def print_result(as_json: bool, **told: Any) -> None:  # noqa: ANN401
    """Prints what a command did on stdout: a line for each, or all as one line of JSON."""
    lines = [json.dumps(told)] if as_json else [f"{key}: {value}" for key, value in told.items()]
    print("\n".join(lines), flush=True)


def on_signal() -> Callable[[], bool]:
    """From now on, whether SIGTERM or SIGINT has come; a second one ends the process at once.

    On several processes, whether it has come to any of them, at the same call on all.
    """
    if not processes.is_single_process():
        return processes.stop_together()
    came = []

    def handler(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
    return lambda: bool(came)


def prepare_jax(replicas: int = 1, mode: str = "off") -> None:
    """Settings of JAX that a program must make before its first computation.

    Joins the other processes of the run, where `mode`, --distributed, says that there are some.
    Compiled programs are kept for the next start, in the user's own cache unless
    JAX_COMPILATION_CACHE_DIR says where. On a CPU each replica gets a device of its own, which
    shares the cores with the others; JAX ignores this where there is an accelerator.

    Raises:
      UserError: JAX finds no device, such as one that JAX_PLATFORMS names.
    """
    processes.start(mode)

    import jax

    from ssl_gan_jax.data.records import cache_folder

    if not jax.config.jax_compilation_cache_dir:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder("jax")))
        except UserError as error:  # a command on a finished run needs no cache
            logging.info("%s; compiled programs are not kept", error)
    if replicas > 1:
        jax.config.update("jax_num_cpu_devices", replicas)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # what JAX raises depends on the platform
        named = jax.config.jax_platforms or ""
        raise UserError(
            f"JAX_PLATFORMS={named}: JAX finds no such device here "
            f"({(str(error) or 'no reason given').splitlines()[0]}); unset it, or set it to cpu"
        ) from None


def use_huge_pages() -> None:
    """Starts this program anew with glibc's huge pages on, which a process cannot do for itself.

    XLA takes its working memory from the system anew at each call. In pages of 4 kB that took up
    to a quarter of a step's time on a CPU. Whoever sets GLIBC_TUNABLES has decided otherwise.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # other C libraries ignore it
        with contextlib.suppress(OSError):  # then without them
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, with one-line errors; `argv` has --config=FILE first.

    Raises:
      UserError: an unknown flag or key, a value of the wrong type, a config file that is not there.
    """
    given = flags.FLAGS["config"]
    try:
        rest = flags.FLAGS(argv)
        if given.value is not None:
            given.value.lock()  # a file that could not be loaded raises when it is first used
            config_lib.settle(given.value, config_flags.get_override_values(given))
            _check_keys(given, argv)
        return rest
    except flags.Error as error:
        missing = any(a.startswith("--config.") for a in argv) and "--config=" not in argv[1]
        message = MISSING.format("--config") if missing else str(error).splitlines()[0]
        raise UserError(message) from error
    except (AttributeError, KeyError) as error:
        _check_keys(given, argv)
        raise UserError(str(error)) from error
    except BrokenPipeError:  # --help, whose reader is gone
        raise
    except OSError as error:
        raise UserError(f"{argv[1]}: there is no such file, or it cannot be read") from error


def _check_keys(given: flags.Flag, argv: Sequence[str]) -> None:
    keys = config_lib.flat(given.parser.parse(argv[1].partition("=")[2]))
    for text in argv[2:]:
        if text.startswith(("--config.", "-config.")):
            config_lib.check_key("--config", text.partition("=")[0].split(".", 1)[1], keys)


def config_first(args: Sequence[str]) -> list[str]:
    """The arguments with --config=FILE before all others: its keys cannot be overridden earlier.

    --config FILE becomes --config=FILE, and `~` in it the user's home.
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


def cli(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` with its flags: errors of the user's in one line and exit code 2."""
    use_huge_pages()
    sys.argv[1:] = config_first(sys.argv[1:])
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(None)
    # Of what other libraries log, Orbax above all, only warnings are for the user.
    handler.addFilter(lambda record: record.levelname != "INFO" or "ssl_gan_jax" in record.pathname)
    code, cause = ending(lambda: app.run(main, flags_parser=parse_flags))
    if cause:
        processes.fail(cause, code)
    sys.exit(code)


def ending(main: Callable[[], int | None]) -> tuple[int, str]:
    """Calls `main`; the exit code, and what went wrong, which is on stderr then, in one line.

    Bad input is 2, and so is a disk, a folder or a file that cannot be read or written. Where
    the reader of the output is gone, as after `| head -1`, the program ends as SIGPIPE ends others:
    without a word, with 141.
    """
    code, cause = 0, ""
    try:
        try:
            code = main() or 0
        except SystemExit as end:
            code = end.code or 0
        if sys.stdout:  # None where a shell closed it
            sys.stdout.flush()
    except UserError as error:
        code, cause = 2, str(error)
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except OSError as error:
        where = error.filename or "standard output"
        advice = "free some space, make it readable and writable, or name another path"
        code, cause = 2, f"{where}: {error.strerror or error}; {advice}"
    if cause := cause.replace("\n", r"\n"):  # a file's name may hold a line break
        with contextlib.suppress(OSError):
            print(f"error: {cause}", file=sys.stderr)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # else the interpreter, which tries again, would complain and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code, cause


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; try --help")


def parser(name: str, doc: str, workdir: bool = True) -> argparse.ArgumentParser:
    """The parser of a command without --config, mostly on a finished run; --help shows `doc`."""
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


def command(
    main: Callable[[argparse.Namespace], int | None], made: argparse.ArgumentParser
) -> None:
    """Runs a command without --config and exits with its code, see `ending`."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(None)

    def run() -> int | None:
        args = made.parse_args()
        prepare_jax()
        return main(args)

    sys.exit(ending(run)[0])
