"""Result rows: found in run folders and .jsonl files, checked, and put where they belong."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssl_gan_jax.errors import UserError
from ssl_gan_jax.evaluate import METRICS

# Arguments of a config that say where a run stands; all others are changes to its method.
PLACE = ("method", "scenario", "labels", "images", "seed", "data", "size", "source", "target",
         "only", "train.test_at_end")  # fmt: skip
ORDER = ("supervised", "cnn", "multitask", "ec_gan", "three_n_gan", "ssl_gan", "gan",
         "gan_adapted", "dcgan")  # fmt: skip
# What a row may say of its generated images.
SAMPLES = {
    "nearest_train": "distance to the nearest training image, median",
    "nearest_train_of_validation": "the same of validation images",
    "copies": "copies: share nearer than the nearest 1 % of validation images",
    "feature_distance": "Fréchet distance of CXR features (not FID) to validation images",
    "feature_distance_of_training": "the same of training images",
}
# What a row must and may hold.
KINDS = {
    "method": str,
    "data": str,
    "size": int,
    "seed": int,
    "classes": list,
    "labels_per_class": int | None,
    "images": int | None,
    "test": dict | None,
    "validation": dict | None,
    "samples": dict | None,
    "cell": dict | None,
    "experiment": str | None,
}


class Budget(NamedTuple):
    """How many labelled images training saw; `number` 0 is all there are."""

    number: int
    unit: str  # "a class", "in all"; "" for all

    def __str__(self) -> str:
        return f"{self.number} {self.unit}" if self.number else "all"

    @property
    def order(self) -> tuple:
        """Sorts budgets ascending, all last."""
        return self.number == 0, self.unit, self.number


class Score(NamedTuple):
    """A metric of one run, with its own interval over patients; None where undefined."""

    value: float
    low: float | None
    high: float | None


class Run(NamedTuple):
    """A finished run; `changes` are settings such as "lambda_ 0", `folder` None for a mere row."""

    row: dict[str, Any]
    name: str
    folder: Path | None
    budget: Budget
    method: str  # or scenario
    changes: tuple[str, ...]

    @property
    def seed(self) -> int:
        """Of labels, weights and order."""
        return self.row["seed"]

    @property
    def where(self) -> str:
        """Direction of transfer and class, as in "shenzhen to montgomery"; "" without."""
        cell = self.row["cell"]
        direction = " to ".join(str(cell[key]) for key in ("source", "target") if key in cell)
        return ", ".join(filter(None, [direction, str(cell.get("only", ""))]))

    @property
    def panel(self) -> tuple[str, str, int, str]:
        """What runs must share to be compared."""
        return self.row["experiment"], self.row["data"], self.row["size"], self.where

    @property
    def place(self) -> tuple:
        """The cell of the tables and the seed; sorts runs."""
        cell = (self.part or "", self.budget.order, self.method, self.changes)
        return (*self.panel, *cell, self.seed)

    @property
    def part(self) -> str | None:
        """The images that it is judged on: "test", else "validation"; None for a mere GAN."""
        return next((part for part in ("test", "validation") if self.row.get(part)), None)

    def score(self, metric: str) -> Score | None:
        """One of METRICS, or "errors" of 10,000."""
        if metric == "errors":
            right = self.score("accuracy")
            wrong = right and [None if x is None else 1e4 * (1 - x) for x in right]
            return wrong and Score(wrong[0], wrong[2], wrong[1])
        found = self.row[self.part].get(metric) if self.part else None
        if not found or found["value"] is None:
            return None
        return Score(found["value"], found.get("low"), found.get("high"))


class Panel(NamedTuple):
    """Runs that may be compared: of one experiment, data set, size and direction of transfer."""

    experiment: str
    data: str
    size: int
    where: str
    runs: list[Run]

    @property
    def title(self) -> str:
        """Of its section."""
        data = "" if self.data == self.experiment else f"{self.data}, "
        where = f", {self.where}" if self.where else ""
        return f"{self.experiment}: {data}{self.size}x{self.size}{where}"

    @property
    def common(self) -> tuple[str, ...]:
        """Changes that all its runs share, which no column needs to name."""
        shared = set.intersection(*(set(run.changes) for run in self.runs))
        return tuple(sorted(shared))

    @property
    def budgets(self) -> list[Budget]:
        """Ascending."""
        return sorted({run.budget for run in self.runs}, key=lambda budget: budget.order)

    @property
    def columns(self) -> dict[str, list[Run]]:
        """Runs by method, in the order of ORDER, and by changes."""
        named: dict[str, list[Run]] = {}
        for run in sorted(self.runs, key=_column_order):
            changes = [change for change in run.changes if change not in self.common]
            named.setdefault(", ".join([run.method, *changes]), []).append(run)
        return named


class Found(NamedTuple):
    """All that the arguments hold; what has no run to show is there by name."""

    runs: list[Run]
    unfinished: list[str]
    unreadable: list[str]
    repeated: list[str]  # another run has the same cell and seed
    others: list[str]  # lines of .jsonl files that are no results

    @property
    def panels(self) -> list[Panel]:
        """In alphabetical order."""
        groups: dict[tuple, list[Run]] = {}
        for run in self.runs:
            groups.setdefault(run.panel, []).append(run)
        return [Panel(*key, groups[key]) for key in sorted(groups)]


def find(paths: Iterable[Path]) -> Found:
    """Runs below folders, and rows of .jsonl files; sorted, so that their order tells nothing.

    Of two different runs with the same cell and seed the first is kept.

    Raises:
      UserError: a path that is not there, or a line of a .jsonl file that is damaged.
    """
    found = Found([], [], [], [], [])
    places: dict[tuple, Run] = {}
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such folder or file")
        for run in _in_folder(path, found, seen) if path.is_dir() else _in_file(path, found):
            if places.setdefault(run.place, run).row != run.row:
                found.repeated.append(run.name)
    found.runs.extend(places[place] for place in sorted(places))
    return found


def to_run(row: Any, name: str, folder: Path | None = None, config: Any = None) -> Run:  # noqa: ANN401
    """Checks a row and completes its "experiment" and "cell", from the run's config if need be.

    Raises:
      ValueError: names the key that is missing or of another type.
    """
    check(row)
    row = {k: v for k, v in row.items() if v is not None or k not in ("cell", "experiment")}
    data = config.get("data") if isinstance(config, dict) else None
    data = data if isinstance(data, dict) else {}
    sites = {k: data.get(f"{k}_site") for k in ("source", "target") if data.get(f"{k}_site")}
    if data.get("only_class"):
        sites["only"] = data["only_class"]
    if "cell" not in row:
        cell = {"method": row["method"], "size": row["size"], "seed": row["seed"]}
        scenarios = {"supervised": "cnn", "ssl_gan": "gan_adapted" if data.get("adapt") else "gan"}
        if "source" in sites and row["method"] in scenarios:
            cell["scenario"] = scenarios[row["method"]]
        budgets = {"labels": row.get("labels_per_class"), "images": row.get("images")}
        row["cell"] = cell | {key: n for key, n in budgets.items() if n}
    row["cell"] = sites | row["cell"]
    row.setdefault("experiment", row["data"])
    if row.get("images"):
        budget = Budget(row["images"], "in all")
    else:
        number = row.get("labels_per_class") or 0
        budget = Budget(number, "a class" if number else "")
    method = str(row["cell"].get("scenario", row["method"]))
    changes = tuple(
        f"{key.removeprefix('method.')} {value if isinstance(value, str) else _json(value)}"
        for key, value in sorted(row["cell"].items())
        if key not in PLACE and value != "default"
    )
    return Run(row, name, folder, budget, method, changes)


def check(row: Any) -> None:  # noqa: ANN401
    """Raises ValueError, which names the key, where `row` is not what result.json holds."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for key, kind in KINDS.items():
        if not isinstance(row.get(key), kind):
            raise ValueError(f"{key!r} is missing or wrong")
    samples = row.get("samples") or {}
    numbers = {f"samples.{key}": samples.get(key) for key in SAMPLES}
    for part in ("test", "validation"):
        for metric in METRICS:
            score = (row.get(part) or {}).get(metric) or {"value": None}
            if not isinstance(score, dict) or "value" not in score:
                raise ValueError(f"{part}.{metric} has no value")
            numbers |= {f"{part}.{metric}.{k}": score.get(k) for k in ("value", "low", "high")}
    for key, value in numbers.items():
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"{key} is not a number")


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Raises ValueError, in one line, where the file cannot be read or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(error.strerror) from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None


