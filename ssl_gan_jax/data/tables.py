"""CSV tables as spreadsheets and publishers leave them."""

import bisect
import csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssl_gan_jax.errors import UserError

# Columns by which results are worth looking at apart, under the names that tables give them.
GROUPS = {
    "sex": ("sex", "gender", "patient gender"),
    "age": ("age", "patient age"),
    "view": ("view", "view position", "ap/pa"),
}
BANDS = (18, 40, 65)  # years at which the next band of ages begins

_MAX_BYTES = 2**30  # of a table


def find(data_dir: Path, pattern: str, instructions: str) -> list[Path]:
    """List the files that match in a folder, or else below; `UserError` if there is none."""
    if tables := sorted(data_dir.glob(pattern)) or sorted(data_dir.rglob(pattern)):
        return tables
    raise UserError(f"no {pattern} in {data_dir}: {' '.join(instructions.split())}")


def read(
    path: Path, columns: Sequence[str | tuple[str, ...]], hint: str = ""
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, cells) of each row, for instance ("labels.csv row 2", {"path": "a.png", ...}).

    UTF-8 with or without a byte order mark, or Latin-1; any line ends; gzip by suffix. Names of
    columns become lower case, and they and the cells lose the blanks around them.

    Args:
        path: of the table.
        columns: lower-case names that must be there; of a tuple, one.
        hint: appended to the message about a missing column.

    Raises:
        UserError: unreadable, a column missing or twice, a row that is longer or shorter than the
            first. Names the row, and quotes no cell.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        for column in columns:
            choices = (column,) if isinstance(column, str) else column
            found = [names.count(choice) for choice in choices]
            if not any(found):
                shown = [name[:40] for name in names[:30]]
                raise UserError(
                    f"{path.name}: no column {' or '.join(choices)!r} among {shown}{hint}"
                )
            if max(found) > 1:
                raise UserError(f"{path.name}: two columns {' or '.join(choices)!r}; remove one")
        for cells in filter(None, reader):
            at = f"{path.name} row {reader.line_num}"
            if len(cells) != len(names):
                raise UserError(f"{at}: not {len(names)} columns like the first row")
            yield at, dict(zip(names, map(str.strip, cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{path.name} row {max(reader.line_num, 1)}: {error}") from error


def groups(cells: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Sex, band of age and view of a row, where its table has such columns; an empty cell is ''."""
    found = {k: cells[name] for k, names in GROUPS.items() for name in names if name in cells}
    if "age" in found:
        years = re.match(r"\d+", found["age"])  # 58, 58.0 or 058Y
        bands = [f"{a}-{b - 1}" for a, b in itertools.pairwise((0, *BANDS))] + [f"{BANDS[-1]}+"]
        found["age"] = bands[bisect.bisect(BANDS, int(years[0]))] if years else ""
    return tuple(found.items())


def unpacked(path: Path, limit: int) -> bytes:
    """Return the content of a file, unpacked where its suffix is .gz or .tgz.

    Raises:
        UserError: unreadable, or more than `limit` bytes; no more than that are unpacked.
    """
    try:
        with gzip.open(path) if path.suffix in (".gz", ".tgz") else open(path, "rb") as file:
            raw = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again") from error
    if len(raw) > limit:
        raise UserError(f"{path} holds more than {limit >> 20} MB: this is not what was published")
    return raw


def _text(path: Path) -> str:
    raw = unpacked(path, _MAX_BYTES)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # spreadsheets of some locales
        return raw.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
