"""What Ray Tune is given to run: trials of a Record, one after another, and repeats with other seeds.

Ray Tune's own OptunaSearch is not used, for it cannot take up a study (it tries the given points again and draws the
same ones, and its trials' ids are new ones), counts a stopped trial as finished, and PBT refuses it (ray 2.60).
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ray.tune import Callback
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.experiment.trial import Trial as TuneTrial
from ray.tune.search.search_algorithm import SearchAlgorithm

from raydet.io.clock import clock
from raydet.tuning.search.sampler import RANDOM_TRIALS, first_rung, is_known
from raydet.tuning.search.study import Record
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import devices, run_name
from raydet.tuning.trials.rows import Row, State

_STRAGGLER = 1.5
"""A trial that takes so many times as long as usual to the first rung is waited for no longer."""


class Unkept:
    """Ray Tune pickles what it is given into a snapshot; these hold files and locks, and no snapshot is ever read."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


class Feed(Unkept, SearchAlgorithm):  # type: ignore[misc]
    """Hands trials of given names to Ray Tune, so many at a time; a name is the id that `trial.Trial` reads."""

    def __init__(self, concurrent: int) -> None:
        self.concurrent = concurrent
        self.stopping = False
        """Set where all that runs is to be left as it is."""
        self.full: tuple[str, int, int] | None = None
        """Where there was no room for a checkpoint, the bytes it needs, the bytes that are free."""
        self.live: set[str] = set()
        """Names of the trials that Ray Tune has; PBT lets some of them wait."""
        self.running: frozenset[str] = frozenset()
        """Names of those that are on workers."""
        self._noted = clock()
        self._used: dict[str, float] = {}
        self._spec: dict[str, Any] = {}

    def add_configurations(self, experiments: Any) -> None:
        """Take over what Ray Tune makes of the Trainable."""
        self._spec = dict(experiments[0].spec)

    @property
    def total_samples(self) -> int:
        """Unknown to Ray Tune, which only shows it."""
        return 0

    def next_trial(self) -> TuneTrial | None:
        """Return the next trial; None for the time being, or for ever."""
        if self.stopping or len(self.live) >= self.concurrent:
            return None
        found = self.next_name()
        if found is None:
            return None
        name, params = found
        self.live.add(name)
        spec = self._spec | {"config": params}
        return _create_trial_from_spec(spec, _make_parser(), trial_id=name, experiment_tag=name)

    def note(self, running: frozenset[str]) -> None:
        """Take note of which trials are on workers, as often as anything happens."""
        now = clock()
        for name in self.running:
            self._used[name] = self._used.get(name, 0.0) + now - self._noted
        self.running, self._noted = running, now

    def used_s(self, name: str) -> float:
        """Return a trial's wall time on workers in this session."""
        return self._used.get(name, 0.0) + (clock() - self._noted if name in self.running else 0.0)

    def is_finished(self) -> bool:
        """Whether there will be no more trials."""
        return self.stopping or not self.has_more()

    def next_name(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and values of the next trial."""
        raise NotImplementedError

    def has_more(self) -> bool:
        """Whether `next_name` will return another one."""
        raise NotImplementedError


class Clocks(Callback):  # type: ignore[misc]
    """Tells a Feed which of its trials are on workers."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Take note; called by Ray Tune after each event."""
        self._feed.note(frozenset(trial.trial_id for trial in trials if trial.status == TuneTrial.RUNNING))


class Proposals(Feed):
    """The search's trials: first those that were begun, then new ones."""

    def __init__(self, record: Record, concurrent: int, may_start: Callable[[], bool]) -> None:
        """Make ready.

        Args:
            may_start: whether a new trial may still begin (there is time for it).
        """
        super().__init__(concurrent)
        self.record, self._may_start = record, may_start
        self._begun = record.unfinished()
        self._rung_s: dict[str, float] = {}
        """Name -> wall time to the first rung, of this session's trials."""
        self._before = {number: record.seconds(number) for number in self._begun}

    def next_name(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and values of the next trial."""
        with self.record.lock:
            if self._begun:
                number: int | None = self._begun.pop(0)
            elif self._may_start() and not self._awaits():
                number = self.record.propose(self.concurrent)
            else:
                number = None
            return None if number is None else (run_name(number), self.record.params(number))

    def has_more(self) -> bool:
        """Whether there are trials left to begin."""
        wanted = self.record.setting.num_samples
        return bool(self._begun) or (self.record.asked < wanted and self._may_start())

    def _awaits(self) -> bool:
        """Whether a trial that the next proposal rests on is about to reach the first rung."""
        setting = self.record.setting
        if setting.algorithm != "tpe" or self.record.asked + 1 - self.concurrent < RANDOM_TRIALS or not self._rung_s:
            return False
        patience_s = _STRAGGLER * statistics.median(self._rung_s.values())
        unknown = [row.number for row in self.record.basis(self.concurrent) if not is_known(setting, row)]
        return any(run_name(n) in self.live and self.seconds(run_name(n)) < patience_s for n in unknown)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Take down an evaluation."""
        with self.record.lock:
            if "score" in result and trial_id in self.live:
                seconds = self.seconds(trial_id)
                if result["epoch"] >= first_rung(self.record.setting):
                    self._rung_s.setdefault(trial_id, seconds)
                self.record.report(int(trial_id), int(result["epoch"]), float(result["score"]), seconds)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Take down an end, unless the search itself is being left."""
        if trial_id not in self.live:
            return
        seconds = self.seconds(trial_id)
        self.live.remove(trial_id)
        if result and "score" in result:  # the one that stops a trial is handed on here only
            self._rung_s.setdefault(trial_id, seconds)
        result = result or {}
        with self.record.lock:
            if "full" in result:
                self.full = result["full"]  # and the trial goes on when there is room
            elif result.get("done") and ("failed" in result or result.get("finished")):
                state = _state(result)
                values = {name: result[name] for name in self.record.setting.objectives if name in result}
                self.record.end(int(trial_id), state, seconds=seconds, error=result.get("failed"), **values)
            elif error:
                lost = "its process died more often than run.max_failures, perhaps for want of memory"
                self.record.end(int(trial_id), "failed", seconds=seconds, error=lost)
            elif self.stopping:
                self.record.keep(int(trial_id), seconds)
            else:
                self.record.end(int(trial_id), "stopped", seconds=seconds)

    def keep(self) -> None:
        """Take down what the live trials have cost, for a kill would lose it."""
        with self.record.lock:
            for number in self.live_numbers():
                self.record.keep(number, self.seconds(run_name(number)))

    def seconds(self, trial_id: str) -> float:
        """Return a trial's wall time so far, all sessions together."""
        return self.used_s(trial_id) + self._before.get(int(trial_id), 0.0)

    def costed(self, row: Row) -> Row:
        """Return the row of a live trial with what it has cost by now."""
        return costing(self.record.setting, row, self.seconds(run_name(row.number)))

    def live_numbers(self) -> frozenset[int]:
        """Return the numbers of the trials that are on workers now."""
        return frozenset(map(int, self.running & self.live))


def _state(result: Mapping[str, Any]) -> State:
    if "failed" in result:
        return "diverged" if result.get("diverged") else "failed"
    return "finished"


class Again(Feed):
    """Runs of trials that have ended: further ones with other seeds, or on to the end."""

    def __init__(self, runs: list[tuple[str, dict[str, Any]]], concurrent: int) -> None:
        """Take the runs' names and values."""
        super().__init__(concurrent)
        self._left = runs
        self.errors: list[str] = []

    def next_name(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and values of the next run."""
        return self._left.pop(0) if self._left else None

    def has_more(self) -> bool:
        """Whether there are runs left to begin."""
        return bool(self._left)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Take note that a run has ended, and of what went wrong."""
        if trial_id not in self.live:
            return
        self.live.remove(trial_id)
        result = result or {}
        self.full = result.get("full", self.full)
        if error or "failed" in result:
            self.errors.append(f"{trial_id}: {result.get('failed', 'its process died')}")


class Last(Again):
    """A trial that was stopped early, trained to its end after all."""

    def __init__(self, record: Record, number: int) -> None:
        super().__init__([(run_name(number), record.params(number))], 1)
        self.record, self.number = record, number
        record.take_up(number)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Take down what it came to."""
        with self.record.lock:
            if trial_id in self.live:
                self.record.went_on(self.number, self.used_s(trial_id), bool((result or {}).get("finished")))
            super().on_trial_complete(trial_id, result, error)

    def shown(self, row: Row) -> Row:
        """Return the row as it is now; the trial's own is running, and costs more by the minute."""
        if row.number != self.number or not self.live:
            return row
        seconds = row.seconds + self.used_s(run_name(row.number))
        return replace(costing(self.record.setting, row, seconds), state="running")


class Repeats(Again):
    """Trials once more, with other seeds; what they give lies in their folders."""

    def __init__(self, wanted: list[tuple[int, int, dict[str, Any]]], concurrent: int) -> None:
        """Take the numbers, seeds and values."""
        super().__init__([(run_name(number, seed=seed), params) for number, seed, params in wanted], concurrent)


def costing(setting: Setting, row: Row, seconds: float) -> Row:
    """Return the row with its cost."""
    return replace(row, seconds=seconds, device_hours=seconds / 3600 * devices(setting))
