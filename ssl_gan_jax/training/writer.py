"""What a run writes while it trains: metrics.jsonl, TensorBoard events, pictures of samples."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ssl_gan_jax import processes
from ssl_gan_jax.data.tf_import import hide_module
from ssl_gan_jax.files import atomic_write, user_error, write_png


def open_writer(workdir: Path, resume_step: int) -> "Writer | processes.Null":
    """The run's writer on process 0; on the others one that writes nothing."""
    return Writer(workdir, resume_step) if processes.is_first() else processes.Null()


class Writer:
    """Appends metrics to `metrics.jsonl` and TensorBoard, and puts pictures into `samples/`.

    A line that a crash tore is removed on opening. `resume_step` is the step that training goes on
    from (0: anew): lines and events after it are dropped, so that the file reads as if training
    had never stopped. None keeps all. Raises UserError where the folder cannot be written.
    """

    def __init__(self, workdir: str | Path, resume_step: int | None = None) -> None:
        with hide_module("torch"):
            from tensorboardX import SummaryWriter

        self._folder = Path(workdir)
        path = self._folder / "metrics.jsonl"
        with user_error(workdir):
            self._folder.mkdir(parents=True, exist_ok=True)
            _repair(path, resume_step)
            self._lines = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
            purge = None if resume_step is None else resume_step + 1
            self._board = SummaryWriter(str(self._folder), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float | None], prefix: str = "") -> None:
        """One JSON line `{"step", "prefix/name": value}`; what is not finite is written as null."""
        named = {f"{prefix}/{name}" if prefix else name: v for name, v in values.items()}
        finite = {
            name: float(v) if v is not None and math.isfinite(v) else None
            for name, v in named.items()
        }
        with user_error(self._folder):
            self._lines.write(json.dumps({"step": int(step), **finite}) + "\n")
            for name, value in finite.items():
                if value is not None:
                    self._board.add_scalar(name, value, int(step))

    def images(self, step: int, picture: np.ndarray, name: str = "samples") -> None:
        """`<name>/<step:06d>.png`, and TensorBoard, from a uint8 `[h,w]` as `grid` makes it."""
        write_png(self._folder / name / f"{step:06d}.png", picture)
        self._board.add_image(name, picture, int(step), dataformats="HW")

    def histograms(self, step: int, arrays: Mapping[str, Any]) -> None:
        """To TensorBoard: the distribution of each array of a nested dict, where it is finite."""
        for name, array in traverse_util.flatten_dict(arrays, sep="/").items():
            if np.isfinite(values := np.asarray(array, np.float32)).all():
                self._board.add_histogram(name, values, int(step), bins=50)

    def close(self) -> None:
        """Flushes and closes both. Raises UserError where the last of it cannot be written."""
        with user_error(self._folder), contextlib.closing(self._board):
            self._lines.close()

    def __enter__(self) -> "Writer":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


def _repair(path: Path, resume_step: int | None) -> None:
    """Rewrites a metrics file without torn lines and without those after `resume_step`."""
    if not path.exists():
        return
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    after = b"".join(line for line in lines if _keeps(line, resume_step))
    if after != before:
        with atomic_write(path, "wb") as file:
            file.write(after)


def _keeps(line: bytes, resume_step: int | None) -> bool:
    try:
        step = json.loads(line)["step"]
        return line.endswith(b"\n") and (resume_step is None or step <= resume_step)
    except (ValueError, KeyError, TypeError):
        return False
