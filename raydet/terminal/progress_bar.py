"""How far a task of many equal pieces has come: a bar on a terminal, else a line now and then."""

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, TextIO

_LINE_S = 30.0
"""A log that is no terminal gets a line so often."""


class Counter:
    """Within its block, shows how many of `total` are done: a bar on a terminal, else a line every 30 seconds."""

    def __init__(self, name: str, total: int, stream: TextIO) -> None:
        self._name, self._total, self._stream = name, total, stream
        self._done, self._started = 0, monotonic()
        self._said = self._started
        self._progress: Any = None

    def __enter__(self) -> Callable[[int], None]:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            console = Console(file=self._stream)
            above = sys.stdout.isatty()  # what is printed goes above the bar; into a file it must not come past it
            self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=above)
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=self._total)
        return self._tick

    def _tick(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress.advance(self._task, count)
            return
        now = monotonic()
        if now - self._said >= _LINE_S:
            self._said = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            line = f"{self._name}: {self._done} of {self._total}, {rate:.0f}/s, {left:.0f} s left"
            print(line, file=self._stream, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
