"""The record of a search: an Optuna study in the search's folder, and the trials' own run folders. Ray keeps nothing.

Ray Tune's own snapshots come every so often, so that a killed driver forgets trials; they are unpickled to be read; and
they leave out what the scheduler knew (ray 2.60). Optuna's journal has every proposal and every end as it happens, a
trial's metrics.jsonl every evaluation; a search that is taken up is put together from these.
"""

import threading
from typing import TYPE_CHECKING, Any

from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.search.sampler import draw
from raydet.tuning.search.storage import open_storage
from raydet.tuning.search.warm_start import warm_points
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import devices, donations_of, read_curve, spent_epochs, stages
from raydet.tuning.trials.rows import Row, State

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class Record:
    """One search's trials; used by the driver only."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.lock = threading.RLock()
        """What shows the search reads in another thread."""
        with quiet_optuna():
            self.study = _open_study(setting)
        self._distributions = distributions_of(setting)
        self._ended: dict[int, Row] = {}
        self._going_on: int | None = None
        self._mend()
        for point in [*setting.space.points, *warm_points(setting)]:
            with quiet_optuna():
                self.study.enqueue_trial(point, skip_if_exists=True)

    def propose(self, concurrent: int = 1) -> int | None:
        """Ask for a new trial and return its number; None if there are as many as are wanted.

        Args:
            concurrent: trials at a time; so many of the newest are not asked for what is known of them.
        """
        from optuna.trial import TrialState

        number = self.asked + 1
        if number > self.setting.num_samples:
            return None
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial(draw(self.setting, number, self.basis(concurrent), self._distributions))
        with quiet_optuna():
            trial = self.study.ask(self._distributions)
        return trial.number + 1

    def basis(self, concurrent: int) -> tuple[Row, ...]:
        """Return the trials that the next proposal rests on."""
        return tuple(self.row(number, frozenset()) for number in range(1, self.asked + 2 - concurrent))

    def unfinished(self) -> list[int]:
        """Return the numbers of the trials that were begun and have not ended."""
        from optuna.trial import TrialState

        return [t.number + 1 for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    @property
    def asked(self) -> int:
        """How many trials were proposed so far."""
        return len(self._asked())

    def complete(self) -> bool:
        """Whether there are as many trials as are wanted, and all have ended."""
        return self.asked >= self.setting.num_samples and not self.unfinished()

    def report(self, number: int, epoch: int, score: float, seconds: float) -> None:
        """Take down an evaluation; `seconds` is the trial's wall time so far, all sessions together."""
        from optuna.trial import Trial

        frozen = self._trial(number)
        if not self.setting.objectives and epoch not in frozen.intermediate_values:
            Trial(self.study, frozen._trial_id).report(score, epoch)
        self.keep(number, seconds)

    def keep(self, number: int, seconds: float) -> None:
        """Take down a trial's wall time so far, all sessions together."""
        self._note(number, seconds=round(seconds, 1))

    def end(self, number: int, state: State, *, seconds: float, error: str | None = None, **values: float) -> None:
        """Take down a trial's end. A diverged one counts as score 0, so that the search learns to keep away."""
        from optuna.trial import TrialState

        row = self.row(number, frozenset())
        self._note(number, seconds=round(seconds, 1), error=error, values=values, raydet_state=state)
        outcome, score = TrialState.COMPLETE, row.score
        if state == "diverged":
            score = 0.0
        if state == "failed" or score is None or (self.setting.objectives and state != "finished"):
            outcome, score = TrialState.FAIL, None
        elif state == "stopped":
            outcome = TrialState.PRUNED
        scores = None if score is None else [score, *(values[name] for name in self.setting.objectives)]
        with quiet_optuna():
            self.study.tell(
                number - 1, scores if outcome == TrialState.COMPLETE else None, outcome, skip_if_finished=True
            )

    def take_up(self, number: int) -> None:
        """Read a stopped trial's folder again from now on: it is trained to its end after all."""
        self._going_on = number

    def went_on(self, number: int, seconds: float, finished: bool) -> None:
        """Take down what it came to. With the study, for Optuna lets no trial change that has ended."""
        seconds += self._later(number).get("seconds", 0.0)
        self.study.set_user_attr(f"later_{number}", {"seconds": round(seconds, 1), "finished": finished})
        self._ended.pop(number, None)
        self._going_on = None

    def _later(self, number: int) -> dict[str, Any]:
        return dict(self.study.user_attrs.get(f"later_{number}", {}))

    def params(self, number: int) -> dict[str, Any]:
        """Return the values that the trial was proposed with, as the space has them; of PBT those it has now."""
        donations = donations_of(stages(self.setting, number))
        return donations[-1].after if donations else dict(self._trial(number).params)

    def seconds(self, number: int) -> float:
        """Return the trial's wall time so far."""
        return float(self._trial(number).user_attrs.get("seconds", 0.0))

    def spent(self, seconds: float | None = None) -> float:
        """Return the search's wall time in earlier sessions; first set it, if one is given."""
        if seconds is not None:
            self.study.set_user_attr("seconds", round(seconds, 1))
        return float(self.study.user_attrs.get("seconds", 0.0))

    def rows(self, live: frozenset[int] = frozenset()) -> tuple[Row, ...]:
        """Return all trials; those in `live` are on workers now."""
        return tuple(self.row(trial.number + 1, live) for trial in self._asked())

    def row(self, number: int, live: frozenset[int]) -> Row:
        """Return one trial."""
        if number in self._ended and number != self._going_on:
            return self._ended[number]
        trial, later = self._trial(number), self._later(number)
        notes = trial.user_attrs
        state: State = notes.get("raydet_state", "running" if number in live else "waiting")
        if later.get("finished"):
            state = "finished"
        runs, seconds = stages(self.setting, number), float(notes.get("seconds", 0.0)) + later.get("seconds", 0.0)
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
        trial_id = self._trial(number)._trial_id
        for name, value in values.items():
            if value not in (None, {}):
                self.study._storage.set_trial_user_attr(trial_id, name, value)

    def _mend(self) -> None:
        """Put right what a kill left: values that were not all drawn; an end that did not reach the study."""
        from optuna.trial import Trial

        for number in self.unfinished():
            frozen = self._trial(number)
            trial = Trial(self.study, frozen._trial_id)
            with quiet_optuna():
                for key in [key for key in self._distributions if key not in frozen.params]:
                    trial._suggest(key, self._distributions[key])  # what `ask` does for each; it was noted before
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


def distributions_of(setting: Setting) -> "dict[str, BaseDistribution]":
    """Return the space as Optuna has it."""
    from ray.tune.search.optuna import OptunaSearch

    return dict(OptunaSearch.convert_search_space(dict(setting.space.domains)))
