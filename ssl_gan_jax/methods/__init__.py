"""The training methods, a file each. A new method is a new file here; nothing registers it."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_collections

from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.types import Method


def names() -> list[str]:
    """The methods there are: the modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{check_choice('method', name, names())}")


def defaults(name: str, preset: str = "default") -> ml_collections.ConfigDict:
    """The method's `Config` as a ConfigDict with its `name`: `--config.method.tau=0.8` works.

    Args:
      name: a module of this package.
      preset: "default", or "paper" for the literal settings of the method's paper.

    Raises:
      UserError: there is no such method or preset.
    """
    module = _module(name)
    check_choice("preset", preset, ("default", "paper"))
    changes = module.PAPER if preset == "paper" else {}
    config = dataclasses.asdict(dataclasses.replace(module.Config(), **changes))
    return ml_collections.ConfigDict({"name": name, **config})


def build(config: Mapping[str, Any]) -> Method:
    """The method that `config` describes: its `name`, and fields of its `Config`.

    Raises:
      UserError: an unknown name, key or choice, or a number that cannot be.
    """
    settings = dict(config)
    if "name" not in settings:
        raise UserError(f"method.name is missing; it is one of {', '.join(names())}")
    module = _module(settings.pop("name"))
    for key in settings:
        check_choice("method key", key, (f.name for f in dataclasses.fields(module.Config)))
    for f in dataclasses.fields(module.Config):
        value = settings.get(f.name, f.default)
        if f.name in ("width", "z_dim", "reference_size") and value < 1:
            raise UserError(f"method.{f.name}: {value}; must be 1 or more")
        if isinstance(f.default, tuple) and len(value) != len(f.default):
            raise UserError(f"method.{f.name}: {value}; give {len(f.default)} numbers")
        if f.name == "dtype":
            check_choice("method.dtype", value, ("bfloat16", "float32"))
    return module.build(module.Config(**settings))
