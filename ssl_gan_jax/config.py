"""Configs: the keys of all configs, their checks, and the arguments of config files.

A config file is Python with `get_config(arg) -> ConfigDict`. `--config=FILE:key=value,...` passes
`arg` to it, and `--config.train.steps=100` overrides a key of the result. The modules that
`training/run.py` calls use a ConfigDict only as a mapping of plain values.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from ssl_gan_jax import methods
from ssl_gan_jax.errors import UserError, check_choice

# Keys that may change when a run is resumed: paths and intervals.
RESUMABLE_KEYS = (
    "data.dir",
    "data.cache_dir",
    "train.log_every",
    "train.checkpoint_every",
    "train.sample_every",
    "train.steps_per_call",
)
# Keys that arguments of `base` set, with the arguments' names.
ARGUMENT_KEYS = {
    "method.name": "method",
    "data.name": "data",
    "data.size": "size",
    "train.seed": "seed",
}
# Keys in which replicas may differ.
REPLICA_KEYS = ("train.seed", "data.split_seed", "data.labels_per_class", "data.images")
# Arguments of a config that name a run's cell in a table; all others are changes to its method.
CELL_KEYS = (
    *("method", "scenario", "labels", "images", "seed", "data", "size", "source", "target"),
    *("only", "train.test_at_end"),
)
PROLONG = ("train.steps", "train.epochs")  # keys that may grow when a run is resumed
EVERY = ("log_every", "evaluate_every", "checkpoint_every", "sample_every")
SIZES = ("steps_per_call", "batch_size", "evaluation_batch_size")
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
ADAPT = {False: "none", True: "mixture"}  # `data.adapt` of earlier versions


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:  # noqa: ANN401
    """Parses `"method=ec_gan,images=200"`; `defaults` gives all keys and their types.

    Raises:
      UserError: an unknown key, or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        key, equals, text = part.partition("=")
        check_choice("argument of --config=FILE", key, defaults)
        kind = type(defaults[key])
        try:
            values[key] = BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            equals = ""
        if not equals:
            raise UserError(f"argument of --config=FILE: {part!r} is not {key}=<{kind.__name__}>")
    return ml_collections.ConfigDict(values)


def base(
    method: str, *, data: str, size: int, seed: int = 0, preset: str = "default"
) -> ml_collections.ConfigDict:
    """The default config.

    Args:
      method: a module of `ssl_gan_jax.methods`.
      data: a module of `ssl_gan_jax.data.sources`.
      size: side of the images in pixels; the method's `size` and `shift` follow `data.size`.
      seed: of initialisation, order, augmentation and the draw of labels.
      preset: see `methods.defaults`.
    """
    config = ml_collections.ConfigDict()
    config.data = {
        "name": data,
        "dir": "",  # folder of the images
        "cache_dir": "",  # prepared copies; default $SSL_GAN_JAX_CACHE or ~/.cache/ssl_gan_jax
        "size": size,
        "equalize": "hist",  # "clahe", "none"
        "aspect": "squash",  # "pad": keep the proportions of images that are not square
        "options": {},  # of the source, such as the phantom's number of images
        "labels_per_class": 0,  # labels that training may see; 0: all
        "images": 0,  # the same in total, drawn evenly over the classes; 0: all
        "pool": "all",  # unlabelled images: "all" of train, or the "labelled" ones only
        "only_class": "",  # train on one class (dcgan)
        "val": 0.1,  # of the patients
        "test": 0.1,  # of the patients, if there is no official test set
        "validation": "all",  # labels of validation: "all", or "budget": no more than training has
        "split_seed": 0,  # draws the splits, if there are no official splits
        "source_site": "",  # labelled images of this site only ...
        "target_site": "",  # ... tested on this one (Madani et al. 2018, Table 2)
        "target_test": 0.2,  # share of its patients that are the test images
        "adapt": "none",  # unlabelled images: "target", of the target site; "mixture", of both
        "max_unreadable": 0.01,  # share of files that may be left out
    }
    config.method = methods.defaults(method, preset)
    config.method.size = config.data.get_ref("size")
    config.train = {
        "steps": 1000,
        "epochs": 0,  # of the labelled images, in place of steps
        "steps_per_call": 1,  # of the compiled program: more save time if steps are short
        "batch_size": 64,
        "log_every": 50,
        "evaluate_every": 250,
        "checkpoint_every": 500,
        "sample_every": 500,
        "evaluation_batch_size": 200,
        "test_at_end": True,  # off for tuning: the test images are not used
        "seed": seed,
    }
    per_labeled = methods.unlabeled_per_labeled(method)
    config.train.unlabeled_batch_size = config.train.get_ref("batch_size") * per_labeled
    config.replicas = 1  # runs with consecutive seeds, as one program
    if "shift" in config.method and preset == "default":
        config.method.shift = config.data.get_ref("size") // 10  # also if a flag sets the size
    return config


