"""Where each value of a config comes from, for --show_config and the log."""

import contextlib
import runpy
from typing import Any

from absl import flags
from ml_collections import config_flags

from ssl_gan_jax import config as config_lib
from ssl_gan_jax.commands.experiment import CONFIG


def origins_of_config() -> dict[str, tuple[Any, str]]:
    """The value of each key of --config, and where it comes from.

    The origin is the package ("default"), the config file ("file"), an argument after the file's
    name ("argument"), or --config.KEY=VALUE ("flag"). If train.epochs is set, train.steps is None.
    """
    flag, config = flags.FLAGS["config"], config_lib.flat(CONFIG.value)
    path = config_flags.get_config_filename(flag).partition(":")[0]
    file = {}
    with contextlib.suppress(TypeError):  # `get_config` needs an argument
        file = config_lib.flat(runpy.run_path(path)["get_config"]())
    defaults = config_lib.defaults_of(config)

    def origin(key: str) -> str:
        if any(f"{key}.".startswith(f"{k}.") for k in config_flags.get_override_values(flag)):
            return "flag"
        if key not in config_lib.ARGUMENT_KEYS and defaults.get(key) == config[key]:
            return "default"
        return "file" if file.get(key) == config[key] else "argument"

    found = {key: (value, origin(key)) for key, value in config.items()}
    if config.get("train.epochs"):
        found["train.steps"] = (None, "train.epochs")
    return found
