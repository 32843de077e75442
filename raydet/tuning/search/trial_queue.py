"""What Ray Tune is given to run: the trials of a study, one after another, then single runs of trials that have ended.

Ray Tune's own OptunaSearch is not used, for it cannot continue a study (it tries the given points again and draws the
same ones, and its trials' ids are new ones), counts a stopped trial as finished, and PBT refuses it (ray 2.60).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ray.tune.experiment import Trial
from ray.tune.search.search_algorithm import SearchAlgorithm

from raydet.io.clock import clock
from raydet.tuning.ray_tune_private import make_trial
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.trials.folders import run_name
from raydet.tuning.trials.rows import State

Result = Mapping[str, Any]
"""What `trials.trial.Trial.step` returns."""


class NextTrial(NamedTuple):
    """What is to run next."""

    name: str
    """Of its run; also the id that `trials.trial.Trial` reads."""
    params: dict[str, Any]
    seconds: float = 0.0
    """Wall time of earlier sessions."""


class TrialQueue(SearchAlgorithm):  # type: ignore[misc]
    """Hands the trials of a source to Ray Tune, at most `concurrent` at a time."""

    def __init__(self, source: "NewTrials | Reruns", concurrent: int) -> None:
        self.source, self.concurrent = source, concurrent
        self.stopping = False
        """Set where all that runs is to be left as it is."""
        self.full: tuple[str, int, int] | None = None
        """Where there was no room for a checkpoint, the bytes it needs, the bytes that are free."""
        self.live: dict[str, Trial] = {}
        """Name -> the trials that Ray Tune has; PBT lets some of them wait."""
        self._seconds: dict[str, float] = {}
        self._ticked = clock()
        self._spec: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Ray Tune pickles this into a snapshot that is never read; a study's files and locks cannot be pickled."""
        return object, ()

    def add_configurations(self, experiments: Any) -> None:
        """Take over what Ray Tune makes of the Trainable."""
        self._spec = dict(experiments[0].spec)

    @property
    def total_samples(self) -> int:
        """Unknown to Ray Tune, which only shows it."""
        return 0

    def next_trial(self) -> Trial | None:
        """Return the next trial; None for the time being, or for ever."""
        if self.stopping or len(self.live) >= self.concurrent:
            return None
        found = self.source.next()
        if found is None:
            return None
        self._seconds[found.name] = found.seconds
        self.live[found.name] = make_trial(self._spec, found.name, found.params)
        return self.live[found.name]

    def is_finished(self) -> bool:
        """Whether there will be no more trials."""
        return self.stopping or not self.source.has_more()

    def tick(self) -> None:
        """Count the time since the last call as that of the trials on workers."""
        now = clock()
        for name in self.running():
            self._seconds[name] += now - self._ticked
        self._ticked = now

    def running(self) -> list[str]:
        """Return the names of the trials that are on workers now; from any thread."""
        return [name for name, trial in list(self.live.items()) if trial.status == Trial.RUNNING]

    def seconds(self, name: str) -> float:
        """Return a trial's wall time on workers, all sessions together."""
        return self._seconds[name]

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        """Pass on an evaluation."""
        if "score" in result and trial_id in self.live:
            self.tick()
            self.source.report(trial_id, result, self.seconds(trial_id))

    def on_trial_complete(self, trial_id: str, result: Result | None = None, error: bool = False) -> None:
        """Pass on an end; a trial that found the disk full is unfinished, and continues when there is room."""
        if trial_id not in self.live:
            return
        self.tick()
        del self.live[trial_id]
        self.full = (result or {}).get("full", self.full)
        self.source.end(trial_id, result or {}, error, self.stopping, self.seconds(trial_id))


class NewTrials:
    """The search's trials: first those that were started and have not ended, then new ones."""

    def __init__(self, study: SearchStudy, may_start: Callable[[], bool]) -> None:
        """Make ready.

        Args:
            may_start: whether a new trial may still start (there is time for it).
        """
        self._study, self._may_start = study, may_start
        self._unfinished = study.unfinished()

    def next(self) -> NextTrial | None:
        """Return the next trial; None for the time being, or for ever."""
        study = self._study
        with study.lock:
            if self._unfinished:
                number: int | None = self._unfinished.pop(0)
            else:
                number = study.ask() if self._may_start() else None
            return None if number is None else NextTrial(run_name(number), study.params(number), study.seconds(number))

    def has_more(self) -> bool:
        """Whether there are trials left to start."""
        wanted = self._study.setting.num_samples
        return bool(self._unfinished) or (self._study.asked < wanted and self._may_start())

    def report(self, name: str, result: Result, seconds: float) -> None:
        """Record an evaluation."""
        with self._study.lock:
            self._study.report(int(name), int(result["epoch"]), float(result["score"]), seconds)

    def end(self, name: str, result: Result, error: bool, left: bool, seconds: float) -> None:
        """Record an end.

        Args:
            error: its process died.
            left: the search is being left, and with it the trial.
            seconds: the trial's wall time, all sessions together.
        """
        study, number = self._study, int(name)
        with study.lock:
            if result.get("score") is not None:  # the evaluation that stops a trial comes with its end only
                study.report(number, int(result["epoch"]), float(result["score"]), seconds)
            if "full" in result:
                study.keep(number, seconds)
            elif result.get("done") and ("failed" in result or result.get("finished")):
                values = {key: result[key] for key in study.setting.objectives if key in result}
                study.end(number, _state(result), seconds=seconds, error=result.get("failed"), **values)
            elif error:
                lost = "its process died more often than run.max_failures, perhaps for want of memory"
                study.end(number, "failed", seconds=seconds, error=lost)
            elif left:
                study.keep(number, seconds)
            else:
                study.end(number, "stopped", seconds=seconds)


def _state(result: Result) -> State:
    if "failed" in result:
        return "diverged" if result.get("diverged") else "failed"
    return "finished"


class Reruns:
    """Single runs of trials that have ended: with other seeds, or on to the end. What they give is in their folders."""

    def __init__(
        self, runs: Sequence[NextTrial], ended: Callable[[Result, float], None] = lambda result, seconds: None
    ) -> None:
        """Take the runs.

        Args:
            ended: called with each one's last result and wall time.
        """
        self._left, self._ended = list(runs), ended
        self.errors: list[str] = []

    def next(self) -> NextTrial | None:
        """Return the next run."""
        return self._left.pop(0) if self._left else None

    def has_more(self) -> bool:
        """Whether there are runs left to start."""
        return bool(self._left)

    def report(self, name: str, result: Result, seconds: float) -> None:
        """Leave an evaluation in the run's folder."""

    def end(self, name: str, result: Result, error: bool, left: bool, seconds: float) -> None:
        """Note what went wrong."""
        self._ended(result, seconds)
        if error or "failed" in result:
            self.errors.append(f"{name}: {result.get('failed', 'its process died')}")
