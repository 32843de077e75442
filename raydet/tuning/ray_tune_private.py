"""The private names of Ray Tune that a search needs, seen in ray 2.60.0; a test fails when one goes."""

from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.schedulers import ASHAScheduler


def make_trial(spec: Mapping[str, Any], name: str, params: Mapping[str, Any]) -> Trial:
    """Return one of Ray Tune's trials with an id of our own; its public searchers make up the ids."""
    return _create_trial_from_spec({**spec, "config": dict(params)}, _make_parser(), trial_id=name, experiment_tag=name)


def put_in_bracket(scheduler: ASHAScheduler, trial_id: str, index: int) -> None:
    """Give a trial its bracket; Ray draws one at random, and would draw another when a search continues."""
    scheduler._trial_info[trial_id] = scheduler._brackets[index]
