"""Who decides which trials continue: Ray Tune's ASHA, with one bracket or several (hyperband), and PBT."""

import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Categorical, Domain, Integer

from raydet.search_spaces.domains import bounds
from raydet.tuning.ray_tune_private import put_in_bracket
from raydet.tuning.settings import REDUCTION, Setting
from raydet.tuning.trials.folders import run_name
from raydet.tuning.trials.rows import Row


def make_scheduler(setting: Setting, rows: Sequence[Row] = ()) -> TrialScheduler:
    """Return the scheduler.

    Args:
        rows: trials of earlier sessions that have ended; ASHA compares new ones with them.
    """
    if setting.algorithm == "pbt":
        return make_pbt(setting)
    if setting.scheduler == "none":
        return FIFOScheduler()
    asha = Asha(setting)
    for row in rows:
        asha.replay(row)
    return asha


class Asha(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (arXiv:1810.05934) that never stops trial 1, with which all others are compared.

    Hyperband (arXiv:1603.06560) is the same with several brackets: each further one compares its trials later by the
    reduction, and gets fewer of them by as much. A trial's bracket follows from its number.
    """

    def __init__(self, setting: Setting) -> None:
        self._shares = [REDUCTION**-bracket for bracket in range(setting.brackets)]
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=setting.total_epochs,
            grace_period=setting.grace_epochs,
            reduction_factor=REDUCTION,
            brackets=setting.brackets,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give the trial its bracket."""
        (bracket,) = random.Random(trial.trial_id).choices(range(len(self._shares)), self._shares)
        put_in_bracket(self, trial.trial_id, bracket)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Return whether the trial continues."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.CONTINUE) if trial.trial_id == run_name(1) else decision

    def replay(self, row: Row) -> None:
        """Repeat what a trial of an earlier session reported: Ray keeps no scheduler's memory for the next."""
        trial, best = SimpleNamespace(trial_id=run_name(row.number)), 0.0
        self.on_trial_add(None, trial)
        for epoch, score in row.curve:
            best = max(best, score)
            self.on_trial_result(None, trial, {"epoch": epoch, "score": best})


def make_pbt(setting: Setting) -> PopulationBasedTraining:
    """Return population based training (arXiv:1711.09846): the worst quarter continues from the best's weights."""
    domains = setting.space.domains
    few = setting.num_samples < 4
    return PopulationBasedTraining(
        time_attr="epoch",
        metric="score",
        mode="max",
        perturbation_interval=setting.interval_epochs,
        burn_in_period=setting.grace_epochs,
        hyperparam_mutations={key: mutation(domain) for key, domain in domains.items()},
        quantile_fraction=0.5 if few else 0.25,
        custom_explore_fn=lambda values: {**values, **{key: inside(domains[key], values[key]) for key in domains}},
        log_config=False,
    )


def mutation(domain: Domain) -> Any:
    """Return what PBT draws from; a choice as a list, or its values would be multiplied."""
    return list(domain.categories) if isinstance(domain, Categorical) else domain


def inside(domain: Domain, value: Any) -> Any:
    """Return the value of the domain that is nearest: PBT multiplies by 0.8 and 1.2, whatever the bounds are."""
    if isinstance(domain, Categorical):
        return value
    low, high = bounds(domain)
    value = min(max(value, low), high)
    return round(value) if isinstance(domain, Integer) else float(value)
