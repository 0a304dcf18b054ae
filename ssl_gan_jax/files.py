"""Atomic writes of text, JSON and PNG files, and grids of images."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_gan_jax.data.outputs import MARK
from ssl_gan_jax.data.scale import to_uint8
from ssl_gan_jax.errors import UserError


@contextlib.contextmanager
def atomic_write(
    path: str | Path, mode: str = "w", newline: str | None = None
) -> Iterator[IO[Any]]:
    """A file to write, which replaces `path` at the end of the block unless the block raises.

    If several processes write `path`, the last to end wins. Text is UTF-8; characters that cannot
    be encoded become backslash escapes. Raises UserError if the file cannot be written.
    """
    path = Path(path)
    # A random name, so that two processes do not write into the same file.
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
    """Turns an OSError of the block (disk full, read-only, ...) into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot write ({error.strerror or error}); free some space, make it writable "
            "or choose another --workdir"
        ) from error


def write_json(path: str | Path, obj: Any) -> None:  # noqa: ANN401
    """Writes `obj` as JSON. Raises ValueError for NaN, UserError if it cannot be written."""
    text = json.dumps(obj, indent=2, allow_nan=False)  # may raise, so before the file is opened
    with atomic_write(path) as file:
        file.write(text + "\n")


def write_png(path: str | Path, pixels: np.ndarray, about: Mapping[str, str] | None = None) -> None:
    """Writes uint8 [h,w] or [h,w,3] with the metadata `about`.

    The metadata name this program, so that the picture is not taken for a radiograph.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in {"Software": MARK, **(about or {})}.items():
        info.add_text(key, value)
    with atomic_write(path, "wb") as file:
        Image.fromarray(pixels).save(file, format="png", pnginfo=info)


def csv_cell(cell: str) -> str:
    """Puts an apostrophe before text that a spreadsheet would take for a formula."""
    cell = str(cell)
    if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        cell = f"'{cell}"
    return cell.replace("\r", " ")  # csv quotes a line feed, but not this


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Tiles `images` `[n,H,W,1]` in [-1,1] into one uint8 `[h,w]`, `columns` to a row."""
    pixels = to_uint8(images)[..., 0]
    count, height, width = pixels.shape
    rows = -(-count // columns)
    # Each tile gets a gap to its right and below; the last gaps are cut off.
    cells = np.zeros((rows * columns, height + gap, width + gap), np.uint8)
    cells[:count, :height, :width] = pixels
    sheet = cells.reshape(rows, columns, height + gap, width + gap).swapaxes(1, 2)
    return sheet.reshape(rows * (height + gap), -1)[: rows * (height + gap) - gap, : -gap or None]
