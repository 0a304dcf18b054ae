"""The end of a command: its result, exit code, one-line errors and signals."""

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

    Errors are one line on stderr. The code is 2 for bad input, and for files, folders and disks
    that cannot be read or written. If the reader of the output is gone, as after `| head -1`, the
    code is 141 without a message, as after SIGPIPE.
    """
    logging.set_verbosity(verbosity)
    handler = logging.get_absl_handler()
    handler.setFormatter(None)
    # Other libraries, such as Orbax, may log warnings, but no information.
    handler.addFilter(lambda record: record.levelname != "INFO" or "ssl_gan_jax" in record.pathname)
    code, cause = 0, ""
    try:
        try:
            code = call() or 0
        except SystemExit as end:
            code = end.code or 0
        if sys.stdout:  # None if a shell closed it
            sys.stdout.flush()
    except UserError as error:
        code, cause = 2, str(error)
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except OSError as error:
        path = error.filename or "standard output"
        advice = "free some space, make it readable and writable, or name another path"
        code, cause = 2, f"{path}: {error.strerror or error}; {advice}"
    if cause := cause.replace("\n", r"\n"):  # a file's name may hold a line break
        with contextlib.suppress(OSError):
            print(f"error: {cause}", file=sys.stderr)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # else the interpreter flushes again, complains and exits with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if cause:
        processes.fail(cause, code)
    sys.exit(code)


def print_result(as_json: bool, **result: Any) -> None:  # noqa: ANN401
    """Prints a command's result on stdout: a line for each entry, or one line of JSON."""
    lines = [f"{key}: {value}" for key, value in result.items()]
    print(json.dumps(result) if as_json else "\n".join(lines), flush=True)


def on_signal() -> Callable[[], bool]:
    """Handles SIGTERM and SIGINT; returns a function that says whether one has come.

    A second signal ends the process at once. For several processes see `processes.stop_together`.
    """
    if not processes.is_single_process():
        return processes.stop_together()
    received = []

    def handler(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
    return lambda: bool(received)
