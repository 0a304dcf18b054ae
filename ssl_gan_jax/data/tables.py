"""CSV tables as spreadsheets and publishers leave them."""

import bisect
import codecs
import contextlib
import csv
import fnmatch
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ssl_gan_jax.data.names import squeezed
from ssl_gan_jax.errors import UserError

# Columns by which results are worth looking at apart, under the names that tables give them.
GROUPS = {
    "sex": ("sex", "gender", "patient gender", "patient sex"),
    "age": ("age", "patient age"),
    "view": ("view", "view position", "ap/pa"),
}
# What other columns mean, by the names that people give them. Those after the bar are weaker: they
# count only if none of the others is there.
MEANINGS = {
    "path": "path filepath imagepath imgpath filename file imagefile imagefilename relativepath "
    "pngpath jpgpath dicompath | image images img imageindex imagename imageid xrayimagename name "
    "picture scan",
    "label": "label labels class classname diagnosis finding findings findinglabel findinglabels "
    "target category | classid disease pathology groundtruth dx condition y",
    "patient_id": "patientid patient patientno patientnumber patientkey patientcode subjectid "
    "subject participantid | caseid case pid person personid individual mrn plcoid",
    "split": "split splits | set subset datasplit dataset datasettype partition phase part fold",
    "site": "site hospital institution institute center centre clinic facility",
}
NAMES = frozenset(" ".join(MEANINGS.values()).split())
BANDS = (18, 40, 65)  # years at which the next band of ages begins

_MAX_BYTES = 2**30  # of a table
_HEAD = 2**16  # characters that hold the first row


def find(data_dir: Path, pattern: str, instructions: str) -> list[Path]:
    """List the files that match in a folder, or else below, in any case; `UserError` for none."""
    for paths in (data_dir.iterdir(), data_dir.rglob("*")):
        found = [p for p in paths if fnmatch.fnmatchcase(p.name.lower(), pattern.lower())]
        if found := sorted(path for path in found if path.is_file()):
            return [path for path in found if fnmatch.fnmatchcase(path.name, pattern)] or found
    raise UserError(f"no {pattern} in {data_dir}: {' '.join(instructions.split())}")


def read(
    path: Path, columns: Sequence[str | tuple[str, ...]]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, cells) of each row, for instance ("labels.csv row 2", {"path": "a.png", ...}).

    All `columns`, of a tuple one, must be there, once; else as `parse`. Names of columns become
    lower case, those of `columns` as they are spelled there, whatever their blanks, `_` and `-`.
    """
    choices = [(column,) if isinstance(column, str) else column for column in columns]
    wanted = {squeezed(name): name for names in choices for name in names}
    header, rows = parse(path, wanted)
    names = [wanted.get(squeezed(name), name.lower()) for name in header]
    for alike in choices:
        count = max(names.count(name) for name in alike)
        if not count:
            raise no_column(path, " or ".join(alike), header)
        if count > 1:
            raise UserError(f"{path.name}: two columns {' or '.join(alike)!r}; remove one")
    for at, cells in rows:
        yield at, dict(zip(names, cells, strict=True))


def parse(path: Path, wanted: Collection[str]) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """Return the names of the columns, and (where, cells) of each row that is not empty.

    UTF-8, UTF-16 or the Latin encoding of Windows; commas, semicolons, tabs or bars; any line
    ends; gzip by suffix. Names and cells lose the blanks around them. Empty columns at the right
    are cut off.

    Args:
        path: of the table.
        wanted: `squeezed` names of columns that are expected: they show what divides the cells.

    Raises:
        UserError: unreadable, or a row is not as long as the first. Names it, and quotes no cell.
    """
    text, skipped = _text(path), 0
    first, _, rest = text.partition("\n")
    if named := re.fullmatch(r"sep=(.)", first.strip(), re.IGNORECASE):  # Excel's own first line
        text, skipped = rest, 1
    separator = named[1] if named else _separator(text, wanted)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)

    def lines() -> Iterator[tuple[str, list[str]]]:
        try:
            for cells in reader:
                if any(cells := [cell.strip() for cell in cells]):
                    yield f"{path.name} row {reader.line_num + skipped}", cells
        except csv.Error as error:
            at = max(reader.line_num, 1) + skipped
            raise UserError(f"{path.name} row {at}: {error}") from error

    def even() -> Iterator[tuple[str, list[str]]]:
        for at, cells in rows:
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            if len(cells) != len(header):
                raise UserError(f"{at}: not {len(header)} columns like the first row")
            yield at, cells

    rows = lines()
    header = next(rows, ("", []))[1]
    while header and not header[-1]:
        header.pop()
    return header, even()


def meanings(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Return which column is the path, the label and so on; `UserError` if two mean the same."""
    found = {}
    for meaning, names in MEANINGS.items():
        for synonyms in reversed(names.split("|")):  # the stronger names last, so that they count
            at = [i for i, name in enumerate(header) if squeezed(name) in synonyms.split()]
            found[meaning] = at or found.get(meaning, [])
        if len(at := found[meaning]) > 1:
            raise UserError(
                f"{path.name}: two columns, {header[at[0]]!r} and {header[at[1]]!r}, may both be "
                f"the {meaning}; rename one, or remove it"
            )
    return {meaning: at[0] for meaning, at in found.items() if at}


def no_column(path: Path, name: str, header: Sequence[str], hint: str = "") -> UserError:
    """Return the error about a missing column, which lists those that are there."""
    shown = [column[:40].lower() for column in header[:30]]
    return UserError(f"{path.name}: no column {name!r} among {shown}{hint}")


def groups(cells: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Sex, band of age and view of a row, if its table has such columns; an empty cell is ''."""
    plain = {squeezed(name): cell for name, cell in cells.items()}
    found = {
        kind: plain[squeezed(name)]
        for kind, names in GROUPS.items()
        for name in names
        if squeezed(name) in plain
    }
    if years := re.match(r"\d+", found.get("age", "")):  # 58, 58.0 or 058Y
        bands = [f"{a}-{b - 1}" for a, b in itertools.pairwise((0, *BANDS))] + [f"{BANDS[-1]}+"]
        found["age"] = bands[bisect.bisect(BANDS, int(years[0]))]
    elif "age" in found:
        found["age"] = ""
    return tuple(found.items())


def unpacked(path: Path, limit: int) -> bytes:
    """Return the content of a file, unpacked if its suffix is .gz or .tgz.

    Raises `UserError` if it is unreadable or holds more than `limit` bytes; no more are unpacked.
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
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return raw.decode("utf-16", errors="replace")
    if b"\0" in raw[:2]:  # UTF-16 without its mark: no other text has this byte
        return raw.decode("utf-16-be" if raw[0] == 0 else "utf-16-le", errors="replace")
    for encoding in ("utf-8", "cp1252"):  # the second is of spreadsheets of some locales
        with contextlib.suppress(UnicodeDecodeError):
            return raw.removeprefix(codecs.BOM_UTF8).decode(encoding)
    return raw.removeprefix(codecs.BOM_UTF8).decode("latin-1")  # some bytes mean nothing in cp1252


def _separator(text: str, wanted: Collection[str]) -> str:
    """Return what divides cells: it gives the first row most of the names, then most cells."""

    def score(separator: str) -> tuple[int, int]:
        head = io.StringIO(text[:_HEAD].lstrip(), newline="")
        with contextlib.suppress(csv.Error):
            names = next(csv.reader(head, delimiter=separator), [])
            return len(set(map(squeezed, names)) & set(wanted)), len(names)
        return 0, 0

    return max(",;\t|", key=score)  # the comma, of equals
