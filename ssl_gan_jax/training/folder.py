"""A run's folder: locks it, and checks that its content belongs to the run."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import ml_collections
from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.config import PROLONG, differences
from ssl_gan_jax.errors import UserError
from ssl_gan_jax.files import user_error
from ssl_gan_jax.training import checkpoint


@contextlib.contextmanager
def lock_folder(workdir: Path) -> Iterator[None]:
    """Makes the run folder and locks it, so that no other process trains in it.

    Without effect if the system cannot lock folders (see `processes.lock`).

    Raises:
      UserError: another process has locked the folder, or it cannot be made.
    """

    def busy() -> NoReturn:
        raise UserError(
            f"{workdir}: another process trains there; wait for it, stop it (SIGTERM saves), or "
            "choose another --workdir"
        )

    with user_error(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # Windows opens no folders
            folder = os.open(workdir, os.O_RDONLY)
            stack.callback(os.close, folder)
            processes.lock(folder, busy)
        yield


def check_workdir(workdir: Path, config: ml_collections.ConfigDict) -> bool:
    """Checks that `workdir` holds no run of another config.

    Returns:
      Whether the number of steps differs from that of the run in `workdir`.

    Raises:
      UserError: the run has another config, or there are checkpoints without a config.
    """
    path = workdir / "config.json"
    if not path.exists():
        if checkpoint.steps(workdir / "checkpoints"):
            raise UserError(
                f"{workdir} holds checkpoints without their config.json; bring it back or choose "
                "another --workdir"
            )
        return False
    try:
        old = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is not JSON; choose another --workdir") from None
    changed = differences(old, config.to_dict())
    if any(change.partition(":")[0] not in PROLONG for change in changed):
        raise UserError(
            f"{workdir} holds another run ({'; '.join(changed)}); choose another --workdir"
        )
    return bool(changed)


def set_result_aside(workdir: Path, goes_on: bool) -> None:
    """Renames the result.json of a finished run to result.STEPS.json.

    Args:
      workdir: the run's folder.
      goes_on: whether a checkpoint was restored.

    Raises:
      UserError: no checkpoint was restored, or the file cannot be renamed.
    """
    path = workdir / "result.json"
    if not path.exists():
        return
    if not goes_on:
        raise UserError(f"{workdir} cannot go on to more steps: its checkpoints are gone")
    try:
        old = path.with_name(f"result.{int(json.loads(path.read_text())['steps'])}.json")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; bring back a copy, or delete it") from None
    with user_error(path):
        path.replace(old)
    logging.info("%s was finished and goes on; %s keeps its result", workdir, old.name)
