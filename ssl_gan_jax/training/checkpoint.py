"""Checkpoints that are either sound or refused.

    <folder>/<step>/state/          the arrays, as Orbax writes them
    <folder>/<step>/manifest.json   {"step", "meta", "leaves", "files", "sha256"}

Orbax restores a flipped bit as a wrong weight, and casts a wrong dtype. So the manifest holds the
SHA-256 of every file and of itself, and the shape and dtype of every array. A step is written as
`<step>.tmp` and renamed when it is complete, so a crash leaves no half checkpoint. A checkpoint
holds no code.

Orbax takes a folder's name for a pattern: below `lr=[0.1]` it does not find the arrays that it has
just written. So `_plain` gives Orbax a path without patterns, and the arrays are read back before
the manifest is written.

The state is stored flat, as `{path in the tree: array}`; its containers come from the state that it
is restored into. Several processes (`processes.start`) make the same calls on one shared folder;
process 0 checks, writes the manifest and renames.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import SingleDeviceSharding

from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.types import PyTree

MANIFEST = "manifest.json"


class Saver:
    """Writes a run's checkpoints into `folder` in the background; `close` it at the end.

    It keeps the last `keep_last` steps, and the steps `keep` of `save`.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2) -> None:
        import orbax.checkpoint as ocp

        self.folder, self.keep_last = Path(folder).absolute(), keep_last
        self._plain = contextlib.ExitStack()  # of `_plain`, until the save has finished
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._background = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None

    def save(
        self, step: int, state: PyTree, meta: dict[str, Any], *, keep: Collection[int] = ()
    ) -> None:
        """Writes `state` as checkpoint `step`, with `meta` (JSON without NaN).

        Waits for the previous save, then returns when `state` has been copied and may be donated.
        Older steps are deleted when this step is complete, except for `keep` and the last steps.

        Raises:
          UserError: this step or the previous one cannot be written; older steps are unchanged.
        """
        import orbax.checkpoint as ocp

        arrays = {name: leaf for name, leaf in _named(state).items() if leaf.size}
        body = {"step": step, "meta": meta, "leaves": _signature(state)}
        _encode(body)  # fails before anything is written
        self.wait()
        part = self.folder / f"{step}.tmp"
        with _named_errors(self.folder, step):
            if processes.is_first():  # the other processes wait for it in Orbax's `save`
                clean(self.folder)
                part.mkdir(parents=True)
            plain = self._plain.enter_context(_plain(self.folder)) / part.name
            self._orbax.save(plain / "state", args=ocp.args.StandardSave(arrays))
        self._saving = self._background.submit(self._finish, part, body, set(arrays), keep)

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError if it could not be written."""
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def close(self) -> None:
        """Calls `wait`, and ends the background work."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax.close()
            self._plain.close()

    def _finish(
        self, part: Path, body: dict[str, Any], names: set[str], keep: Collection[int]
    ) -> None:
        with _named_errors(self.folder, body["step"]):
            self._orbax.wait_until_finished()  # on all processes
            self._plain.close()
            if not processes.is_first():
                return
            if missing := sorted(names - _stored(part / "state")):
                raise OSError(f"{missing[0]} is not there when it is read back")
            body = body | {"files": {name: _sha256(part / name) for name in _files(part)}}
            with open(part / MANIFEST, "wb") as file:
                file.write(_manifest(body))
                file.flush()
                os.fsync(file.fileno())
            final = self.folder / str(body["step"])
            if final.exists():  # a damaged step, or a repeated save
                _discard(final)
            part.rename(final)
            older = [step for step in _numbered(self.folder) if step <= body["step"]]
            for step in older[: -self.keep_last]:
                if step not in keep:
                    _discard(self.folder / str(step))


def save(folder: str | Path, step: int, state: PyTree, meta: dict[str, Any]) -> None:
    """Saves one checkpoint, and waits until it is written."""
    with contextlib.closing(Saver(folder)) as saver:
        saver.save(step, state, meta)


