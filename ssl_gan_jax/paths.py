"""Paths that a user gives, checked before work begins."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssl_gan_jax.errors import UserError

# Files and folders of a run, which no other command overwrites.
_FILES = ("config.json", "result.json", "metrics.jsonl", "predictions.csv", "calibration.json",
          "calibration.npz", "model_card.json", "MODEL_CARD.md", "quality.json", "report.html",
          "report.md")  # fmt: skip
_FOLDERS = ("checkpoints", "samples")
_DEPTH = 250  # characters of the longest path in a run's folder


def user_path(text: str | Path, flag: str) -> Path:
    """The path that a user gives for `flag`, such as "--out"; expands `~`, but no $VARIABLES.

    Raises:
      UserError: the text is empty or no valid path, or the home folder is unknown.
    """
    given = str(text)
    if not given or "\0" in given:
        raise UserError(f"{flag}={given!r}: give the path of a file or folder")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{flag}={given!r}: is not valid UTF-8; rename that file or folder"
        ) from None
    path = Path(os.path.expanduser(given))
    if path.parts[:1] == ("~",):
        raise UserError(
            f"{flag}={given}: there is no home folder (HOME is not set); write the path"
        )
    return path


def output_path(text: str | Path, flag: str, folder: bool = False) -> Path:
    """The `user_path` of a file (with `folder`, of a folder) that can be written or made.

    Raises:
      UserError: as `user_path`; or the path is a folder (a file), a part of the name is too long,
        or the folder above cannot be written.
    """
    path = user_path(text, flag)
    above = path if folder else path.parent
    try:
        if not folder and path.is_dir():
            raise UserError(f"{flag}={text}: is a folder; name a file")
        while not above.exists():  # OSError: a name too long to ask for
            above = above.parent
        longest, room = os.pathconf(above, "PC_NAME_MAX"), os.pathconf(above, "PC_PATH_MAX")
    except OSError as error:
        raise UserError(f"{flag}={text}: {error.strerror}; choose another path") from None
    if not above.is_dir():
        raise UserError(f"{flag}={text}: {above} is a file, no folder; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"{flag}={text}: {above.absolute()} cannot be written; make it writable or choose "
            "another path"
        )
    names = [len(os.fsencode(part)) for part in path.parts]
    if not folder:
        names[-1:] = [n + len(".tmp") for n in names[-1:]]
    if max(names, default=0) > longest or len(os.fsencode(path.absolute())) + _DEPTH > room:
        raise UserError(f"{flag}={text}: the name is too long; choose a shorter path")
    return path


def result_path(text: str | Path, flag: str, inputs: Iterable[str | Path] = ()) -> Path:
    """The `user_path` of a command's output, which must not overwrite a run's file or an input.

    Raises:
      UserError: `text` is a file or folder of a run, or one of `inputs`.
    """
    path = user_path(text, flag)
    real = path.resolve()
    for folder in real.parents:
        name = real.relative_to(folder).parts[0]
        of_run = name in (*_FILES, *_FOLDERS) or name.startswith(
            ("events.out.tfevents.", "result.")
        )
        if of_run and (folder / "config.json").is_file():
            raise UserError(f"{flag}={text}: {name} there belongs to the run; choose another name")
    if any(real == Path(given).resolve() for given in inputs):
        raise UserError(f"{flag}={text}: is one of the files that are read; choose another name")
    return path


@contextlib.contextmanager
def private() -> Iterator[None]:
    """Makes files and folders of the block private (0600, 0700), as images of patients must be.

    It holds for the whole process.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
