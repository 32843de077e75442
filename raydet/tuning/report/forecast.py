"""What a search will take: time and device-hours of a full trial and of what is left, from the first steps on.

An epoch takes the median of what the trials say: finished ones by their time, running ones by their time and their ETA.
What is left is dealt out to `concurrent` places as they fall free, the longest bound with each trial trained to its
end. With early stopping the share of its epochs that a trial trains on average is measured; one that is trained whole
counts beside those that have ended. Given up: that a searcher's later trials are better than its first; that other
values, but for the number of epochs, take another time.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from raydet.io.clock import clock
from raydet.search_spaces.domains import bounds
from raydet.terminal.run_status import Board, duration
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import devices
from raydet.tuning.trials.rows import RAN, Row, Search


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Time and cost."""

    trial_s: float
    """Of a trial trained to its end."""
    left_s: float
    """What the search is expected to take yet."""
    most_s: float
    """The same, if no further trial is stopped early."""
    left_device_s: float
    most_device_s: float


def forecast(search: Search, left_s: Mapping[int, float]) -> Forecast | None:
    """Return what the search will take; None before a trial has made a step.

    Args:
        left_s: number -> seconds left, of running trials.
    """
    epoch_s = _epoch_s(search, left_s)
    if epoch_s is None:
        return None
    rest_s = {row.number: epoch_s * max(0, epochs_of(search, row) - row.epochs) for row in search.rows}
    running = [left_s.get(row.number, rest_s[row.number]) for row in search.rows if row.state == "running"]
    waiting = [rest_s[row.number] for row in search.rows if row.state == "waiting"]
    to_come = max(0, search.num_samples - len(search.rows)) if search.ended is None else 0
    typical, longest = (epoch_s * epochs for epochs in _lengths(search))
    most = running, waiting + [longest] * to_come
    # Of a trial that continues, the rest is as likely to be cut short as a whole one: halving repeats itself.
    share = _expected_share(search) if search.scheduler in ("asha", "hyperband") else 1.0
    likely = [s * share for s in running], [s * share for s in waiting + [typical] * to_come]
    return Forecast(
        trial_s=epoch_s * search.total_epochs,
        left_s=_places(search.concurrent, *likely),
        most_s=_places(search.concurrent, *most),
        left_device_s=sum(map(sum, likely)) * devices(_setting(search)),
        most_device_s=sum(map(sum, most)) * devices(_setting(search)),
    )


def line(search: Search, found: Forecast) -> str:
    """Return the forecast in one line."""
    left = f"about {duration(found.left_s)}"
    cost = f"{hours(found.left_device_s)} {search.device}-hours"
    if found.left_s < found.most_s:
        left += f", at most {duration(found.most_s)}"
        cost += f", at most {hours(found.most_device_s)}"
    many = f"{search.num_samples} trials, {search.concurrent} at a time" if search.num_samples > 1 else "1 trial"
    return f"forecast  {trial_line(search, found)}; {many}: {left} more ({cost})"


def trial_line(search: Search, found: Forecast) -> str:
    """Return what a full trial takes, in words."""
    cost = hours(found.trial_s * devices(_setting(search)))
    return f"a full trial takes {duration(found.trial_s)} and {cost} {search.device}-hours"


def hours(seconds: float) -> str:
    """Return device-hours with as many digits as say something."""
    value = seconds / 3600
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def epochs_of(search: Search, row: Row) -> int:
    """Return the epochs of this trial trained to its end; schedule.epochs may be searched."""
    searched = row.params.get("schedule.epochs")
    if not isinstance(searched, int | float):
        return search.total_epochs
    return max(1, int(searched) + search.cfg.schedule.cooldown_epochs)


def _epoch_s(search: Search, left_s: Mapping[int, float]) -> float | None:
    whole = [
        (row.seconds + left_s.get(row.number, 0.0)) / epochs_of(search, row)
        for row in search.rows
        if row.seconds > 0 and (row.state == "finished" or (row.state == "running" and row.number in left_s))
    ]
    started = [row.seconds / row.epochs for row in search.rows if row.seconds > 0 and row.epochs > 0]
    return median(whole or started) if whole or started else None


def _lengths(search: Search) -> tuple[float, float]:
    """Return the epochs of a trial that is not drawn yet: on average, and at most."""
    searched = search.space.domains.get("schedule.epochs")
    if searched is None:
        return search.total_epochs, search.total_epochs
    return fmean(bounds(searched)) + search.cfg.schedule.cooldown_epochs, _setting(search).total_epochs


def _expected_share(search: Search) -> float:
    ended = [min(1.0, row.epochs / epochs_of(search, row)) for row in search.rows if row.state in RAN]
    return fmean([1.0, *ended])


def _places(concurrent: int, running: Iterable[float], waiting: Iterable[float]) -> float:
    """Return when the last trial ends, if each that waits takes the place that falls free first."""
    ends = sorted(running)
    ends += [0.0] * (max(1, concurrent) - len(ends))
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return max(ends)


def _setting(search: Search) -> Setting:
    return Setting(cfg=search.cfg, space=search.space, num_samples=search.num_samples)


class TimeLeft:
    """Follows the files of running trials for their time left."""

    def __init__(self, time: Callable[[], float] = clock) -> None:
        self._time = time
        self._boards: dict[Path, Board] = {}

    def poll(self, search: Search) -> dict[int, float]:
        """Return number -> seconds left of the running trials that have made two log lines since they were seen."""
        running = {row.folder: row for row in search.rows if row.state == "running"}
        self._boards = {folder: board for folder, board in self._boards.items() if folder in running}
        found = {}
        for folder, row in running.items():
            if folder not in self._boards:  # PBT takes a new folder each time a trial starts again
                self._boards[folder] = Board(folder, search.cfg.task, epochs_of(search, row), time=self._time)
            board = self._boards[folder]
            board.poll()
            if board.left_s is not None:
                found[row.number] = board.left_s
        return found
