"""Commands as `python -m ssl_gan_jax.NAME` calls them, in this process."""

import importlib
import signal
import sys

import pytest
from absl import flags, logging
from absl.testing import flagsaver

from ssl_gan_jax.commands import arguments, experiment


def call(name, *args, stdout=None):
    """The exit code of a command, which leaves flags, signals and the log's level as they were."""
    path = "report.__main__" if name == "report" else f"commands.{name}"
    module = importlib.import_module(f"ssl_gan_jax.{path}")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    verbosity = logging.get_verbosity()
    with (
        pytest.MonkeyPatch.context() as patch,
        flagsaver.flagsaver(),
        pytest.raises(SystemExit) as end,
    ):
        patch.setenv("GLIBC_TUNABLES", "")  # does not start anew
        patch.setattr("sys.argv", [name, *map(str, args)])
        patch.setattr("sys.stdout", stdout or sys.stdout)
        if hasattr(module, "PARSER"):
            arguments.run(module.main, module.PARSER)
        else:
            flags.FLAGS.unparse_flags()
            experiment.run(module.main)
    logging.set_verbosity(verbosity)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return end.value.code or 0
