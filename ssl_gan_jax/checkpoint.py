"""Checkpoints that are either right or refused.

    <folder>/<step>/state/          the arrays, as Orbax writes them
    <folder>/<step>/manifest.json   {"step", "meta", "leaves", "files", "sha256"}

Orbax alone restores a flipped bit as a wrong weight, and a wrong dtype by casting it. So the
manifest holds the SHA-256 of every file and of itself, and the shape and dtype of every array. A
step is written as `<step>.tmp` and renamed when whole: what a crash leaves is never taken for a
checkpoint. Nothing in it is code; reading one runs none.

The state is stored flat, as `{path in the tree: array}`, and takes its containers from the state
that it is restored into. On several hosts every process calls each function, over one shared
folder; process 0 checks and renames.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import PyTree

MANIFEST = "manifest.json"


def save(
    folder: str | Path,
    step: int,
    state: PyTree,
    meta: dict[str, Any],
    *,
    keep: Collection[int] = (),
    keep_last: int = 2,
) -> None:
    """Writes `state` as checkpoint `step`, with `meta`, which must be JSON without NaN.

    Waits until it is on disk. Then removes the older steps but for the last `keep_last` (this one
    counted) and those in `keep`. Raises UserError where it cannot be written; the older checkpoints
    are then as they were.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    part, final = folder / f"{step}.tmp", folder / str(step)
    arrays = {name: _raw(leaf) for name, leaf in _named(state).items() if np.size(leaf)}
    body = {"step": step, "meta": meta, "leaves": _signature(state)}
    _encode(body)  # fails before anything is written

    def start() -> None:
        clean(folder)
        part.mkdir(parents=True)

    def finish() -> None:
        _write_manifest(part, body)
        if final.exists():  # damaged, or the same step again
            _discard(final)
        part.rename(final)
        for old in [s for s in _numbered(folder) if s <= step][:-keep_last]:
            if old not in keep:
                _discard(folder / str(old))

    try:
        _on_first_process(start)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(part / "state", args=ocp.args.StandardSave(arrays))
        _on_first_process(finish)
    except (OSError, ValueError) as error:
        # TensorStore reports a full disk as a ValueError.
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                clean(folder)
        code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's way to say errno
        reason = os.strerror(int(code[1])) if code else str(error).strip().splitlines()[0]
        raise UserError(
            f"{folder}: cannot save step {step} ({reason}); free some space, make it writable or "
            "choose another --workdir"
        ) from error


def restore(folder: str | Path, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest checkpoint that is sound, as (state, meta); None where there is none at all.

    `like` is a state, or its `ShapeDtypeStruct`s, of the wanted structure; the arrays come back
    with its shardings, whatever devices they were saved from. A damaged step is named in a warning
    and the one before it taken. Raises UserError where all are damaged, or where a leaf is missing,
    too many, or of another shape or dtype than in `like`.
    """
    folder = Path(folder).absolute()

    def newest_sound() -> int:
        every = _numbered(folder)
        for step in reversed(every):
            fault = _fault(folder / str(step))
            if fault is None:
                return step
            logging.warning("checkpoint %s is damaged and left out: %s", folder / str(step), fault)
        if every:
            raise UserError(
                f"{folder}: all checkpoints ({', '.join(map(str, every))}) are damaged; bring back "
                "a copy of one, or delete this folder to train from the start"
            )
        return -1

    step = _on_first_process(newest_sound)
    return None if step < 0 else _load(folder / str(step), like)


def restore_step(folder: str | Path, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Checkpoint `step`, such as the best one, as `restore` gives it. UserError if not sound."""
    path = Path(folder).absolute() / str(step)

    def check() -> None:
        if fault := _fault(path):
            raise UserError(f"{path}: {fault}; it has to be one of {steps(folder)} and whole")

    _on_first_process(check)
    return _load(path, like)


def steps(folder: str | Path) -> list[int]:
    """The complete checkpoints, ascending. Their contents are verified only when restored."""
    folder = Path(folder)
    return [step for step in _numbered(folder) if (folder / str(step) / MANIFEST).is_file()]


def clean(folder: str | Path) -> None:
    """Deletes what interrupted saves left behind. Raises OSError where it may not."""
    for pattern in ("*.tmp", "*.orbax-checkpoint-tmp*"):
        for path in Path(folder).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _load(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    import orbax.checkpoint as ocp

    manifest = json.loads((path / MANIFEST).read_bytes())
    leaves = _abstract(like)
    stored, wanted = manifest["leaves"], _signature(like)
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise UserError(
                f"{path}: {name} is {stored.get(name, 'missing')} in the checkpoint and "
                f"{wanted.get(name, 'missing')} in this model; use the config that it was trained "
                "with, or another --workdir"
            )
    targets = {name: _raw_abstract(leaf) for name, leaf in leaves.items() if leaf.size}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        arrays = checkpointer.restore(path / "state", args=ocp.args.StandardRestore(targets))
    restored = [
        _typed(arrays[name], leaf.dtype) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype)
        for name, leaf in leaves.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), restored), manifest["meta"]


