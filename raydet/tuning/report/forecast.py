"""What a search will take: time and device-hours of a full trial and of what is left, from the first steps on.

A full trial is the median of what the trials say: a finished one what it took, a running one its start-up and, for the
rest, the pace of its steps. What is left is dealt out to `concurrent` places as they fall free, the longest bound with
each trial trained to its end. With ASHA most are stopped early; how much that leaves on average, `asha_share`, is to be
expected before a trial has ended, and counts as one trial beside the measured ones, for those that end first are the
ones that were stopped. Given up: that the first measured shares are low all the same; that a searcher's later trials
are better than its first; that other values, but for the number of epochs, take another time.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from raydet.io.clock import clock
from raydet.runs.dllogger_format import parse
from raydet.search_spaces.domains import bounds
from raydet.terminal.run_status import Board, Tail, duration, number
from raydet.tuning.search.allowance import asha_share
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import devices
from raydet.tuning.trials.rows import RAN, Row, Search


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How far a trial has come in its present session on workers, as of the last step that was seen."""

    seconds: float
    """Since it was given workers, start-up included."""
    share: float
    """Of all its steps, 0 to 1, earlier sessions included."""
    startup_s: float
    """Of `seconds`, those before its first step."""
    from_share: float = 0.0
    """What earlier sessions had done."""

    @property
    def full_s(self) -> float | None:
        """Seconds of the whole trial, made in one session; None before its first step."""
        if self.share <= self.from_share:
            return None
        return self.startup_s + (self.seconds - self.startup_s) / (self.share - self.from_share)

    @property
    def left_s(self) -> float | None:
        """Seconds that it has yet to train."""
        return None if self.full_s is None else (self.full_s - self.startup_s) * max(0.0, 1 - self.share)


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Time and cost."""

    trial_s: float
    """Of a trial trained to its end."""
    trial_device_hours: float
    trials: int
    """Of the whole search."""
    concurrent: int
    device: str
    left_s: float
    """What the search is expected to take yet."""
    most_s: float
    """The same, if no further trial is stopped early."""
    left_device_hours: float
    most_device_hours: float
    stops_early: bool
    """Whether the two can differ."""


def forecast(search: Search, steps: Mapping[int, Pace]) -> Forecast | None:
    """Return what the search will take; None before a trial has made a step.

    Args:
        steps: number -> pace, of running trials; of others it does no harm.
    """
    startup_s = median([pace.startup_s for pace in steps.values()] or [0.0])
    epoch_s = _epoch_s(search, steps, startup_s)
    if epoch_s is None:
        return None
    stops = search.scheduler == "asha"
    share = _expected_share(search) if stops else 1.0
    trial_s = startup_s + epoch_s * search.total_epochs
    running, waiting = _left(search, steps, epoch_s, startup_s)
    to_come = max(0, search.num_samples - len(search.rows)) if search.ended is None else 0
    typical, longest = (startup_s + epoch_s * epochs for epochs in _lengths(search))
    most = running, waiting + [longest] * to_come
    # Of a trial that goes on, the rest is as likely to be cut short as a whole one: halving repeats itself.
    whole = waiting + [typical] * to_come
    likely = [s * share for s in running], [s * share + min(s, startup_s) * (1 - share) for s in whole]
    hours_a_s = devices(_setting(search)) / 3600
    return Forecast(
        trial_s=trial_s,
        trial_device_hours=trial_s * hours_a_s,
        trials=search.num_samples,
        concurrent=search.concurrent,
        device=search.device,
        left_s=_places(search.concurrent, *likely),
        most_s=_places(search.concurrent, *most),
        left_device_hours=sum(map(sum, likely)) * hours_a_s,
        most_device_hours=sum(map(sum, most)) * hours_a_s,
        stops_early=stops or typical < longest,
    )


def line(found: Forecast) -> str:
    """Return the forecast in one line."""
    left = f"about {duration(found.left_s)}"
    cost = f"{hours(found.left_device_hours)} {found.device}-hours"
    if found.stops_early:
        left += f", at most {duration(found.most_s)}"
        cost += f", at most {hours(found.most_device_hours)}"
    many = f"{found.trials} trials, {found.concurrent} at a time" if found.trials > 1 else "1 trial"
    return f"forecast  {trial_line(found)}; {many}: {left} more ({cost})"


def trial_line(found: Forecast) -> str:
    """Return what a full trial takes, in words."""
    return f"a full trial takes {duration(found.trial_s)} and {hours(found.trial_device_hours)} {found.device}-hours"


def hours(value: float) -> str:
    """Return device-hours with as many digits as say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def epochs_of(search: Search, row: Row) -> int:
    """Return the epochs of this trial trained to its end; schedule.epochs may be searched."""
    searched = row.params.get("schedule.epochs")
    if not isinstance(searched, int | float):
        return search.total_epochs
    return max(1, int(searched) + search.cfg.schedule.cooldown_epochs)


