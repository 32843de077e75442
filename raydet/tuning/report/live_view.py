"""What a search shows while it goes: on a terminal one table of trials, elsewhere one line per event.

Trials themselves are quiet; the driver polls what it knows of them and follows their files for the pace of their steps.
On a terminal the table fits it: the oldest trials are left out first, but never the default, the best, or one that
runs. A failed trial's error also stays above the table, where it can be read to its end.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydet.exceptions import one_line
from raydet.io.clock import clock
from raydet.terminal.run_status import duration
from raydet.tuning.report.forecast import Forecast, TimeLeft, epochs_of, forecast, hours, line, trial_line
from raydet.tuning.report.results import score_text
from raydet.tuning.trials.rows import STATE_TEXT, Donation, Row, Search

POLL_S = 0.5
FORECAST_EVERY_S = 300.0
"""Where there is no terminal."""

_STYLES = {"running": "cyan", "waiting": "dim", "stopped": "dim", "diverged": "yellow", "failed": "red"}
_SHORT = {"weight_decay": "wd", "ema.decay": "ema"}
_COLUMNS = ("trial", "state", "epochs", "score", "values", "left", "hours")
"""Values get what room is left."""
_NARROW = 64
"""Characters below which time left and cost are left out."""
_LEAST_ROWS = 3


class Show:
    """Shows a search; `follow` is for a thread of the driver."""

    def __init__(self, read: Callable[[], Search], out: TextIO, budget_s: float | None) -> None:
        """Make ready.

        Args:
            read: gives the search as it is now.
            budget_s: the search ends when Search.seconds reaches this.
        """
        self._read, self._out, self._budget_s = read, out, budget_s
        self._time_left = TimeLeft()

    def follow(self, stop: threading.Event) -> None:
        """Show the search until `stop` is set, then how it is at the end. When `out` is gone this ends."""
        console = Console(file=self._out)
        try:
            if self._out.isatty() and not console.is_dumb_terminal:
                self._follow_terminal(console, stop)
            else:
                self._follow_plain(stop)
        except (OSError, ValueError):  # a closed pipe or file: the search continues unseen
            return

    def _follow_terminal(self, console: Console, stop: threading.Event) -> None:
        mine = console.file is sys.stdout  # then other prints of this process appear above the table
        before: Search | None = None
        with Live(console=console, auto_refresh=False, redirect_stdout=mine, vertical_overflow="crop") as live:
            stopped = False
            while not stopped:
                stopped = stop.wait(POLL_S)
                search = self._read()
                for text in _failures(before, search):
                    console.print(Text(text, style="red"))
                width, height = console.size
                live.update(self._view(search, width, height), refresh=True)
                before = search

    def _view(self, search: Search, width: int, height: int) -> RenderableType:
        left_s = self._time_left.poll(search)
        below = below_table(search, forecast(search, left_s), self._budget_s, width)
        below = below[: max(2, height - _LEAST_ROWS - 3)]
        return Group(table(search, left_s, width, height - len(below) - 1), *(Text(text) for text in below))

    def _follow_plain(self, stop: threading.Event) -> None:
        before: Search | None = None
        said_at: float | None = None
        stopped = False
        while not stopped:
            stopped = stop.wait(POLL_S)
            search = self._read()
            events = plain_events(before, search)
            found = forecast(search, self._time_left.poll(search))
            if found is not None and found.most_s and (said_at is None or clock() - said_at >= FORECAST_EVERY_S):
                said_at = clock()
                events.append("  ".join([line(search, found), *_clocks(search, self._budget_s)]))
            if events:
                self._out.write("".join(f"{event}\n" for event in events))
                self._out.flush()
            before = search


def table(search: Search, left_s: Mapping[int, float], width: int, height: int) -> Table:
    """Return the table of trials, in order of number, that fits `width` columns and `height` lines."""
    titles = {"score": search.score, "hours": f"{search.device}-hours"}
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, width=width)
    columns = _COLUMNS if width >= _NARROW else _COLUMNS[:5]
    for name in columns:
        right: Literal["left", "right"] = "left" if name in ("state", "values") else "right"
        ratio = 1 if name == "values" else None
        view.add_column(Text(titles.get(name, name)), justify=right, ratio=ratio, no_wrap=True, overflow="ellipsis")
    best, short = search.best, short_names(search.space.keys)
    for row in shown(search, height - 2):
        mark = best is not None and row.number == best.number
        cells = _cells(search, row, left_s.get(row.number), short)
        number = f"best {row.number}" if mark else str(row.number)
        style = "bold green" if mark else _STYLES.get(row.state, "")
        view.add_row(*(Text(number if name == "trial" else cells[name]) for name in columns), style=style)
    return view


def shown(search: Search, lines: int) -> list[Row]:
    """Return the trials that `lines` lines hold: default, best and running ones, then the newest; some at least."""
    best, default = search.best, search.default
    first = [row for row in (best, default) if row is not None]
    first += [row for row in search.rows if row.state == "running"]
    ranked = {row.number: row for row in [*first, *reversed(search.rows)]}
    return sorted(list(ranked.values())[: max(_LEAST_ROWS, lines)], key=lambda row: row.number)


def _cells(search: Search, row: Row, left_s: float | None, short: Mapping[str, str]) -> dict[str, str]:
    left = duration(left_s) if left_s is not None else "starting" if row.epochs == 0 else "-"
    return {
        "state": row.state,
        "epochs": f"{row.epochs}/{epochs_of(search, row)}",
        "score": "-" if row.score is None else score_text(search.score, row.score),
        "values": one_line(row.error or "failed", 200) if row.state == "failed" else values_text(row.params, short),
        "left": left if row.state == "running" else "-",
        "hours": hours(row.device_hours * 3600) if row.device_hours else "-",
    }


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> the last part of it where no other key ends so, else the whole; a few have a name of their own."""
    last = {key: _SHORT.get(key) or _SHORT.get(key.rpartition(".")[2]) or key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key for key, name in last.items()}