def restore(folder: str | Path, template: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest sound checkpoint, as (state, meta); None if there is no checkpoint.

    A damaged step is skipped with a warning.

    Args:
      folder: as in `Saver`.
      template: a state, or its `ShapeDtypeStruct`s, with the structure and shardings of the result.

    Raises:
      UserError: all checkpoints are damaged, or the leaves differ from those of `template`.
    """
    folder = Path(folder).absolute()

    def newest_sound() -> int:
        found = _numbered(folder)
        for step in reversed(found):
            fault = _fault(folder / str(step))
            if fault is None:
                return step
            logging.warning("checkpoint %s is damaged and left out: %s", folder / str(step), fault)
        if found:
            raise UserError(
                f"{folder}: all checkpoints ({', '.join(map(str, found))}) are damaged; bring back "
                "a copy of one, or delete this folder to train from the start"
            )
        return -1

    step = int(processes.from_first(newest_sound))
    return None if step < 0 else _load(folder / str(step), template)


def restore_step(folder: str | Path, step: int, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Checkpoint `step`, as `restore` gives it. UserError if it is not sound."""
    path = Path(folder).absolute() / str(step)
    if fault := processes.from_first(lambda: _fault(path) or ""):
        raise UserError(
            f"{path}: {fault}; bring back a copy of it, or train again in another folder (here are "
            f"the steps {steps(folder)})"
        )
    return _load(path, template)


def steps(folder: str | Path) -> list[int]:
    """The complete checkpoints, ascending. Only `restore` verifies their contents."""
    folder = Path(folder)
    return [step for step in _numbered(folder) if (folder / str(step) / MANIFEST).is_file()]


def clean(folder: Path) -> None:
    """Deletes the remains of interrupted saves. Raises OSError if it cannot."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.orbax-checkpoint-tmp*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _load(path: Path, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    import orbax.checkpoint as ocp

    manifest = json.loads((path / MANIFEST).read_bytes())
    stored, wanted = manifest["leaves"], _signature(template)
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise UserError(
                f"{path}: {name} is {stored.get(name, 'missing')} in the checkpoint and "
                f"{wanted.get(name, 'missing')} in this model; use the config that it was trained "
                "with, or another --workdir"
            )
    default, leaves = SingleDeviceSharding(jax.local_devices()[0]), _named(template)
    targets = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or default)
        for name, leaf in leaves.items()
        if leaf.size  # Orbax stores no empty arrays
    }
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer, _plain(path) as plain:
        arrays = checkpointer.restore(plain / "state", args=ocp.args.StandardRestore(targets))
    restored = [
        arrays[name] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype)
        for name, leaf in leaves.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(template), restored), manifest["meta"]


def _fault(path: Path) -> str | None:
    """What is wrong with the step in `path`; None if every byte is as it was written."""
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = json.loads(raw)
        files = manifest["files"]
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        if raw != _manifest(body) or body["step"] != int(path.name):
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


@contextlib.contextmanager
def _named_errors(folder: Path, step: int) -> Iterator[None]:
    """Raises UserError for errors of the file system and of TensorStore (ValueError: disk full)."""
    try:
        yield
    except (OSError, ValueError) as error:
        if processes.is_first():
            with contextlib.suppress(OSError):
                clean(folder)
        code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore writes errno thus
        reason = os.strerror(int(code[1])) if code else str(error).strip().splitlines()[0]
        raise UserError(
            f"{folder}: cannot save step {step} ({reason}); free some space, make it writable or "
            "choose another --workdir"
        ) from error


@contextlib.contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """`folder`; if its path could be taken for a pattern, a link to it with another path."""
    if not set(str(folder)) & set("*?[]{}\\"):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ssl_gan_jax_") as temporary:
        link = Path(temporary) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _stored(state: Path) -> set[str]:
    """The names of the arrays in Orbax's folder `state` whose shape and values can be read."""
    import tensorstore

    shapes, values = set(), set()
    with _plain(state) as plain:
        base = {"driver": "file", "path": f"{plain}/"}
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        for key in store.list().result():
            name, _, part = key.decode().rpartition("/")
            if store.read(key).result().value:
                (shapes if part == ".zarray" else values).add(name)
    return shapes & values


def _encode(obj: dict[str, Any]) -> bytes:
    return (json.dumps(obj, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _manifest(body: dict[str, Any]) -> bytes:
    """The content of the manifest: `body` and its SHA-256."""
    return _encode(body | {"sha256": hashlib.sha256(_encode(body)).hexdigest()})


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(path: Path) -> list[str]:
    """All files below `path` except for the manifest, relative to `path`."""
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir())
    return sorted(name for name in names if name != MANIFEST)


def _numbered(folder: Path) -> list[int]:
    """The steps that have a folder, sound or not. UserError if `folder` cannot be listed."""
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
    """Deletes a step; renames it first, so that a kill leaves no half checkpoint."""
    trash = path.with_name(f"{path.name}.old.tmp")
    path.rename(trash)
    shutil.rmtree(trash)


def _named(tree: PyTree) -> dict[str, jax.Array | jax.ShapeDtypeStruct]:
    """The leaves, in order, under their paths: `.players['d'].params['Dense_0']['kernel']`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _signature(tree: PyTree) -> dict[str, str]:
    """Shape and dtype of each leaf, as `float32[3,3,1,8]`; a random key's as `key<fry>[]`."""
    return {
        name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in _named(tree).items()
    }
