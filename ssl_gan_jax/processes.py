"""One run on several processes, which start, fail and stop together.

`jax.distributed` connects the processes and watches their heartbeats. This module adds that a
failing process sends its error to the other processes, which stop too instead of waiting in a
collective, and that SIGTERM to any process stops all after the same step.
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

# launch/ sets these: the default of --distributed, the seconds until a silent process counts as
# lost, and the exit code after a save on SIGTERM (a scheduler takes 0 for "done").
MODE = os.environ.get("SSL_GAN_JAX_DISTRIBUTED", "off")
TIMEOUT_S = int(os.environ.get("SSL_GAN_JAX_TIMEOUT_S", "60"))
STOP_CODE = int(os.environ.get("SSL_GAN_JAX_STOP_CODE", "0"))

_CAUSE = "ssl_gan_jax/cause"  # key in the coordinator's store, holds "CODE message"
_SHARED = "ssl_gan_jax/shared"
_FOREVER_MS = 7 * 24 * 3600 * 1000
_POLL_S = 0.5
_numbers = itertools.count()  # for the names of barriers and shared values
_client: Any = None  # of the coordinator; None for a single process


def start(mode: str) -> None:
    """Connects the processes of a run. Must be called before JAX computes anything.

    If a process raises an exception, all others exit at once with its exit code. If a process is
    killed or its machine is lost, the others exit within SSL_GAN_JAX_TIMEOUT_S (60) seconds.

    Args:
      mode: "off"; "auto", as a TPU, SLURM, Open MPI or Kubernetes says (off if there is none); or
        "HOST:PORT,n,i": process i of n, where process 0 listens on that address.

    Raises:
      UserError: another mode, or the other processes cannot be reached.
    """
    global _client
    if mode == "off":
        return
    cluster: dict[str, Any] = {}
    if mode != "auto":
        match = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", mode)
        if not match or int(match[3]) >= int(match[2]):
            raise UserError(f"--distributed={mode}: write off, auto or HOST:PORT,n,i with i < n")
        cluster = {
            "coordinator_address": match[1],
            "num_processes": int(match[2]),
            "process_id": int(match[3]),
            "cluster_detection_method": "deactivate",
        }
    import jax
    from jax._src.distributed import global_state  # not public; Orbax uses it too

    try:
        jax.distributed.initialize(
            **cluster,
            heartbeat_timeout_seconds=TIMEOUT_S,
            shutdown_timeout_seconds=TIMEOUT_S,
        )
    except ValueError as error:  # nothing was detected
        if "JOB_COMPLETION_INDEX" in os.environ:  # else each pod would train its own run
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
        logging.set_verbosity(logging.WARNING)  # else each line is logged n times
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(done,), daemon=True)
    watch.start()
    atexit.register(lambda: (done.set(), watch.join()))  # runs before JAX shuts down
    sys.excepthook = _on_exception
    # JAX now handles SIGTERM (see `stop_together`); Ctrl-C shall do the same.
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def is_first() -> bool:
    """Whether this is the process that writes files."""
    import jax

    return jax.process_index() == 0


def is_single_process() -> bool:
    """Whether the run has no other processes."""
    return _client is None


def stop_together() -> Callable[[], bool]:
    """A function that returns whether any process got SIGTERM: from the same call on for all.

    All processes must call it equally often, as after every call of the compiled step.
    """
    from jax.experimental import multihost_utils

    calls = itertools.count(1)
    return lambda: multihost_utils.reached_preemption_sync_point(next(calls))


def wait() -> None:
    """Waits, without a limit, until all processes have called this."""
    if not is_single_process():
        # The coordinator's barrier, because on CPUs collectives give up after 30 seconds.
        _client.wait_at_barrier(f"ssl_gan_jax/{next(_numbers)}", _FOREVER_MS)


def from_first(work: Callable[[], object]) -> str:
    """Calls `work` on process 0, and returns `str(work())` on all processes."""
    if is_single_process():
        return str(work())
    key = f"{_SHARED}/{next(_numbers)}"
    if is_first():
        _client.key_value_set(key, str(work()))
    return _client.blocking_key_value_get(key, _FOREVER_MS)


def check_same(what: str, *parts: object) -> None:
    """Raises UserError if `parts` differ from those of process 0."""
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    if from_first(lambda: digest) != digest:
        raise UserError(f"{what}: not the same on all processes of this run")


def fail(cause: str, code: int) -> NoReturn:
    """Ends all processes of the run with this exit code."""
    if is_single_process():
        sys.exit(code)
    from jax._src.distributed import global_state

    with contextlib.suppress(RuntimeError):  # another process has failed before
        _client.key_value_set(f"{_CAUSE}/0", f"{code} process {global_state.process_id}: {cause}")
    with contextlib.suppress(RuntimeError):
        _, _, cause = _client.key_value_dir_get(_CAUSE)[0][1].partition(" ")
        print(f"error: {cause}", file=sys.stderr)
    time.sleep(2 * _POLL_S)  # the store ends with process 0: let the other processes read
    _leave(code)


def lock(file: IO[str] | int, busy: Callable[[], None]) -> None:
    """Locks an open file or folder until it is closed or this process ends.

    If another process holds the lock, calls `busy`, which may raise, and then waits. Does nothing
    if the system has no such locks (Windows, some network file systems).
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)


def on_first(make: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    """`make(*args)` on process 0, a null object on other processes."""
    return make(*args) if is_first() else Null()


class Null:
    """Null object that replaces a writer on processes other than 0."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Returns a method that does nothing."""
        return lambda *_, **__: None

    def __enter__(self) -> "Null":
        """Returns the object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing."""


def _watch(done: threading.Event) -> None:
    """Ends this process if another process fails before the run is `done`."""
    while not done.wait(_POLL_S):
        try:
            causes = _client.key_value_dir_get(_CAUSE)
        except RuntimeError:
            return  # process 0 is lost: JAX ends this process
        if causes and not done.wait(4 * _POLL_S):  # this process may be failing too: let it end
            code, _, cause = causes[0][1].partition(" ")
            print(f"error: {cause}", file=sys.stderr)
            _leave(int(code))


def _on_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:  # noqa: ANN401
    sys.__excepthook__(kind, error, trace)
    fail(f"{kind.__name__}: {error}", 1)


def _leave(code: int) -> NoReturn:
    """Exits without JAX's shutdown, which would wait for processes that are stuck."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
