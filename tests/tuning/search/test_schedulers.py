"""Who goes on: ASHA with a memory of earlier sessions, PBT within the space's bounds."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raydet.config import override
from raydet.recipes import recipe
from raydet.tuning.search.schedulers import Asha, inside, make_pbt, make_scheduler, mutation
from raydet.tuning.settings import Setting, make_setting
from raydet.tuning.trials.folders import run_name
from tests.tuning.made import row_of

GO_ON, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def setting(epochs: int = 16, space: str | None = "lr", **told: Any) -> Setting:
    cfg = override(recipe("demo_classification"), {"schedule.epochs": epochs})
    return make_setting(cfg, space, **told)


def reported(asha: Asha, number: int, epoch: int, score: float) -> str:
    trial = SimpleNamespace(trial_id=run_name(number))
    if trial.trial_id not in asha._trial_info:
        asha.on_trial_add(None, trial)
    return asha.on_trial_result(None, trial, {"epoch": epoch, "score": score})


def test_of_those_that_reach_an_epoch_the_best_quarter_goes_on() -> None:
    asha = make_scheduler(setting())
    scores = random.Random(0).sample([0.5 + i / 100 for i in range(40)], 40)
    went = [i for i, score in enumerate(scores, 2) if reported(asha, i, 1, score) == GO_ON]
    assert 10 <= len(went) <= 16
    assert all(reported(asha, 100 + i, 1, 0.91 + i / 1000) == GO_ON for i in range(3))
    assert reported(asha, 200, 1, 0.6) == STOP


def test_trial_1_is_never_stopped_before_its_end() -> None:
    asha = make_scheduler(setting())
    for number in range(2, 12):
        reported(asha, number, 1, 0.9)
    assert reported(asha, 1, 1, 0.1) == GO_ON and reported(asha, 12, 1, 0.1) == STOP


def test_the_trials_of_an_earlier_session_are_remembered() -> None:
    rows = [row_of(n, "stopped", curve=((1, 0.8), (2, 0.7))) for n in range(2, 12)]
    assert reported(make_scheduler(setting(), rows), 20, 1, 0.7) == STOP
    assert reported(make_scheduler(setting()), 20, 1, 0.7) == GO_ON


def test_a_trial_taken_up_reports_its_old_epochs_again_and_is_judged_once() -> None:
    asha = make_scheduler(setting())
    assert reported(asha, 2, 1, 0.5) == GO_ON
    for number in range(3, 13):
        reported(asha, number, 1, 0.9)
    assert reported(asha, 2, 1, 0.5) == GO_ON


@pytest.mark.parametrize("epochs", [3, 5, 10, 40])
def test_trials_that_get_better_and_better_take_half_of_the_epochs(epochs: int) -> None:
    """The worst order for halving: each is the best of its rung."""
    asha = make_scheduler(setting(epochs, num_samples=16))
    ends = [trained_by(asha, number, epochs, score=number / 100) for number in range(1, 17)]
    assert ends[:2] == [epochs, epochs] and max(ends[8:]) > min(ends), "early ones go on, and some later ones do"
    kept = epochs - min(ends)  # for the best to go on at the end
    assert 0.35 * 16 * epochs < sum(ends) <= 0.5 * 16 * epochs - kept


def test_epochs_of_an_earlier_session_count() -> None:
    """A trial that went to its end has taken all that can be granted."""
    rows = [row_of(n, epochs=3, curve=((1, n / 10), (2, n / 10), (3, n / 10))) for n in (1, 2)]
    asha = make_scheduler(setting(3, num_samples=12), rows)
    assert trained_by(asha, 4, 3, score=0.9) == 1
    assert trained_by(make_scheduler(setting(3, num_samples=12)), 4, 3, score=0.9) == 3


def test_a_trial_that_was_interrupted_keeps_what_it_was_granted() -> None:
    late = row_of(2, "waiting", epochs=2, curve=((1, 0.8), (2, 0.8)))
    asha = make_scheduler(setting(3, num_samples=12), [late])
    assert trained_by(asha, 4, 3, score=0.9) == 2, "one of the two epochs that can be granted is gone"
    assert reported(asha, 2, 1, 0.95) == GO_ON and reported(asha, 3, 1, 0.96) == STOP


def trained_by(asha: Asha, number: int, epochs: int, score: float) -> int:
    """Return the epochs after which the trial is stopped or ends."""
    return next((epoch for epoch in range(1, epochs) if reported(asha, number, epoch, score) == STOP), epochs)


def test_no_early_stopping_is_no_early_stopping() -> None:
    assert isinstance(make_scheduler(setting(scheduler="none")), FIFOScheduler)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("optim.lr=loguniform(1e-4, 1e-2)", 0.012, 0.01),
        ("optim.lr=loguniform(1e-4, 1e-2)", 0.00008, 1e-4),
        ("optim.lr=loguniform(1e-4, 1e-2)", 0.005, 0.005),
        ("augment.autoaugment=choice(none, imagenet)", None, None),
        ("augment.hflip=quniform(0, 1, 0.5)", 1.2, 1.0),
    ],
)
def test_what_pbt_changes_stays_in_the_space(text: str, value: Any, expected: Any) -> None:
    found = setting(space=None, sets=[text])
    domain = found.space.domains[text.partition("=")[0]]
    assert inside(domain, value) == expected


def test_pbt_draws_choices_and_does_not_multiply_them() -> None:
    found = setting(space=None, sets=["augment.autoaugment=choice(none, imagenet)"])
    assert mutation(found.space.domains["augment.autoaugment"]) == [None, "imagenet"]


@pytest.mark.parametrize(("epochs", "interval"), [(3, 1), (10, 1), (50, 5), (300, 30)])
def test_pbt_changes_about_ten_times_in_a_run(epochs: int, interval: int, tmp_path: Path) -> None:
    pbt = make_pbt(setting(epochs, algorithm="pbt", num_samples=4))
    assert pbt._perturbation_interval == interval


def falls_out_at(found: Setting, epoch: int) -> bool:
    """Whether ASHA stops a trial that was the best until then and is the worst now."""
    asha = make_scheduler(found)
    assert isinstance(asha, Asha)
    for number in range(2, 12):
        for earlier in range(1, epoch + 1):
            reported(asha, number, earlier, 0.9)
    assert all(reported(asha, 77, earlier, 0.95) == GO_ON for earlier in range(1, epoch))
    return reported(asha, 77, epoch, 0.1) == STOP


@pytest.mark.parametrize("epochs", [2, 3, 4, 10, 16, 64])
def test_trials_are_compared_at_the_setting_s_rungs(epochs: int) -> None:
    found = setting(epochs, num_samples=200)
    assert tuple(epoch for epoch in range(1, epochs) if falls_out_at(found, epoch)) == tuple(
        rung for rung in found.rungs if rung < epochs
    )
