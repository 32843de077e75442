"""Who decides which trials go on: Ray Tune's ASHA and PBT, made from a Setting."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Categorical, Domain, Integer

from raydet.search_spaces.domains import bounds
from raydet.tuning.search.allowance import Allowance
from raydet.tuning.settings import Setting
from raydet.tuning.trials.folders import run_name
from raydet.tuning.trials.rows import Row


def make_scheduler(setting: Setting, rows: Sequence[Row] = ()) -> TrialScheduler:
    """Return the scheduler.

    Args:
        rows: trials of an earlier session; ASHA compares with those that have ended, and all have had their epochs.
    """
    if setting.algorithm == "pbt":
        return make_pbt(setting)
    if setting.scheduler == "none":
        return FIFOScheduler()
    asha = Asha(setting)
    for row in rows:
        asha.allowance.spent(row.number, row.epochs)
        if row.state != "waiting":
            replay(asha, row)
    return asha


class Asha(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (arXiv:1810.05934), in the form that stops; trial 1 is never stopped.

    Trial 1 is what all others are compared with at the end, so it must get there. In Ray's the share that goes on also
    says how far apart rungs are: of 3 epochs only the first would be one. So its clock runs faster in short trials.
    And it says nothing of how many epochs that takes; an `Allowance` does.
    """

    def __init__(self, setting: Setting) -> None:
        self._grace, reduction = setting.grace_epochs, setting.reduction
        self._haste = math.log(reduction) / math.log(setting.spacing)
        last = max(1.0, self._time(setting.total_epochs))
        super().__init__("time", "score", "max", max_t=last, grace_period=1, reduction_factor=reduction)
        self.allowance = Allowance(setting.num_samples, setting.total_epochs, setting.rungs)

    def _time(self, epoch: float) -> float:
        """Return the time that grows by the reduction from rung to rung, from 1 at the first."""
        return float((epoch / self._grace) ** self._haste + 1e-9)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Count the trial."""
        self.allowance.started(int(trial.trial_id))
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Return whether the trial goes on."""
        result = {**result, "time": self._time(result["epoch"])}
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if trial.trial_id == run_name(1) and not result.get("done"):
            return str(TrialScheduler.CONTINUE)
        if decision == TrialScheduler.CONTINUE and not self.allowance.grant(int(trial.trial_id), result["epoch"]):
            return str(TrialScheduler.STOP)
        return decision


def replay(asha: Asha, row: Row) -> None:
    """Tell ASHA what a trial of an earlier session has reached: Ray restores a scheduler without its memory."""
    trial, best = SimpleNamespace(trial_id=run_name(row.number)), 0.0
    asha.on_trial_add(None, trial)
    for epoch, score in row.curve:
        best = max(best, score)
        asha.on_trial_result(None, trial, {"epoch": epoch, "score": best})


def make_pbt(setting: Setting) -> PopulationBasedTraining:
    """Return population based training (arXiv:1711.09846): the worst quarter goes on from the best, values changed."""
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