def _in_folder(top: Path, found: Found, seen: set[Path]) -> Iterator[Run]:
    for folder, inner, files in os.walk(top):
        inner[:] = sorted(set(inner) - {"checkpoints", "samples"})
        folder = Path(folder)
        if not {"config.json", "result.json"} & set(files) or folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        name = str(Path(top.name) / folder.relative_to(top))  # says nothing of this machine
        if "result.json" not in files:
            found.unfinished.append(name)
            continue
        try:
            config = read_json(folder / "config.json") if "config.json" in files else None
            row = read_json(folder / "result.json")
            if "quality.json" in files and isinstance(row, dict):
                row["samples"] = {
                    **(row.get("samples") or {}),
                    **read_json(folder / "quality.json"),
                }
            yield to_run(row, name, folder, config)
        except ValueError as error:
            found.unreadable.append(f"{name} ({error})")


def _in_file(path: Path, found: Found) -> Iterator[Run]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    for number, line in enumerate(lines, 1):
        name = f"{path.name}:{number}"
        try:
            row = json.loads(line.strip() or "{}")
            if isinstance(row, dict) and not {"test", "validation"} & row.keys():
                found.others.extend([name] if row else [])  # such as a line of speed.jsonl
            else:
                yield to_run(row, name)
        except (ValueError, RecursionError) as error:
            reason = "not JSON" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{path}:{number}: {reason}; correct the line or take it out") from None


def _column_order(run: Run) -> tuple:
    known = ORDER.index(run.method) if run.method in ORDER else len(ORDER)
    return known, run.method, len(run.changes), run.changes, run.seed


def _json(value: Any) -> str:  # noqa: ANN401
    return json.dumps(value, sort_keys=True)
