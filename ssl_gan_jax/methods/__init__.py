"""The training methods, one file each. A new file here is a new method, without registration.

A file has the method's equations (docstring), `Config` (a frozen dataclass of settings; choices are
`Literal`s), `build(config) -> Method`, and, if they apply, `PAPER` (settings of `preset=paper`),
`UNLABELED` (the number of unlabelled images that a step takes for each labelled image) and
`FINDINGS = True` (an image may have several findings; see targets.py).
"""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import ml_collections

from ssl_gan_jax import targets
from ssl_gan_jax.errors import UserError, check_choice
from ssl_gan_jax.types import Array, Batch, Key, Method, TrainState


def names() -> list[str]:
    """The methods: the modules of this package without a leading underscore."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{check_choice('method', name, names())}")


def unlabeled_per_labeled(name: str) -> int:
    """The number of unlabelled images that a step takes for each labelled image."""
    return getattr(_module(name), "UNLABELED", 0)


def defaults(name: str, preset: str = "default") -> ml_collections.ConfigDict:
    """The method's `Config` as a ConfigDict with its `name`: `--config.method.tau=0.8` works.

    Args:
      name: a module of this package.
      preset: "default", or "paper": the literal settings of the method's paper.

    Raises:
      UserError: unknown method or preset.
    """
    module = _module(name)
    check_choice("preset", preset, ("default", "paper"))
    changes = getattr(module, "PAPER", {}) if preset == "paper" else {}
    config = dataclasses.asdict(dataclasses.replace(module.Config(), **changes))
    return ml_collections.ConfigDict({"name": name, **config})


def build(config: Mapping[str, Any]) -> Method:
    """The method that `config` describes: its `name`, and fields of its `Config`.

    Raises:
      UserError: an unknown name, key or choice, or a number out of range.
    """
    settings = dict(config)
    if "name" not in settings:
        raise UserError(f"method.name is missing; it is one of {', '.join(names())}")
    module = _module(settings.pop("name"))
    types = typing.get_type_hints(module.Config)
    for key, value in settings.items():
        check_choice("method key", key, types)
        _check(f"method.{key}", value, types[key])
    method = module.build(module.Config(**settings))

    name = module.__name__.rpartition(".")[2]

    def init(key: Key, batch: Batch) -> TrainState:
        check_labels(name, batch.label)
        state = method.init(key, batch)
        _check_contract(name, method, state, batch)
        return state

    return method._replace(init=init)


def check_labels(name: str, label: Array) -> None:
    """Raises UserError if the method `name` cannot learn labels of this kind."""
    if targets.of(label) is targets.CLASSES or _learns_findings(name):
        return
    able = ", ".join(filter(_learns_findings, names()))
    raise UserError(f"{name} cannot learn several findings; {able} can")


def _learns_findings(name: str) -> bool:
    return getattr(_module(name), "FINDINGS", False)


def _check_contract(name: str, method: Method, state: TrainState, batch: Batch) -> None:
    """Raises UserError unless the outputs have the shapes that `Method` promises."""
    images = batch.image if len(batch.image) else batch.unlabeled
    if method.classify:
        pair = jax.eval_shape(lambda: method.classify(state, images))
        if not (isinstance(pair, tuple) and [x.ndim for x in pair] == [2, 2]):
            raise UserError(
                f"{name}: classify gives {_shown(pair)}; it must give a pair, logits [B,K] and "
                "features [B,F]: let the network return both"
            )
    if method.generate:
        out = jax.eval_shape(lambda: method.generate(state, method.draw_z(state.rng, len(images))))
        if getattr(out, "shape", None) != images.shape:
            raise UserError(f"{name}: generate gives {_shown(out)}; it must give {images.shape}")


def _shown(value: Any) -> str:  # noqa: ANN401
    """The shapes of a pytree's arrays."""
    return ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(value))


POSITIVE = ("num_classes", "size", "width", "z_dim", "reference_size")
SHARES = ("ema", "beta1")  # in [0,1)


def _check(key: str, value: Any, kind: Any) -> None:  # noqa: ANN401
    """Raises UserError unless `value` is of the type `kind` and in the range of its name."""
    name = key.rpartition(".")[2]
    if typing.get_origin(kind) is typing.Literal:
        check_choice(key, value, typing.get_args(kind))
    elif typing.get_origin(kind) is tuple:
        if len(value) != len(typing.get_args(kind)):
            raise UserError(f"{key}: {value}; give {len(typing.get_args(kind))} numbers")
    elif name in POSITIVE and value < 1:
        raise UserError(f"{key}: {value}; must be 1 or more")
    elif name in SHARES and not 0 <= value < 1:
        raise UserError(f"{key}: {value}; must be at least 0 and below 1")