def defaults_of(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The flat default config for the method, data, size and seed of a config's `leaves`.

    Raises:
      KeyError: one of these is missing.
      UserError: unknown method.
    """
    return flat(base(**{name: leaves[key] for key, name in ARGUMENT_KEYS.items()}))


def cell_of(leaves: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """A run's cell in a table: its arguments, and its changes to the default config.

    Args:
      leaves: of its config.
      default: the leaves of the default config for such a run.
    """
    budgets = {"data.labels_per_class": "labels", "data.images": "images"}
    cell = {name: leaves[key] for key, name in ARGUMENT_KEYS.items()}
    cell |= {name: leaves[key] for key, name in budgets.items() if leaves.get(key)}
    named = {*ARGUMENT_KEYS, *RESUMABLE_KEYS, *budgets}
    return cell | {
        key: value
        for key, value in leaves.items()
        if key not in named and (key not in default or default[key] != value)
    }


def resolve_steps(config: ml_collections.ConfigDict, given: Iterable[str]) -> None:
    """Sets `train.epochs` of `config` to 0 if `train.steps` is among the `given` keys.

    Raises:
      UserError: both are given.
    """
    if "train.steps" in given and config.train.epochs:
        if "train.epochs" in given:
            raise UserError("train.steps and train.epochs are both given: give one of them")
        config.train.epochs = 0


def check(config: Mapping[str, Any]) -> None:
    """Raises UserError for numbers of `data` and `train` that are out of range for all data."""
    data, train = config["data"], config["train"]
    minimum = dict.fromkeys(("data.size", *(f"train.{key}" for key in (*EVERY, *SIZES))), 1)
    minimum |= dict.fromkeys(("data.labels_per_class", "data.images", "train.unlabeled_batch_size",
                            "train.epochs", "train.seed"), 0)  # fmt: skip
    for key, low in minimum.items():
        part, _, name = key.partition(".")
        if (value := config[part][name]) < low:
            raise UserError(f"{key}: {value}; must be {low} or more")
    if train["seed"] >= 2**32:
        raise UserError(f"train.seed: {train['seed']}; must be below 2**32")
    if not train["epochs"] and train["steps"] < 1:
        raise UserError(f"train: {train['steps']} steps; raise train.steps, or give train.epochs")
    for key in ("val", "test", "max_unreadable"):
        if not 0 <= data[key] <= (1 if key == "max_unreadable" else 0.999999):
            raise UserError(f"data.{key}: {data[key]}; is a share, from 0 to 1")
    if data["val"] + data["test"] >= 1:
        raise UserError(f"data.val and data.test: {data['val']} and {data['test']} leave nothing")
    if data["labels_per_class"] and data["images"]:
        raise UserError("data.labels_per_class and data.images are both given: give one of them")


def as_ssl_gan(method: ml_collections.ConfigDict) -> None:
    """Gives `supervised` the settings of `ssl_gan`'s classifier; changes no other method.

    This is its fairest baseline: only the generated and the unlabelled images are missing.
    """
    if method.name == "supervised":
        method.update(norm="weight", width=32, noise=0.1, dropout=(0.0, 0.25), lr=5e-4)


def as_vanilla(method: ml_collections.ConfigDict) -> None:
    """Gives `mean_teacher` the settings of the 3N-GAN paper's vanilla classifier.

    `supervised` has them by default; other methods are not changed. The running average is shorter
    than `mean_teacher`'s, because averaged weights do not fit averaged statistics of a network that
    still moves: with .999 all predictions were near .4 after 1,000 steps.
    """
    if method.name == "mean_teacher":
        method.update(norm="batch", noise=0.0, dropout=(0.0, 0.0), lr=2e-4, ema=0.995)


def check_key(flag: str, key: str, keys: Iterable[str]) -> None:
    """Raises UserError if `key` is neither a leaf of a config, one of `keys`, nor a branch.

    `records.list_source` checks the options of a source.
    """
    branch = any(k.startswith(f"{key}.") for k in keys)
    if not branch and not f"{key}.".startswith("data.options."):
        check_choice(flag, key, keys)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"method.tau": .9, ...}` with plain JSON values; tuples become lists."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = json.loads(json.dumps(value))
    return leaves


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`"train.steps: 100 there, 200 now"` for each leaf that differs, except RESUMABLE_KEYS.

    If `old` lacks a key, the run is older than the key, and did what the key's default does.
    """
    a, b = flat(old), flat(new)
    if (adapt := a.get("data.adapt")) in ADAPT:
        a["data.adapt"] = ADAPT[adapt]
    with contextlib.suppress(KeyError):  # parts of a config have no defaults
        a = {key: value for key, value in defaults_of(b).items() if key in b} | a
    missing = "(absent)"
    return [
        f"{key}: {a.get(key, missing)} there, {b.get(key, missing)} now"
        for key in sorted({*a, *b} - {*RESUMABLE_KEYS})
        if a.get(key, missing) != b.get(key, missing)
    ]
