"""One run on several processes: they start, fail and stop together.

`jax.distributed` connects the processes and watches their heartbeats. Added here: one that fails
tells the others why, so that none waits in a collective for a process that is gone, and SIGTERM to
any of them stops all after the same step.
"""

import atexit
import contextlib
import hashlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any, NoReturn

from absl import logging

from ssl_gan_jax.errors import UserError

# What launch/ sets: the default of --distributed, how long a lost process is waited for, and the
# exit code once all is saved on SIGTERM, where a scheduler would take 0 for "done".
MODE = os.environ.get("SSL_GAN_JAX_DISTRIBUTED", "off")
TIMEOUT_S = int(os.environ.get("SSL_GAN_JAX_TIMEOUT_S", "60"))
STOP_CODE = int(os.environ.get("SSL_GAN_JAX_STOP_CODE", "0"))

_CAUSE = "ssl_gan_jax/cause"  # key in the coordinator's store, holds "CODE message"
_SHARED = "ssl_gan_jax/shared"
_FOREVER_MS = 7 * 24 * 3600 * 1000
_POLL_S = 0.5
_numbers = itertools.count()  # of the meetings of all processes, which must have names
_client: Any = None  # of the coordinator; None where this process is alone


def start(mode: str) -> None:
    """Joins this process to the others of its run. To be called before JAX computes anything.

    A process that fails, through any exception, ends all others with the same exit code at once;
    one that is killed or whose machine is lost, within SSL_GAN_JAX_TIMEOUT_S (60) seconds.

    Args:
      mode: "off"; "auto", as a TPU, SLURM, Open MPI or Kubernetes says (alone where none does); or
        "HOST:PORT,n,i": process i of n, where process 0 listens on that address.

    Raises:
      UserError: another mode, or the others cannot be reached.
    """
    global _client
    if mode == "off":
        return
    where: dict[str, Any] = {}
    if mode != "auto":
        match = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", mode)
        if not match or int(match[3]) >= int(match[2]):
            raise UserError(f"--distributed={mode}: write off, auto or HOST:PORT,n,i with i < n")
        where = {
            "coordinator_address": match[1],
            "num_processes": int(match[2]),
            "process_id": int(match[3]),
            "cluster_detection_method": "deactivate",
        }
    import jax
    from jax._src.distributed import global_state  # the store has no public name; Orbax does this

    try:
        jax.distributed.initialize(
            **where,
            heartbeat_timeout_seconds=TIMEOUT_S,
            shutdown_timeout_seconds=TIMEOUT_S,
        )
    except ValueError as error:  # nothing was detected
        if "JOB_COMPLETION_INDEX" in os.environ:  # or each pod would train a run of its own
            raise UserError(
                "--distributed=auto on Kubernetes needs `pip install jax[k8s]`"
            ) from error
        logging.info("--distributed=auto: no cluster found; one process")
        return
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--distributed={mode}: {str(error).splitlines()[0]}") from error
    if global_state.num_processes == 1:
        return
    _client = global_state.client
    if global_state.process_id:
        logging.set_verbosity(logging.WARNING)  # else every line comes n times
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over,), daemon=True)
    watch.start()
    atexit.register(lambda: (over.set(), watch.join()))  # runs before JAX's own farewell
    sys.excepthook = _on_exception
    # SIGTERM is JAX's own from here on (see `stop_together`); Ctrl-C shall mean the same.
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def is_first() -> bool:
    """Whether this is the process that writes files."""
    import jax

    return jax.process_index() == 0


def is_single_process() -> bool:
    """Whether `start` has not joined this process to others."""
    return _client is None


def stop_together() -> Callable[[], bool]:
    """Whether SIGTERM has come to any process: becomes true at the same call on all of them.

    All processes have to ask equally often, as they do after every call of the compiled step.
    """
    from jax.experimental import multihost_utils

    calls = itertools.count(1)
    return lambda: multihost_utils.reached_preemption_sync_point(next(calls))


def wait() -> None:
    """Waits until all processes have come here, however long one of them takes."""
    if not is_single_process():
        # The coordinator's barrier, not a collective: on CPUs those give up after 30 seconds.
        _client.wait_at_barrier(f"ssl_gan_jax/{next(_numbers)}", _FOREVER_MS)


def from_first(work: Callable[[], object]) -> str:
    """`str(work())` of process 0, where alone it is called, on all processes."""
    if is_single_process():
        return str(work())
    key = f"{_SHARED}/{next(_numbers)}"
    if is_first():
        _client.key_value_set(key, str(work()))
    return _client.blocking_key_value_get(key, _FOREVER_MS)


def check_same(what: str, *parts: object) -> None:
    """Raises UserError where `parts` are not the same as on process 0."""
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    if from_first(lambda: digest) != digest:
        raise UserError(f"{what}: not the same on all processes of this run")


def fail(cause: str, code: int) -> NoReturn:
    """Ends this process, and tells the others of its run to end for the same cause."""
    if is_single_process():
        sys.exit(code)
    from jax._src.distributed import global_state

    with contextlib.suppress(RuntimeError):  # of several causes the first counts
        _client.key_value_set(f"{_CAUSE}/0", f"{code} process {global_state.process_id}: {cause}")
    with contextlib.suppress(RuntimeError):
        _, _, first = _client.key_value_dir_get(_CAUSE)[0][1].partition(" ")
        print(f"error: {first}", file=sys.stderr)
    time.sleep(2 * _POLL_S)  # process 0 takes the store with it: let the others read
    _leave(code)


def lock(file: IO[str] | int, busy: Callable[[], None]) -> None:
    """Locks an open file or folder against other processes, until it is closed or this one ends.

    Where another process has it, calls `busy`, which may raise, and then waits. Does nothing where
    there are no such locks (Windows, some network file systems).
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)


class Null:
    """Null object: takes the place of a writer on processes other than 0."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Any method, which does nothing."""
        return lambda *_, **__: None

    def __enter__(self) -> "Null":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def _watch(over: threading.Event) -> None:
    """Ends this process when another one has failed, until the run is `over`."""
    while not over.wait(_POLL_S):
        try:
            causes = _client.key_value_dir_get(_CAUSE)
        except RuntimeError:
            return  # process 0 is gone: JAX ends this process
        if causes and not over.wait(4 * _POLL_S):  # whoever fails too may do so by itself
            code, _, cause = causes[0][1].partition(" ")
            print(f"error: {cause}", file=sys.stderr)
            _leave(int(code))


def _on_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:  # noqa: ANN401
    sys.__excepthook__(kind, error, trace)
    fail(f"{kind.__name__}: {error}", 1)


def _leave(code: int) -> NoReturn:
    """Exits without JAX's own farewell, which would wait for processes that are stuck."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
