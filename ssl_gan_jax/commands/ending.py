"""How a command ends: its result, its exit code, errors in one line, signals."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError


def run(call: Callable[[], int | None], verbosity: int = logging.WARNING) -> None:
    """Calls a command, which logs from `verbosity` on, and exits with its code.

    What went wrong is on stderr, in one line. Bad input is 2, and so is a disk, a folder or a file
    that cannot be read or written. Where the reader of the output is gone, as after `| head -1`,
    the program ends as SIGPIPE ends others: without a word, with 141.
    """
    logging.set_verbosity(verbosity)
    handler = logging.get_absl_handler()
    handler.setFormatter(None)
    # Of what other libraries log, Orbax above all, only warnings are for the user.
    handler.addFilter(lambda record: record.levelname != "INFO" or "ssl_gan_jax" in record.pathname)
    code, cause = 0, ""
    try:
        try:
            code = call() or 0
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
    if cause:
        processes.fail(cause, code)
    sys.exit(code)


def print_result(as_json: bool, **result: Any) -> None:  # noqa: ANN401
    """Prints what a command did on stdout: a line for each, or all as one line of JSON."""
    lines = [f"{key}: {value}" for key, value in result.items()]
    print(json.dumps(result) if as_json else "\n".join(lines), flush=True)


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
