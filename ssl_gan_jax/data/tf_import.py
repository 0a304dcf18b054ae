"""Import TensorFlow and TFDS only for input: no accelerator, network, log lines or Keras."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from absl import logging as absl_logging


def tensorflow() -> ModuleType:
    """Import TensorFlow (seconds, the first time) without its start-up lines and accelerators."""
    if "tensorflow" not in sys.modules:
        absl_logging.info("Loading TensorFlow, which prepares and orders the images")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # unused here, and it prints a line
    with hide_module("keras"):
        import tensorflow as tf

    # Accelerators belong to JAX. Once TensorFlow has started, its choice is fixed: leave it then.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_visible_devices([], "TPU")
    return tf


@contextlib.contextmanager
def hide_module(name: str) -> Iterator[None]:
    """Make a module appear not to be installed, unless it has been imported before.

    For libraries that import another one if it is installed, which takes seconds and is of no
    use here. Imports after the block find it.
    """
    with contextlib.ExitStack() as restore:
        if name not in sys.modules:
            sys.modules[name] = None
            restore.callback(sys.modules.pop, name)
        yield


@contextlib.contextmanager
def silence_tfds() -> Iterator[None]:
    """Silence what TFDS prints and logs, errors excepted, and its progress bars."""
    import tensorflow_datasets as tfds

    def keep(record: logging.LogRecord) -> bool:
        return "tensorflow_datasets" not in record.pathname or record.levelno >= logging.ERROR

    absl = logging.getLogger("absl")
    tfds.disable_progress_bar()
    absl.addFilter(keep)
    with contextlib.ExitStack() as restore, contextlib.redirect_stdout(io.StringIO()):
        restore.callback(absl.removeFilter, keep)
        yield
