"""Finds result rows in run folders and .jsonl files, checks them, and groups them."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssl_gan_jax import config as config_lib
from ssl_gan_jax.config import CELL_KEYS
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluation.metrics import AT_HALF, METRICS

METHOD_ORDER = (
    *("supervised", "cnn", "cnn_strong", "cnn_batch_norm", "cnn_batch_norm_strong"),
    *("multitask", "ec_gan", "three_n_gan", "ssl_gan"),
    *("gan", "gan_adapted", "teacher", "teacher_batch_norm", "teacher_adapted", "adamatch"),
    *("target", "dcgan"),
)
UPPER_BOUND = "target"  # a scenario with labels of the site that the others only adapt to
# The types of a row's keys. A key whose value may be None may be missing.
ROW_SCHEMA = {
    "method": str,
    "data": str,
    "size": int,
    "seed": int,
    "classes": list,
    "experiment": str | None,
    "labels_per_class": int | None,
    "images": int | None,
    "test": dict | None,
    "validation": dict | None,
    "samples": dict | None,
    "cell": dict | None,
}


class Budget(NamedTuple):
    """The number of labelled training images; sorts ascending, "all" is last."""

    is_all: bool
    unit: str  # "a class", "in all"; "" if `is_all`
    number: int

    def __str__(self) -> str:
        return "all" if self.is_all else f"{self.number} {self.unit}"


ALL = Budget(True, "", 0)


class Score(NamedTuple):
    """A metric of a run, with its interval over patients; None if undefined."""

    value: float
    low: float | None
    high: float | None


class ReportRow(NamedTuple):
    """A finished run."""

    row: dict[str, Any]
    name: str
    folder: Path | None  # None for a row of a .jsonl file
    budget: Budget
    method: str  # or scenario
    changes: tuple[str, ...]  # to the default settings, such as "lambda_ 0"

    @property
    def seed(self) -> int:
        """The seed of labels, weights and order."""
        return self.row["seed"]

    @property
    def panel(self) -> tuple[str, str, int, str]:
        """The experiment, data, size, and sites or class: equal for runs that can be compared."""
        cell = self.row["cell"]
        sites = " to ".join(str(cell[key]) for key in ("source", "target") if key in cell)
        subset = ", ".join(filter(None, [sites, str(cell.get("only", ""))]))
        return self.row["experiment"], self.row["data"], self.row["size"], subset

    @property
    def sort_key(self) -> tuple:
        """The cell of the tables, and the seed; sorts runs."""
        return *self.panel, self.part or "", self.budget, self.method, self.changes, self.seed

    @property
    def part(self) -> str | None:
        """The split of its scores: "test", else "validation"; None if it has no classifier."""
        return next((part for part in ("test", "validation") if self.row.get(part)), None)

    def score(self, metric: str) -> Score | None:
        """The score of `metric`, one of METRICS or AT_HALF."""
        found = self.row[self.part].get(metric) if self.part else None
        if not found or found["value"] is None:
            return None
        return Score(found["value"], found.get("low"), found.get("high"))

    def of_finding(self, k: int) -> "ReportRow":
        """The run with the scores of its finding `k` alone."""
        scores = self.row[self.part]["findings"][k]
        return self._replace(row={**self.row, self.part: scores})


class Panel(NamedTuple):
    """Runs that can be compared: the same experiment, data set, size and direction of transfer."""

    experiment: str
    data: str
    size: int
    subset: str
    runs: list[ReportRow]

    @property
    def title(self) -> str:
        """The title of its section."""
        data = "" if self.data == self.experiment else f"{self.data}, "
        subset = f", {self.subset}" if self.subset else ""
        return f"{self.experiment}: {data}{self.size}x{self.size}{subset}"

    @property
    def part(self) -> str | None:
        """The split of its scores: "test" if any run was tested, else "validation"."""
        parts = {run.part for run in self.runs}
        return next((part for part in ("test", "validation") if part in parts), None)

    @property
    def common(self) -> tuple[str, ...]:
        """Changes that all its runs have; the columns do not name them."""
        return tuple(sorted(set.intersection(*(set(run.changes) for run in self.runs))))

    @property
    def budgets(self) -> list[Budget]:
        """The budgets, ascending."""
        return sorted({run.budget for run in self.runs})

    @property
    def columns(self) -> dict[str, list[ReportRow]]:
        """The runs of each method and its changes, in the order of METHOD_ORDER."""
        named: dict[str, list[ReportRow]] = {}
        for run in sorted(self.runs, key=_column_order):
            changes = [change for change in run.changes if change not in self.common]
            named.setdefault(", ".join([run.method, *changes]), []).append(run)
        return named


class Found(NamedTuple):
    """The runs below the given paths, and the names of all that cannot be shown."""

    runs: list[ReportRow]
    unfinished: list[str]
    unreadable: list[str]
    repeated: list[str]  # another run has the same cell and seed
    others: list[str]  # lines of .jsonl files that are not results

    @property
    def panels(self) -> list[Panel]:
        """The panels, in alphabetical order."""
        groups: dict[tuple, list[ReportRow]] = {}
        for run in self.runs:
            groups.setdefault(run.panel, []).append(run)
        return [Panel(*key, groups[key]) for key in sorted(groups)]


def find(paths: Iterable[Path]) -> Found:
    """Runs below folders and rows of .jsonl files, sorted: the order of `paths` does not matter.

    Of two different runs with the same cell and seed the first is kept.

    Raises:
      UserError: a path does not exist, or a line of a .jsonl file is damaged.
    """
    found = Found([], [], [], [], [])
    by_key: dict[tuple, ReportRow] = {}
    visited: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such folder or file")
        for run in _in_folder(path, found, visited) if path.is_dir() else _in_file(path, found):
            if by_key.setdefault(run.sort_key, run).row != run.row:
                found.repeated.append(run.name)
    found.runs.extend(by_key[key] for key in sorted(by_key))
    return found


def to_run(row: Any, name: str, folder: Path | None = None) -> ReportRow:  # noqa: ANN401
    """Checks a row, and adds the "experiment" and "cell" if they are missing.

    Raises:
      ValueError: a key is missing or has another type.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for key, kind in ROW_SCHEMA.items():
        if not isinstance(row.get(key), kind):
            raise ValueError(f"{key!r} is missing or wrong")
    for part in ("test", "validation"):
        for metric in (*METRICS, *AT_HALF):
            score = (row.get(part) or {}).get(metric) or {"value": None}
            if not isinstance(score, dict) or not isinstance(
                score.get("value"), float | int | None
            ):
                raise ValueError(f"{part}.{metric} has no value")
    labels, images = row.get("labels_per_class"), row.get("images")
    arguments = {"method": row["method"], "size": row["size"], "seed": row["seed"]}
    limits = {key: n for key, n in (("labels", labels), ("images", images)) if n}
    cell = row.get("cell") or arguments | limits
    row = row | {"cell": cell, "experiment": row.get("experiment") or row["data"]}
    budget = ALL
    if images or labels:
        budget = Budget(False, "in all" if images else "a class", images or labels)
    changes = tuple(
        f"{key.removeprefix('method.')} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in sorted(cell.items())
        if key not in CELL_KEYS and value != "default"
    )
    return ReportRow(row, name, folder, budget, str(cell.get("scenario", row["method"])), changes)


