"""Which trials continue: ASHA and hyperband with a memory of earlier sessions, PBT within the space's bounds."""

import random
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

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def setting(epochs: int = 16, space: str | None = "lr", **options: Any) -> Setting:
    cfg = override(recipe("demo_classification"), {"schedule.epochs": epochs})
    return make_setting(cfg, space, **options)


def reported(asha: Asha, number: int, epoch: int, score: float) -> str:
    trial = SimpleNamespace(trial_id=run_name(number))
    if trial.trial_id not in asha._trial_info:
        asha.on_trial_add(None, trial)
    return asha.on_trial_result(None, trial, {"epoch": epoch, "score": score})


def test_of_those_that_reach_an_epoch_the_best_quarter_continues() -> None:
    asha = make_scheduler(setting())
    scores = random.Random(0).sample([0.5 + i / 100 for i in range(40)], 40)
    continued = [i for i, score in enumerate(scores, 2) if reported(asha, i, 1, score) == CONTINUE]
    assert 10 <= len(continued) <= 16
    assert all(reported(asha, 100 + i, 1, 0.91 + i / 1000) == CONTINUE for i in range(3))
    assert reported(asha, 200, 1, 0.6) == STOP


def test_trial_1_is_never_stopped() -> None:
    asha = make_scheduler(setting())
    for number in range(2, 12):
        reported(asha, number, 1, 0.9)
    assert [reported(asha, 1, epoch, 0.1) for epoch in range(1, 17)] == [CONTINUE] * 16
    assert reported(asha, 12, 1, 0.1) == STOP


def test_the_trials_of_an_earlier_session_are_remembered() -> None:
    rows = [row_of(n, "stopped", curve=((1, 0.8), (2, 0.7))) for n in range(2, 12)]
    assert reported(make_scheduler(setting(), rows), 20, 1, 0.7) == STOP
    assert reported(make_scheduler(setting()), 20, 1, 0.7) == CONTINUE


def test_a_trial_that_resumes_reports_its_old_epochs_again_and_is_judged_once() -> None:
    asha = make_scheduler(setting())
    assert reported(asha, 2, 1, 0.5) == CONTINUE
    for number in range(3, 13):
        reported(asha, number, 1, 0.9)
    assert reported(asha, 2, 1, 0.5) == CONTINUE


@pytest.mark.parametrize("epochs", [2, 17])
def test_trials_are_compared_at_the_setting_s_rungs(epochs: int) -> None:
    found = setting(epochs)
    stopped_at = []
    for epoch in range(1, epochs):
        asha = make_scheduler(found)
        for number in range(2, 12):
            for earlier in range(1, epoch + 1):
                reported(asha, number, earlier, 0.9)
        assert all(reported(asha, 77, earlier, 0.95) == CONTINUE for earlier in range(1, epoch))
        stopped_at += [epoch] if reported(asha, 77, epoch, 0.1) == STOP else []
    assert tuple(stopped_at) == found.rungs


def test_hyperband_gives_some_trials_longer_and_a_trial_the_same_bracket_in_each_session() -> None:
    """Of 16 epochs: compared after 1 and 4, after 4, never; each with a quarter of the trials of the one before."""

    def stopped_at(number: int, asha: Asha) -> int | None:
        return next((epoch for epoch in range(1, 16) if reported(asha, number, epoch, 0.1) == STOP), None)

    sessions = []
    for rows in ([], [row_of(n, "stopped", curve=tuple((e, 0.9) for e in range(1, 16))) for n in range(2, 99)]):
        asha = make_scheduler(setting(scheduler="hyperband"), rows)
        for number in range(2, 99):
            for epoch in range(1, 16):
                reported(asha, number, epoch, 0.9)
        sessions.append([stopped_at(number, asha) for number in range(100, 300)])
    assert sessions[0] == sessions[1]
    counts = [sessions[0].count(epoch) for epoch in (1, 4, None)]
    assert sum(counts) == 200 and 130 < counts[0] < 170 and 20 < counts[1] < 60 and 2 < counts[2] < 25


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


@pytest.mark.parametrize(("epochs", "interval"), [(3, 1), (300, 30)])
def test_pbt_changes_about_ten_times_in_a_run(epochs: int, interval: int) -> None:
    pbt = make_pbt(setting(epochs, algorithm="pbt", num_samples=4))
    assert pbt._perturbation_interval == interval
