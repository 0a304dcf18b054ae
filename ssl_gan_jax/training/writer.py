"""The files that a run writes while it trains: metrics.jsonl, TensorBoard events, samples."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ssl_gan_jax.data.tf_import import hide_module
from ssl_gan_jax.files import atomic_write, user_error, write_png


class Writer:
    """Appends metrics to `metrics.jsonl` and TensorBoard, and writes images into `samples/`.

    A new writer deletes incomplete lines, and lines and events after `resume_step`, the step of the
    restored state (None: keeps all). Raises UserError if the folder cannot be written.
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
        """Writes a JSON line `{"step", "prefix/name": value}`; values not finite become null."""
        prefixed = {f"{prefix}/{name}" if prefix else name: v for name, v in values.items()}
        finite = {
            name: float(v) if v is not None and math.isfinite(v) else None
            for name, v in prefixed.items()
        }
        with user_error(self._folder):
            self._lines.write(json.dumps({"step": int(step), **finite}) + "\n")
            for name, value in finite.items():
                if value is not None:
                    self._board.add_scalar(name, value, int(step))

    def images(self, step: int, picture: np.ndarray, name: str = "samples") -> None:
        """Writes uint8 `[h,w]` to `<name>/<step:06d>.png` and to TensorBoard."""
        write_png(self._folder / name / f"{step:06d}.png", picture)
        self._board.add_image(name, picture, int(step), dataformats="HW")

    def histograms(self, step: int, arrays: Mapping[str, Any]) -> None:
        """Writes the distribution of each finite array of a nested dict to TensorBoard."""
        for name, array in traverse_util.flatten_dict(arrays, sep="/").items():
            if np.isfinite(values := np.asarray(array, np.float32)).all():
                self._board.add_histogram(name, values, int(step), bins=50)

    def close(self) -> None:
        """Closes both. Raises UserError if the last lines cannot be written."""
        with user_error(self._folder), contextlib.closing(self._board):
            self._lines.close()

    def __enter__(self) -> "Writer":
        """Returns the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the writer."""
        self.close()


def _repair(path: Path, resume_step: int | None) -> None:
    """Deletes incomplete lines, and lines after `resume_step`, from a metrics file."""
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