def _epoch_s(search: Search, steps: Mapping[int, Pace], startup_s: float) -> float | None:
    """Return what an epoch takes, start-up aside."""
    exact, others = [], []
    for row in search.rows:
        pace = steps.get(row.number)
        if row.state == "finished" and row.seconds > 0:
            exact.append(max(0.0, row.seconds - startup_s) / epochs_of(search, row))
        elif row.state == "running" and pace is not None and pace.full_s is not None:
            exact.append(max(0.0, pace.full_s - pace.startup_s) / epochs_of(search, row))
        if row.epochs > 0 and row.seconds > 0:
            others.append(max(0.0, row.seconds - startup_s) / row.epochs)
    found = exact or others
    return median(found) if found else None


def _lengths(search: Search) -> tuple[float, float]:
    """Return the epochs of a trial that is not drawn yet: on average, and at most."""
    searched = search.space.domains.get("schedule.epochs")
    if searched is None:
        return search.total_epochs, search.total_epochs
    return fmean(bounds(searched)) + search.cfg.schedule.cooldown_epochs, _setting(search).total_epochs


def _expected_share(search: Search) -> float:
    ended = [min(1.0, row.epochs / epochs_of(search, row)) for row in search.rows if row.state in RAN]
    setting = _setting(search)
    before = asha_share(search.num_samples, setting.total_epochs, setting.rungs, setting.reduction)
    return fmean([before, *ended])


def _left(
    search: Search, steps: Mapping[int, Pace], epoch_s: float, startup_s: float
) -> tuple[list[float], list[float]]:
    """Return the seconds left of each running trial and of each that waits."""
    running: list[float] = []
    waiting: list[float] = []
    for row in search.rows:
        if row.state not in ("running", "waiting"):
            continue
        pace = steps.get(row.number) if row.state == "running" else None
        if pace is not None and pace.left_s is not None:
            running.append(pace.left_s)
            continue
        rest = startup_s + epoch_s * max(0, epochs_of(search, row) - row.epochs)
        (running if row.state == "running" else waiting).append(rest)
    return running, waiting


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


class Watch:
    """Follows one trial's files through a session on workers. Make it before they write; then poll now and then."""

    def __init__(
        self, folder: Path, task: str, total_epochs: int, done_epochs: int = 0, time: Callable[[], float] = clock
    ) -> None:
        self._board = Board(folder, task, total_epochs, time=time)
        self._log = Tail(folder / "log.json")
        self._begun_s: float | None = None
        """When its present log was begun; and by that log's own time, how far it goes."""
        self._log_s = 0.0
        self._from = min(1.0, done_epochs / total_epochs)
        self._at_s, self._share = 0.0, self._from

    def poll(self) -> Pace | None:
        """Read on; None before the trial has made a step."""
        board = self._board
        self._read_log()
        rows = board.poll()
        epochs = max((number(row, "epoch") or 0.0 for row in rows), default=0.0)
        share = board.done / (board.steps * board.epochs) if board.steps else 0.0
        share = max(share, epochs / board.epochs)
        if share > self._share or rows:  # a row comes when the epoch is evaluated: that takes time too
            self._share, self._at_s = min(1.0, max(share, self._share)), self._log_s
        if self._begun_s is None or self._share <= self._from:
            return None
        seconds = self._begun_s + self._at_s
        return Pace(seconds=seconds, share=self._share, startup_s=self._begun_s, from_share=self._from)

    def _read_log(self) -> None:
        """Its head is written when the data and the model stand; its times are exact, however late they are read."""
        newest = next((row for line in reversed(self._log.lines()) if (row := parse(line)) is not None), None)
        if newest is None:
            return
        log_s = float(str(newest["elapsedtime"]))
        begun_s = max(0.0, self._board.elapsed_s - log_s)
        again = self._begun_s is None or log_s < self._log_s  # workers that were lost begin a new one
        self._begun_s = begun_s if again else min(self._begun_s or 0.0, begun_s)
        self._log_s = log_s


class Paces:
    """The paces of a search's running trials, session by session."""

    def __init__(self, time: Callable[[], float] = clock) -> None:
        self._time = time
        self._watches: dict[Path, Watch] = {}

    def poll(self, search: Search) -> dict[int, Pace]:
        """Return number -> pace of the running trials that have made a step since they were seen to run."""
        running = [row for row in search.rows if row.state == "running"]
        folders = {row.folder for row in running}
        self._watches = {folder: watch for folder, watch in self._watches.items() if folder in folders}
        for row in running:
            if row.folder not in self._watches:  # PBT takes a new folder each time a trial starts again
                total = epochs_of(search, row)
                self._watches[row.folder] = Watch(row.folder, search.cfg.task, total, row.epochs, self._time)
        polled = {row.number: self._watches[row.folder].poll() for row in running}
        return {n: pace for n, pace in polled.items() if pace is not None}