def _fault(path: Path) -> str | None:
    """What is wrong with the step in `path`, or None if every byte of it is as it was written."""
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        files = manifest["files"]
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        if raw != _encode(body | {"sha256": _digest(body)}) or body["step"] != int(path.name):
            return f"{MANIFEST} was changed"
        found = _files(path)
        for name in sorted({*files, *found}):
            if name not in found:
                return f"{name} is missing"
            if name not in files:
                return f"{name} does not belong to it"
            if _sha256(path / name) != files[name]:
                return f"{name} was changed"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be parsed"
    return None


def _write_manifest(path: Path, body: dict[str, Any]) -> None:
    body = body | {"files": {name: _sha256(path / name) for name in _files(path)}}
    with open(path / MANIFEST, "wb") as file:
        file.write(_encode(body | {"sha256": _digest(body)}))
        file.flush()
        os.fsync(file.fileno())


def _encode(obj: dict[str, Any]) -> bytes:
    return (json.dumps(obj, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(_encode(body)).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(path: Path) -> list[str]:
    """All files below `path` but the manifest, relative to it."""
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir())
    return sorted(name for name in names if name != MANIFEST)


def _numbered(folder: Path) -> list[int]:
    """The steps that have a folder, sound or not. A folder that cannot be listed is not empty."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}); make it a readable folder or choose "
            "another --workdir"
        ) from error
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def _discard(path: Path) -> None:
    """Deletes a step; renames it first, so that a kill midway leaves no half of it."""
    trash = path.with_name(f"{path.name}.old.tmp")
    path.rename(trash)
    shutil.rmtree(trash)


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves, in order, under their paths: `.players['d'].params['Dense_0']['kernel']`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _abstract(tree: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of each leaf; the first device's where it has none."""
    first = SingleDeviceSharding(jax.local_devices()[0])
    shapes = _named(jax.eval_shape(lambda same: same, tree))
    return {
        name: jax.ShapeDtypeStruct(
            shapes[name].shape,
            shapes[name].dtype,
            sharding=getattr(leaf, "sharding", None) or first,
        )
        for name, leaf in _named(tree).items()
    }


def _signature(tree: PyTree) -> dict[str, str]:
    """Shape and dtype of each leaf, as `float32[3,3,1,8]`; a random key's as `key<fry>[]`."""
    shapes = _abstract(tree).items()
    return {name: f"{x.dtype}[{','.join(map(str, x.shape))}]" for name, x in shapes}


def _raw(leaf: Any) -> jax.Array:  # noqa: ANN401
    """The leaf as Orbax can store it: a typed key becomes its uint32s."""
    leaf = jnp.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf.dtype) else leaf


def _raw_abstract(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    raw = jax.eval_shape(_raw, leaf)
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=leaf.sharding)


def _typed(array: jax.Array, dtype: Any) -> jax.Array:  # noqa: ANN401
    if not _is_key(dtype):
        return array
    # A key's dtype names its generator, but only an array of that dtype can be asked for it.
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(jnp.empty(0, dtype)))


def _is_key(dtype: Any) -> bool:  # noqa: ANN401
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _on_first_process(work: Callable[[], int | None]) -> int:
    """Runs `work` on process 0 and gives every process its number; its failure fails them all."""
    if jax.process_count() == 1:
        return work() or 0
    number, failure = 0, None
    if jax.process_index() == 0:
        try:
            number = work() or 0
        except Exception as error:  # the others wait below and have to be told first
            failure = error
    failed, number = multihost_utils.broadcast_one_to_all(np.array([failure is not None, number]))
    if failure is not None:
        raise failure
    if failed:
        raise UserError("checkpoint: process 0 failed; see its message")
    return int(number)
