"""Names of Optuna's and Ray Tune's interior that a search uses: here it shows first when a new version lacks one."""

import optuna
from optuna.distributions import FloatDistribution
from ray.tune.registry import register_trainable

from raydet.tuning import ray_tune_private
from raydet.tuning.search.optuna_private import draw_missing, open_trial
from raydet.tuning.search.schedulers import Asha
from tests.tuning.search.test_schedulers import setting


def test_optuna_lets_a_trial_of_an_earlier_session_be_written_to() -> None:
    study = optuna.create_study()
    study.ask({"a": FloatDistribution(0, 1)})
    trial = open_trial(study, study.trials[0])
    trial.report(0.5, 1)
    draw_missing(trial, {"a": FloatDistribution(0, 1), "b": FloatDistribution(2, 3)})
    assert study.trials[0].intermediate_values == {1: 0.5} and 2 <= study.trials[0].params["b"] <= 3


def test_ray_tune_takes_a_trial_with_an_id_of_ours() -> None:
    register_trainable("a_trainable", lambda config: None)
    trial = ray_tune_private.make_trial({"run": "a_trainable"}, "0007", {"optim.lr": 0.1})
    assert (trial.trial_id, trial.config, trial.experiment_tag) == ("0007", {"optim.lr": 0.1}, "0007")


def test_ray_tune_s_asha_compares_a_trial_within_the_bracket_it_was_given() -> None:
    asha = Asha(setting(16, scheduler="hyperband"))
    ray_tune_private.put_in_bracket(asha, "0002", 1)
    assert asha._trial_info["0002"] is asha._brackets[1] and len(asha._brackets) == 3
