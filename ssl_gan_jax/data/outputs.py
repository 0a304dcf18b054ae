"""What this program writes is never read as data, even if it lies among the images."""

from collections.abc import Collection
from pathlib import Path

MARK = "ssl_gan_jax"  # the "Software" of every PNG that this program writes

# Files that together make a folder one of ours, and files or folders that hold our pictures there.
_FOLDERS = (
    ({"config.json", "checkpoints"}, {"samples", "checkpoints", "export"}),
    ({"config.json", "metrics.jsonl"}, {"samples", "checkpoints", "export"}),
    ({"config.json", "result.json"}, {"samples", "checkpoints", "export"}),
    ({"audit.json"}, {"sheet.png", "duplicates.png"}),
)
_SYSTEM = frozenset(("__macosx", "@eadir", "$recycle.bin", "system volume information"))
_TABLES = frozenset(("predictions.csv", "quarantine.csv", "neighbours.csv"))


def is_passed_over(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or the operating system's own."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def is_output(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder that holds these names was written by this program."""
    if any(marks <= set(names) for marks, _ in _FOLDERS):
        return True
    pictures = sorted(name for name in names if name.endswith(".png"))
    return bool(pictures) and all(_is_marked(folder / name) for name in {pictures[0], pictures[-1]})


def ours_within(names: Collection[str]) -> set[str]:
    """Return which of the names in a folder are ours, if we were to write among images."""
    found = [ours for marks, ours in _FOLDERS if marks <= set(names)]
    return set(names) & (set().union(*found) | _TABLES)


def is_prediction_table(columns: Collection[str]) -> bool:
    """Whether a table is one of `predict`, `evaluate` or the cache, by its first row."""
    return "decision" in columns and any(name.startswith("p_") for name in columns)


def _is_marked(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"Software\0" + MARK.encode() in file.read(1024)
    except OSError:
        return False
