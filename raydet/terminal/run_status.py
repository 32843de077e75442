"""Where a run stands, as its files tell: reading them while they grow, and the figures made of what was read."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raydet.io.clock import clock
from raydet.io.jsonable import JSON
from raydet.runs import diagnostics, run_log
from raydet.runs.dllogger_format import parse
from raydet.runs.writers import step_of

Figures = dict[str, JSON]
_MOST_ALARMS = 3


class Tail:
    """The lines that a growing file gains. It may be missing yet, end in half a line, be cut or replaced."""

    def __init__(self, path: Path) -> None:
        """Start behind what the file holds now: that was written by an earlier attempt."""
        self.path = path
        self._file, self._offset, self._half = 0, 0, b""
        try:
            status = path.stat()
            self._file, self._offset = status.st_ino, status.st_size
        except OSError:
            pass

    def lines(self) -> list[str]:
        """Return the whole lines since the last call; all of the file's after it was replaced or cut."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._offset:
                    self._file, self._offset, self._half = status.st_ino, 0, b""
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        self._offset += len(data)
        *whole, self._half = (self._half + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of epochs."""

    title: str
    width: int
    value: Callable[[Figures], str]
    """Its text, "-" where an epoch has no such figure."""


def columns_of(task: str, epochs: int) -> list[Column]:
    """Return a task's columns, 78 characters with the gaps; the first to go on a narrow terminal come last."""
    scores = (
        [Column("AP", 6, _fixed(3, run_log.AP)), Column("AP50", 6, _fixed(3, run_log.AP50))]
        if task == "detection"
        else [Column("top1 %", 6, _percent(run_log.TOP1)), Column("top5 %", 6, _percent(run_log.TOP5))]
    )
    return [
        Column("epoch", max(5, len(f"{epochs}/{epochs}")), lambda f: f"{f.get('epoch', '-')}/{epochs}"),
        Column("train loss", 10, _fixed(4, run_log.TRAIN_LOSS)),
        scores[0],
        Column("eval loss", 9, _fixed(4, run_log.EVAL_LOSS)),
        scores[1],
        Column("images/s", 8, lambda f: rate_text(number(f, run_log.IMAGES_PER_S))),
        Column("wait", 4, lambda f: share_text(number(f, run_log.DATA_WAIT))),
        Column("lr", 7, lambda f: _shown(number(f, run_log.LR), "{:.1e}")),
        Column("memory", 7, lambda f: _shown(number(f, run_log.MEMORY_BYTES), "{:.1f} GB", 1e-9)),
    ]


def number(figures: Figures, *names: str) -> float | None:
    """Return the first finite number under one of `names`."""
    for name in names:
        value = figures.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return None


def _shown(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)


def _fixed(digits: int, *names: str) -> Callable[[Figures], str]:
    return lambda figures: _shown(number(figures, *names), f"{{:.{digits}f}}")


def _percent(name: str) -> Callable[[Figures], str]:
    return lambda figures: _shown(number(figures, name), "{:.2f}", 100.0)


def rate_text(value: float | None) -> str:
    """Return images per second with as many digits as say something."""
    return _shown(value, "{:.1f}" if value is not None and value < 100 else "{:.0f}")


def share_text(value: float | None) -> str:
    """Return a share as percent."""
    return _shown(value, "{:.0%}")


def wait_share(figures: Figures) -> float | None:
    """Return the share of the time that training waits for data, from a line of either task's log.json."""
    waits, computes = number(figures, run_log.CLS_TRAIN_DATA_TIME), number(figures, run_log.CLS_TRAIN_COMPUTE_TIME)
    if waits is None or computes is None or not waits + computes:
        return number(figures, run_log.DATA_WAIT)
    return waits / (waits + computes)


def duration(seconds: float | None) -> str:
    """Return h:mm:ss, with days in front where there are any."""
    if seconds is None:
        return "-"
    days, rest = divmod(round(max(0.0, seconds)), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {text}" if days else text


@dataclass(slots=True)
class Board:
    """All that is known of a run: what its files said so far, and how fast it goes."""

    folder: Path
    task: str
    epochs: int
    from_step: int = 0
    time: Callable[[], float] = clock
    """Seconds that only grow."""
    started: float = 0.0
    epoch: int = 0
    """Under way, from 0."""
    batch: int = 0
    """Batches of the epoch that are done."""
    steps: int = 0
    """Batches of an epoch; 0: not known yet."""
    figures: Figures = field(default_factory=dict)
    """Of the latest training step."""
    _shown: int = 0
    _anchor: tuple[float, int] | None = None
    _tails: list[Tail] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started, self._shown = self.time(), self.from_step
        names = ("log.json", "metrics.jsonl", diagnostics.SKIPPED_STEPS)
        self._tails = [Tail(self.folder / name) for name in names]

    @property
    def running(self) -> bool:
        """Whether a step was seen."""
        return bool(self.figures)

    @property
    def evaluating(self) -> bool:
        """Whether all batches of the epoch are done, and its figures are not there yet."""
        return 0 < self.steps == self.batch and self._shown < self.done

    @property
    def elapsed_s(self) -> float:
        """Seconds since the view was opened."""
        return self.time() - self.started

    @property
    def done(self) -> int:
        """Steps done, of all epochs."""
        return self.epoch * self.steps + self.batch

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest of the run takes at the pace seen, evaluations included."""
        if self._anchor is None or self.done <= self._anchor[1] or not self.steps:
            return None
        pace = (self.time() - self._anchor[0]) / (self.done - self._anchor[1])
        return max(0.0, pace * (self.epochs * self.steps - self.done))

    def poll(self) -> list[Figures]:
        """Read on, and return the epochs that ended since the last call, each once."""
        for line in self._tails[0].lines():
            record = parse(line)
            if record is not None and record.get("type") == "LOG":
                self._take(record.get("step"), record.get("data"))
        return [row for line in self._tails[1].lines() if (row := self._row(line)) is not None]

    def alarms(self) -> list[str]:
        """Return, in words, what was met since the last call that somebody should know; of many the first three."""
        said = [text for line in self._tails[2].lines() if (text := diagnostics.in_words(line)) is not None]
        return said[:_MOST_ALARMS] + ([f"and {len(said) - _MOST_ALARMS} more"] if len(said) > _MOST_ALARMS else [])

    def _take(self, step: JSON, data: JSON) -> None:
        if not isinstance(data, dict):
            return
        steps = data.get("steps_per_epoch")
        if step == "PARAMETER" and isinstance(steps, int) and steps > 0:
            self.steps = steps
        if not isinstance(step, list) or len(step) < 2 or not all(type(s) is int for s in step):
            return
        numbers = [s for s in step if isinstance(s, int)]
        self.figures = data
        self._advance(numbers[0], numbers[-1] + 1)

    def _advance(self, epoch: int, batch: int) -> None:
        before = self.done
        self.epoch, self.batch = epoch, batch
        if self._anchor is None or self.done < before:  # the first step seen, or back to a checkpoint
            self._anchor = (self.time(), self.done)

    def _row(self, line: str) -> Figures | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        step = step_of(row) if isinstance(row, dict) else None
        if step is None or step <= self._shown:  # of an earlier attempt, or an epoch that a restart repeats
            return None
        self._shown = step
        return {str(name): value for name, value in row.items()}
