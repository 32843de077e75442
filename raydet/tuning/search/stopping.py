"""When a search ends before its trials do: Ctrl-C, the budget, a default that nothing beats, trials that all fail."""

from collections.abc import Callable

from ray.tune import Stopper

from raydet.io.clock import clock
from raydet.tuning.search.trial_queue import NewTrials, TrialQueue
from raydet.tuning.trials.rows import Search

_ALL_FAILED = 3
"""Where the first 3 trials all fail, the search ends: it is not for their values."""
_KEEP_S = 10.0
"""How often times are written down."""
_CLOSING_S = 20.0
"""Time kept of a budget for ending the trials and drawing the figures; at most a twentieth of it."""


class StopSearch(Stopper):  # type: ignore[misc]
    """Asked by Ray Tune all the time; where it says so, all trials are left as they are."""

    def __init__(
        self,
        read: Callable[[], Search],
        patience: int | None,
        deadline: float | None,
        keep: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the conditions.

        Args:
            deadline: on `io.clock.clock`.
            keep: called every 10 s, to write down what a kill would lose.
        """
        self.queue: TrialQueue | None = None
        self.interrupted = 0
        """The signal that asks for an end; set from its handler."""
        self.reason: str | None = None
        self.enough = False
        """Nothing new is to be tried: the default was not beaten."""
        self.over = False
        """Nothing more is to be trained, not even what was found once more."""
        self._read, self._patience, self._deadline = read, patience, deadline
        self._next, self._keep, self._keep_at = 0.0, keep, clock() + _KEEP_S

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """As `TrialQueue`: Ray Tune pickles this, and no snapshot is ever read."""
        return object, ()

    def __call__(self, trial_id: str, result: object) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether the search ends now."""
        if self.queue is not None:
            self.queue.tick()
        if not self.over and self.interrupted:
            self._end("interrupted")
        if not self.over and clock() >= self._next:  # reading all trials takes a while
            self._next = clock() + 1.0
            self._look()
            if clock() >= self._keep_at:
                self._keep_at = clock() + _KEEP_S
                self._keep()
        stops = self.over or (self.enough and self.queue is not None and isinstance(self.queue.source, NewTrials))
        if stops and self.queue is not None:
            self.queue.stopping = True
        return stops

    def may_start(self) -> bool:
        """Whether there is time for a new trial to get as far as the shortest did."""
        if self.over or self.enough:
            return False
        if self._deadline is None:
            return True
        took = [row.seconds for row in self._read().rows if row.state in ("finished", "stopped")]
        return clock() + min(took, default=0.0) < self._deadline

    def _look(self) -> None:
        """End the search if there is a reason."""
        if self.queue is not None and self.queue.full is not None:
            self._end("the disk is full")
        elif self._deadline is not None and clock() > self._deadline:
            self._end("the budget is used up")
        elif failed := all_failed(search := self._read()):
            self._end(failed)
        elif self._patience is not None and not self.enough and (why := unbeaten(search, self._patience)):
            self.reason, self.enough = why, True

    def _end(self, reason: str) -> None:
        self.reason, self.over = reason, True


def all_failed(search: Search) -> str | None:
    """Return what to say where the first trials have all failed."""
    failed = [row for row in search.rows if row.state == "failed"]
    if len(failed) < min(_ALL_FAILED, search.num_samples) or any(row.curve for row in search.rows):
        return None
    return f"the first {len(failed)} trials have all failed; the last: {failed[-1].error}"


def unbeaten(search: Search, patience: int) -> str | None:
    """Return what to say where the default has ended, and `patience` others have without beating it."""
    default = search.default
    if default is None or default.state not in ("finished", "diverged") or default.score is None:
        return None
    others = [row for row in search.rows if row.number > 1 and row.state not in ("running", "waiting")]
    if len(others) < patience or any((row.score or 0.0) > default.score for row in others):
        return None
    return f"{len(others)} trials have not beaten the default"


def deadline(budget_s: float | None, spent_s: float) -> float | None:
    """Return the time on `io.clock.clock` at which trials must be left."""
    if budget_s is None:
        return None
    return clock() + budget_s - spent_s - min(_CLOSING_S, budget_s / 20)
