"""Training progress: a bar on a terminal, else lines of text."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import IO

from absl import logging


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as "1:02:03"."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


class Progress:
    """A context manager that shows a bar on a terminal, else a line of text at each log step.

    `start` is the step that this process begins at. The rate is that of this process, without its
    first step, which compiles. `stream` is stderr by default.
    """

    def __init__(self, total: int, start: int = 0, stream: IO[str] | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._total = total
        self._stream = stream or sys.stderr
        self._origin = (start, time.monotonic())
        self._first = True
        self._shown, self._bar = "", None
        console = Console(file=self._stream)
        if console.is_terminal:
            text = TextColumn("{task.description}", markup=False)
            self._bar = Bar(BarColumn(bar_width=20), text, console=console, transient=True)
            self._task = self._bar.add_task("", total=total, completed=start)

    def update(self, step: int, metrics: Mapping[str, float | None] | None = None) -> None:
        """Shows `step`, and at log steps the `metrics` that are not None."""
        now = time.monotonic()
        done, since = self._origin
        rate = (step - done) / max(now - since, 1e-9)
        if self._first:
            self._origin, self._first = (step, now), False
        if metrics is not None:
            self._shown = "  ".join(
                f"{name} {value:.4g}" for name, value in metrics.items() if value is not None
            )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._line(step, rate))
        elif metrics is not None:
            self._print(self._line(step, rate))

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):  # stderr is closed: training goes on
            print(line, file=self._stream, flush=True)

    def _line(self, step: int, rate: float) -> str:
        left = (self._total - step) / rate if rate > 0 else 0
        speed = f"{rate:.1f}" if rate >= 10 else f"{rate:.2g}"
        line = f"step {step}/{self._total}  {speed} steps/s  left {clock(left)}  {self._shown}"
        return line.rstrip()

    def __enter__(self) -> "Progress":
        """Starts the bar."""
        if self._bar is not None:
            self._bar.start()
            self._log = logging.get_absl_handler().python_handler.setStream(sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the bar, and prints its last line."""
        if self._bar is not None:
            logging.get_absl_handler().python_handler.setStream(self._log)
            self._bar.stop()
            if last := self._bar.tasks[0].description:
                self._print(last)
