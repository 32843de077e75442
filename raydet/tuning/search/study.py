"""The record of a search: an Optuna study in the search's folder, and the trials' own run folders. Ray keeps nothing.

Ray Tune's own snapshots come every so often, so that a killed driver forgets trials; they are unpickled to be read; and
they leave out what the scheduler knew (ray 2.60). Optuna's journal has every proposal and every end as it happens, a
trial's metrics.jsonl every evaluation; a search that continues is put together from these.
"""

import threading
from typing import TYPE_CHECKING, Any

from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.search.optuna_private import draw_missing, open_trial
from raydet.tuning.search.sampler import make_sampler
from raydet.tuning.search.storage import open_storage
from raydet.tuning.search.warm_start import warm_points
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import devices, donations_of, read_curve, spent_epochs, stages
from raydet.tuning.trials.rows import Row, State

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class SearchStudy:
    """One search's trials; used by the driver only."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.lock = threading.RLock()
        """What shows the search reads in another thread."""
        with quiet_optuna():
            self.study = _open_study(setting)
        self._distributions = distributions_of(setting)
        self._ended: dict[int, Row] = {}
        self._resumed: int | None = None
        self._repair()
        enqueue(setting, self.study)

    def ask(self) -> int | None:
        """Start a new trial and return its number; None if there are as many as are wanted."""
        number = self.asked + 1
        if number > self.setting.num_samples:
            return None
        with quiet_optuna():
            self.study.sampler = make_sampler(self.setting, number)
            return self.study.ask(self._distributions).number + 1

    def unfinished(self) -> list[int]:
        """Return the numbers of the trials that were started and have not ended."""
        from optuna.trial import TrialState

        return [t.number + 1 for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    @property
    def asked(self) -> int:
        """How many trials were started so far."""
        return len(self._asked())

    def complete(self) -> bool:
        """Whether there are as many trials as are wanted, and all have ended."""
        return self.asked >= self.setting.num_samples and not self.unfinished()

    def report(self, number: int, epoch: int, score: float, seconds: float) -> None:
        """Record an evaluation; `seconds` is the trial's wall time so far, all sessions together."""
        frozen = self._trial(number)
        if not self.setting.objectives and epoch not in frozen.intermediate_values:
            open_trial(self.study, frozen).report(score, epoch)
        self.keep(number, seconds)

    def keep(self, number: int, seconds: float) -> None:
        """Record a trial's wall time so far, all sessions together."""
        self._note(number, seconds=round(seconds, 1))

    def end(self, number: int, state: State, *, seconds: float, error: str | None = None, **values: float) -> None:
        """Record a trial's end. A diverged one counts as score 0, so that the search learns to keep away."""
        from optuna.trial import TrialState

        row = self.row(number)
        self._note(number, seconds=round(seconds, 1), error=error, values=values, raydet_state=state)
        outcome, score = TrialState.COMPLETE, 0.0 if state == "diverged" else row.score
        if state == "failed" or score is None or (self.setting.objectives and state != "finished"):
            outcome, score = TrialState.FAIL, None
        elif state == "stopped":
            outcome = TrialState.PRUNED
        scores = None if score is None else [score, *(values[name] for name in self.setting.objectives)]
        with quiet_optuna():
            self.study.tell(
                number - 1, scores if outcome == TrialState.COMPLETE else None, outcome, skip_if_finished=True
            )

    def resume(self, number: int) -> None:
        """Read a stopped trial's folder again from now on: it is trained to its end after all."""
        self._resumed = number

    def end_resumed(self, number: int, seconds: float, finished: bool) -> None:
        """Record what it came to. With the study, for Optuna lets no trial change that has ended."""
        later = {"seconds": round(seconds - self._seconds(number), 1), "finished": finished}
        self.study.set_user_attr(f"later_{number}", later)
        self._ended.pop(number, None)
        self._resumed = None

    def params(self, number: int) -> dict[str, Any]:
        """Return the trial's values, as the space has them; of PBT those it has now."""
        donations = donations_of(stages(self.setting, number))
        return donations[-1].after if donations else dict(self._trial(number).params)

    def seconds(self, number: int) -> float:
        """Return the trial's wall time so far, as recorded."""
        return self._seconds(number) + float(self._later(number).get("seconds", 0.0))

    def _seconds(self, number: int) -> float:
        return float(self._trial(number).user_attrs.get("seconds", 0.0))

    def _later(self, number: int) -> dict[str, Any]:
        return dict(self.study.user_attrs.get(f"later_{number}", {}))

    def spent(self, seconds: float | None = None) -> float:
        """Return the search's wall time in earlier sessions; first set it, if one is given."""
        if seconds is not None:
            self.study.set_user_attr("seconds", round(seconds, 1))
        return float(self.study.user_attrs.get("seconds", 0.0))

    def rows(self) -> tuple[Row, ...]:
        """Return all trials that were started; those that have not ended wait."""
        return tuple(self.row(trial.number + 1) for trial in self._asked())

    def row(self, number: int) -> Row:
        """Return one trial."""
        if number in self._ended and number != self._resumed:
            return self._ended[number]
        trial = self._trial(number)
        notes = trial.user_attrs
        state: State = "finished" if self._later(number).get("finished") else notes.get("raydet_state", "waiting")
        runs, seconds = stages(self.setting, number), self.seconds(number)
        curve, epochs = read_curve(runs[-1], self.setting.score)
        donations = donations_of(runs)
        row = Row(
            number=number,
            state=state,
            params=donations[-1].after if donations else dict(trial.params),
            folder=runs[-1],
            curve=curve,
            epochs=epochs,
            since=donations[-1].epoch if donations else 0,
            spent=spent_epochs(runs, donations, self.setting.score) if donations else None,
            seconds=seconds,
            device_hours=seconds / 3600 * devices(self.setting),
            values=dict(notes.get("values") or {}),
            error=notes.get("error"),
        )
        if trial.state.is_finished() and "raydet_state" in notes:
            self._ended[number] = row
        return row

    def _trial(self, number: int) -> "FrozenTrial":
        return self.study.get_trials(deepcopy=False)[number - 1]

    def _asked(self) -> "list[FrozenTrial]":
        """Return all trials but points that wait to be tried."""
        from optuna.trial import TrialState

        return [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def _note(self, number: int, **values: Any) -> None:
        trial = open_trial(self.study, self._trial(number))
        for name, value in values.items():
            if value not in (None, {}):
                trial.set_user_attr(name, value)

    def _repair(self) -> None:
        """Put right what a kill left: values that were not all drawn; an end that did not reach the study."""
        for number in self.unfinished():
            frozen = self._trial(number)
            with quiet_optuna():
                draw_missing(open_trial(self.study, frozen), self._distributions)
            notes = frozen.user_attrs
            if "raydet_state" in notes:
                values = notes.get("values") or {}
                self.end(number, notes["raydet_state"], seconds=notes["seconds"], error=notes.get("error"), **values)


def _open_study(setting: Setting) -> "Study":
    import optuna

    study = optuna.create_study(
        storage=open_storage(setting.folder),
        study_name=setting.cfg.run.name,
        directions=setting.directions,
        load_if_exists=True,
    )
    study.set_metric_names([setting.score, *setting.objectives])
    return study


def enqueue(setting: Setting, study: "Study") -> None:
    """Have the default and the points that are known to be good tried first, unless they were."""
    for point in [*setting.space.points, *warm_points(setting)]:
        with quiet_optuna():
            study.enqueue_trial(point, skip_if_exists=True)


def distributions_of(setting: Setting) -> "dict[str, BaseDistribution]":
    """Return the space as Optuna has it."""
    from ray.tune.search.optuna import OptunaSearch

    return dict(OptunaSearch.convert_search_space(dict(setting.space.domains)))