def values_text(params: Mapping[str, Any], short: Mapping[str, str]) -> str:
    """Return a trial's values in one line."""
    return "  ".join(f"{short.get(key, key)} {value_text(value)}" for key, value in params.items())


def value_text(value: Any) -> str:
    """Return a value with as many digits as tell trials apart."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        if value and abs(value) < 1e-3:
            digits, _, power = f"{value:.2e}".partition("e")
            return f"{float(digits):g}e{int(power)}"
        return f"{value:.{5 if 0.99 < abs(value) < 1 else 3}g}".replace("e+0", "e").replace("e+", "e")
    return one_line(str(value), 40)


def below_table(search: Search, found: Forecast | None, budget_s: float | None, width: int) -> list[str]:
    """Return the lines below the table: how many trials are in which state, best and default; the time."""
    times = _clocks(search, budget_s)
    if found is None:
        times += ["forecast after the first steps"] if search.ended is None else []
    elif found.most_s:
        most = f", at most {duration(found.most_s)}" if found.left_s < found.most_s else ""
        times += [f"left about {duration(found.left_s)}{most}", trial_line(search, found)]
    return [*_packed([f"trials {counted(search)}", standing(search)], width), *_packed(times, width)]


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """Return the parts in as few lines as hold them, cut where one is too long by itself."""
    lines: list[str] = []
    for part in filter(None, parts):
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f" | {part}"
        else:
            lines.append(part[:width])
    return lines


def counted(search: Search) -> str:
    """Return how many trials are in each state, of how many."""
    count: Counter[str] = Counter(row.state for row in search.rows)
    if search.ended is None:
        count["waiting"] += max(0, search.num_samples - len(search.rows))
    order = ("running", "finished", "stopped", "diverged", "failed", "waiting")
    return f"{search.num_samples}: " + ", ".join(f"{count[state]} {state}" for state in order if count[state])


def standing(search: Search) -> str:
    """Return the best trial's score beside the default's; "" before any score."""
    best, default = search.best, search.default
    if best is None or best.score is None:
        return ""
    text = f"best {search.score} {score_text(search.score, best.score)}, trial {best.number}"
    if default is None or default.score is None or best.number == default.number:
        return text
    return f"{text}; default {score_text(search.score, default.score)}"


def _clocks(search: Search, budget_s: float | None) -> list[str]:
    text = [f"elapsed {duration(search.seconds)}"]
    return text if budget_s is None else [*text, f"budget left {duration(budget_s - search.seconds)}"]


def plain_events(before: Search | None, now: Search) -> list[str]:
    """Return a line for each trial that has started, changed or ended since `before`.

    Args:
        before: None: what has ended did so before this command, and is only counted.
    """
    known = {row.number: row for row in before.rows} if before is not None else {}
    short = short_names(now.space.keys)
    ended = before is None and any(row.state not in ("waiting", "running") for row in now.rows)
    lines = [f"trials {counted(now)}"] if ended else []
    for row in now.rows:
        was = known.get(row.number)
        if before is None and row.state != "running":
            continue
        starts = row.state != "waiting" and (was is None or was.state == "waiting")
        resumed = row.epochs > 0 if before is None else was is not None and was.epochs > 0
        if starts and not (resumed and now.algorithm == "pbt"):  # which lets all pause at each of its rounds
            lines.append(_start(now, row, resumed, short))
        if row.state not in ("waiting", "running") and (was is None or was.state != row.state):
            lines.append(_end(now, row))
    new = now.donations[len(before.donations) :] if before is not None else ()
    return lines + [_donated(now, donation, short) for donation in new]


def _failures(before: Search | None, now: Search) -> list[str]:
    known = {row.number for row in before.rows if row.state == "failed"} if before is not None else set()
    return [_end(now, row) for row in now.rows if row.state == "failed" and row.number not in known]


def _start(search: Search, row: Row, resumed: bool, short: Mapping[str, str]) -> str:
    what = f"continues after epoch {row.epochs}/{epochs_of(search, row)}" if resumed else "starts"
    return f"trial {row.number} of {search.num_samples}  {what}  {values_text(row.params, short)}"


def _end(search: Search, row: Row) -> str:
    parts = [f"trial {row.number} of {search.num_samples}", STATE_TEXT[row.state]]
    if row.score is not None and row.state != "failed":
        best = search.best is not None and search.best.number == row.number
        parts.append(f"{search.score} {score_text(search.score, row.score)}" + (", best so far" if best else ""))
    parts += [f"epoch {row.epochs}/{epochs_of(search, row)}", duration(row.seconds)]
    return "  ".join([*parts, *([one_line(row.error, 500)] if row.error else [])])


def _donated(search: Search, donation: Donation, short: Mapping[str, str]) -> str:
    changed = [
        f"{short.get(key, key)} {value_text(donation.before.get(key))} -> {value_text(value)}"
        for key, value in donation.after.items()
        if donation.before.get(key) != value
    ]
    what = f"takes over trial {donation.donor} at epoch {donation.epoch}"
    return f"trial {donation.number} of {search.num_samples}  {what}  {'  '.join(changed)}"