def _cell_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The cell of a run without a sweep; None if this version does not have its method or keys."""
    leaves = config_lib.flat(config)
    try:
        return config_lib.cell_of(leaves, config_lib.defaults_of(leaves))
    except (KeyError, UserError):
        return None


def read_json(text: bytes | str) -> Any:  # noqa: ANN401
    """Parses JSON. Raises ValueError, in one line, for other text and for NaN."""
    try:
        return json.loads(text, parse_constant=int)  # int("NaN") raises ValueError
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def _in_folder(top: Path, found: Found, visited: set[Path]) -> Iterator[ReportRow]:
    for folder, inner, files in os.walk(top):
        inner[:] = sorted(set(inner) - {"checkpoints", "samples"})
        folder = Path(folder)
        if not {"config.json", "result.json"} & set(files) or folder.resolve() in visited:
            continue
        visited.add(folder.resolve())
        name = str(Path(top.name) / folder.relative_to(top))  # without the machine's folders
        if "result.json" not in files:
            found.unfinished.append(name)
            continue
        try:
            row = read_json((folder / "result.json").read_bytes())
            if isinstance(row, dict) and "cell" not in row and "config.json" in files:
                row["cell"] = _cell_of(read_json((folder / "config.json").read_bytes()))
            if "quality.json" in files and isinstance(row, dict):
                quality = read_json((folder / "quality.json").read_bytes())
                row["samples"] = {**(row.get("samples") or {}), **quality}
            yield to_run(row, name, folder)
        except (OSError, ValueError, TypeError, KeyError) as error:
            found.unreadable.append(f"{name} ({error})")


def _in_file(path: Path, found: Found) -> Iterator[ReportRow]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    for number, line in enumerate(lines, 1):
        name = f"{path.name}:{number}"
        try:
            row = read_json(line.strip() or "{}")
            if isinstance(row, dict) and not {"test", "validation"} & row.keys():
                found.others.extend([name] if row else [])  # such as a line of speed.jsonl
            else:
                yield to_run(row, name)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}; correct the line or delete it") from None


def _column_order(run: ReportRow) -> tuple:
    rank = METHOD_ORDER.index(run.method) if run.method in METHOD_ORDER else len(METHOD_ORDER)
    return rank, run.method, len(run.changes), run.changes, run.seed
