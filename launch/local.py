"""One run on several processes of this machine, as a rehearsal for several machines.

    python launch/local.py --processes=2 --devices=2 -- -m ssl_gan_jax.main --config=...

What follows `--` are Python's arguments. Each process has --devices virtual CPU devices (0: the
machine's own accelerators, which the processes must then share by settings of yours). Lines of
output begin with the number of the process. SIGTERM and Ctrl-C go to all of them; once one fails,
the others are given --timeout seconds to say why, then killed. The exit code is that of the first
that failed.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from ssl_gan_jax.commands import ending


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(index: int, processes: int, devices: int, port: int, timeout: int) -> dict:
    """What makes a Python process number `index` of `processes`; read by distributed.py."""
    ours = {
        "SSL_GAN_JAX_DISTRIBUTED": f"127.0.0.1:{port},{processes},{index}",
        "SSL_GAN_JAX_TIMEOUT_S": str(timeout),
        "PYTHONUNBUFFERED": "1",
    }
    if devices:
        ours |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return os.environ | ours


def _copy(index: int, process: subprocess.Popen) -> None:
    for line in process.stdout:  # to its end, or the process would wait for us
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(f"[{index}] {line}")
            sys.stdout.flush()


def run(args: Sequence[str], processes: int, devices: int, timeout: int) -> int:
    """Runs `python args` as `processes` processes; the exit code of the first that fails, or 0."""
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, *args],
            env=environment(i, processes, devices, port, timeout),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C comes to them through us, once
        )
        for i in range(processes)
    ]
    copiers = [threading.Thread(target=_copy, args=pair) for pair in enumerate(started)]
    for copier in copiers:
        copier.start()

    def send(number: int, _: object = None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: send(signal.SIGTERM))
    code, deadline = 0, float("inf")
    try:
        while None in [process.poll() for process in started]:
            failed = [process.returncode for process in started if process.returncode]
            if failed and not code:
                code, deadline = failed[0], time.monotonic() + timeout
            if time.monotonic() > deadline:
                send(signal.SIGKILL)
            time.sleep(0.1)
    finally:
        send(signal.SIGKILL)
        for copier in copiers:
            copier.join()
    code = code or next((p.returncode for p in started if p.returncode), 0)
    return 128 - code if code < 0 else code  # a signal's number, as shells give it


def main() -> int:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices of each")
    parser.add_argument("--timeout", type=int, default=15, help="seconds")
    parser.add_argument("args", nargs="+", help="arguments of Python, after --")
    a = parser.parse_args()
    return run(a.args, a.processes, a.devices, a.timeout)


if __name__ == "__main__":
    ending.run(main)
