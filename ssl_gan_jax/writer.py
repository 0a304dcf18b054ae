"""What a run leaves in its folder while it trains: metrics, pictures, TensorBoard events, progress.

On several hosts only process 0 makes a `Writer` or a `Progress`.
"""

import contextlib
import json
import math
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from flax import traverse_util

from ssl_gan_jax.data.outputs import MARK
from ssl_gan_jax.data.quiet import without
from ssl_gan_jax.errors import UserError


@contextlib.contextmanager
def atomic_write(
    path: str | Path, mode: str = "w", newline: str | None = None
) -> Iterator[IO[Any]]:
    """A file to write that takes the place of `path` at the end: a reader sees old or new, whole.

    Of several that write `path` at once, the last to end stays. Leaves `path` as it was when the
    block raises. Text is UTF-8; what cannot be encoded, such as a file name of other bytes, is
    written with backslashes. Raises UserError where it cannot be written.
    """
    path = Path(path)
    # A name of its own: two processes that write one file must not write into each other's.
    part = path.with_name(f"{path.name[:40]}.{uuid.uuid4().hex[:12]}.tmp")
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    try:
        with user_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, mode, newline=newline, encoding=encoding, errors=errors) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


@contextlib.contextmanager
def user_error(path: str | Path) -> Iterator[None]:
    """Turns an OSError of the block (disk full, read-only, ...) into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot write ({error.strerror or error}); free some space, make it writable "
            "or choose another --workdir"
        ) from error


def write_json(path: str | Path, obj: Any) -> None:  # noqa: ANN401
    """Writes `obj` as JSON, atomically. Raises ValueError for NaN, UserError for the disk."""
    text = json.dumps(obj, indent=2, allow_nan=False)  # before the file is touched
    with atomic_write(path) as file:
        file.write(text + "\n")


def write_png(path: str | Path, pixels: np.ndarray, about: Mapping[str, str] | None = None) -> None:
    """Writes uint8 [h,w] or [h,w,3], atomically, with the texts `about` it as metadata.

    Each picture says that this program made it, so that none is ever taken for a film.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in {"Software": MARK, **(about or {})}.items():
        info.add_text(key, value)
    with atomic_write(path, "wb") as file:
        Image.fromarray(pixels).save(file, format="png", pnginfo=info)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table of cells as `plain` text, as one part of a document; none without rows."""
    lines = [[*map(plain, header)], ["---"] * len(header), *([*map(plain, row)] for row in rows)]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)] if rows else []


def plain(cell: Any) -> str:  # noqa: ANN401
    """One line of Markdown: names come from folders and files, and must not act as markup."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(cell).split())).replace("<", "&lt;")
    # An underscore within a word marks nothing up, and names such as ssl_gan stay readable.
    return re.sub(r"([\\|`*$~]|(?<=\])\(|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def csv_cell(cell: str) -> str:
    """The text as a spreadsheet will show it, and not take it for a formula."""
    cell = str(cell)
    if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        cell = f"'{cell}"
    return cell.replace("\r", " ")  # csv quotes a line feed, but not this


def clock(seconds: float) -> str:
    """As in "1:02:03"."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Tiles `images` `[n,H,W,1]` in [-1,1] into one uint8 `[h,w]`, `columns` to a row."""
    pixels = np.clip(np.rint((np.asarray(images, np.float32)[..., 0] + 1) * 127.5), 0, 255)
    count, height, width = pixels.shape
    rows = -(-count // columns)
    # A gap after each tile but the last: paste into larger cells, then cut the final gap off.
    cells = np.zeros((rows * columns, height + gap, width + gap), np.uint8)
    cells[:count, :height, :width] = pixels
    sheet = cells.reshape(rows, columns, height + gap, width + gap).swapaxes(1, 2)
    return sheet.reshape(rows * (height + gap), -1)[: rows * (height + gap) - gap, : -gap or None]


class Writer:
    """Appends metrics to `metrics.jsonl` and TensorBoard, and puts pictures into `samples/`.

    A line that a crash tore is removed on opening. `resume_step` is the step that training goes on
    from (0: anew): lines and events after it are dropped, so that the file reads as if training
    had never stopped. None keeps all. Raises UserError where the folder cannot be written.
    """

    def __init__(self, workdir: str | Path, resume_step: int | None = None) -> None:
        with without("torch"):
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


class Progress:
    """How far training is: a bar on a terminal, else a line of plain text per log step.

    `start` is the step that this process began at; the rate counts its own steps only, and not the
    first of them, which compiles. Use it as a context manager. `stream` is stderr by default.
    """

    def __init__(self, total: int, start: int = 0, stream: IO[str] | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._total = total
        self._stream = stream or sys.stderr
        self._origin = (start, time.monotonic())
        self._first = True
        self._shown, self._bar = "", None
        console = Console(file=self._stream)
        if console.is_terminal:
            text = TextColumn("{task.description}", markup=False)
            self._bar = Bar(BarColumn(bar_width=20), text, console=console, transient=True)
            self._task = self._bar.add_task("", total=total, completed=start)

    def update(self, step: int, metrics: Mapping[str, float | None] | None = None) -> None:
        """To be called after every step; with `metrics` at the log steps (None is left out)."""
        now = time.monotonic()
        done, since = self._origin
        rate = (step - done) / max(now - since, 1e-9)
        if self._first:
            self._origin, self._first = (step, now), False
        if metrics is not None:
            self._shown = "  ".join(
                f"{name} {value:.4g}" for name, value in metrics.items() if value is not None
            )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._line(step, rate))
        elif metrics is not None:
            self._print(self._line(step, rate))

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the reader is gone: training goes on without it
            print(line, file=self._stream, flush=True)

    def _line(self, step: int, rate: float) -> str:
        left = (self._total - step) / rate if rate > 0 else 0
        speed = f"{rate:.1f}" if rate >= 10 else f"{rate:.2g}"
        line = f"step {step}/{self._total}  {speed} steps/s  left {clock(left)}  {self._shown}"
        return line.rstrip()

    def __enter__(self) -> "Progress":
        """Starts the bar where there is one."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it, and leaves the last line in its place."""
        if self._bar is not None:
            self._bar.stop()
            last = self._bar.tasks[0].description
            if last:
                self._print(last)
