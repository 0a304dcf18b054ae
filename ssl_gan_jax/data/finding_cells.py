"""What the cells of a user's table say of several findings in an image.

Either a column for each finding says 1, 0, or -1 or nothing if that is not known; or the column for
labels names all that an image shows, as in a|b.
"""

from collections.abc import Callable, Sequence

from ssl_gan_jax.data import names
from ssl_gan_jax.data.index import UNLABELED, chosen_findings, named_findings
from ssl_gan_jax.errors import UserError

Cells = Sequence[str]
Reader = tuple[tuple[str, ...], Callable[[str, Cells], tuple[int, ...]]]
"""The findings, and a function from a row's place, as "labels.csv row 2", and cells to its label.

The function raises `UserError` for a cell that it does not understand.
"""

_VALUES = {"1": 1, "0": 0, "-1": UNLABELED}


def are_columns(findings: Sequence[str] | str, columns: Sequence[str]) -> bool:
    """Whether all names in `data.options.findings` are names of columns."""
    return set(named_findings(findings)) <= set(map(names.class_key, columns))


def from_columns(header: Cells, columns: Sequence[str], findings: Sequence[str] | str) -> Reader:
    """Read a column for each finding; "all" are the `columns`, some of the `header`."""
    chosen = chosen_findings(findings, columns)
    places = [header.index(name) for name in chosen]
    return chosen, lambda at, cells: tuple(_value(at, header[i], cells[i]) for i in places)


def from_labels(
    header: Cells, rows: Sequence[tuple[str, Cells]], label: int, findings: Sequence[str] | str
) -> Reader:
    """Read the column at `label`; "all" are the findings that it names in any of the rows."""
    shown = {at: _shown(f"{at}, column {header[label]!r}", cells[label]) for at, cells in rows}
    spelled = names.classes_of(text for found in shown.values() for text in found or ())
    chosen = chosen_findings(findings, sorted({*spelled.values()} - {""}))

    def label_of(at: str, cells: Cells) -> tuple[int, ...]:
        if shown[at] is None:
            return (UNLABELED,) * len(chosen)
        found = {spelled[text] for text in shown[at]}
        return tuple(int(name in found) for name in chosen)

    return chosen, label_of


def _value(at: str, name: str, cell: str) -> int:
    value = UNLABELED if names.is_missing(cell) else _VALUES.get(names.class_key(cell))
    if value is None:
        raise UserError(
            f"{at}, column {name!r}: {cell!r} is none of 1, 0, -1 and blank; if the column is no "
            "finding, name those that are: data.options.findings=A,B"
        )
    return value


def _shown(at: str, cell: str) -> list[str] | None:
    """Return the findings that a cell names; None if it says nothing."""
    if names.is_missing(cell):
        return None
    found = [part for part in names.findings_in(cell) if not names.is_missing(part)]
    present = [part for part in found if not names.is_healthy(part)]
    if 0 < len(present) < len(found):
        raise UserError(f"{at}: {cell!r} names a finding and its absence; correct the cell")
    return present
