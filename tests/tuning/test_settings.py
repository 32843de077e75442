"""A search's settings before Ray starts: what is refused, what it is called, what may change when it is repeated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raydet.config import Config, override
from raydet.exceptions import ConfigError
from raydet.recipes import recipe
from raydet.tuning.settings import Setting, make_setting, write_identity


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return override(recipe("demo_classification"), {"run.storage_path": str(tmp_path / "runs")})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"algorithm": "tpee"}, "algorithm must be one of tpe, random, pbt, got 'tpee'; did you mean tpe?"),
        ({"scheduler": "median"}, "scheduler must be one of asha, hyperband, none"),
        ({"objectives": ["latency"]}, "did you mean latency_ms?"),
        ({"num_samples": 0}, "num_samples must be a whole number from 1, got 0"),
        ({"confirm": -1}, "confirm must be a whole number from 0"),
        ({"concurrent": 0}, "concurrent must be a whole number from 1"),
        ({"patience": True}, "patience must be a whole number"),
        ({"warm_start": "/nowhere"}, "warm_start=/nowhere: no search lies there"),
        ({"algorithm": "pbt", "num_samples": 1}, "population of at least 2"),
        ({"algorithm": "pbt", "objectives": ["size_mb"]}, "pbt follows one score"),
        ({"sets": ["optim.lrr=uniform(0, 1)"]}, "did you mean optim.lr"),
        ({"sets": ["optim.lr=uniform(0.1, 1)"]}, "optim.lr is 0.003 in this configuration, which is trial 1"),
    ],
)
def test_what_cannot_be_is_refused(cfg: Config, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_setting(cfg, "lr", **options)
    assert why in str(caught.value)


@pytest.mark.parametrize("text", ["optim.name=choice(adamw, sgd)", "schedule.epochs=randint(2, 5)"])
def test_pbt_refuses_what_cannot_change_in_the_middle_of_a_run(cfg: Config, text: str) -> None:
    key = text.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{key} cannot change there"):
        make_setting(cfg, None, [text], algorithm="pbt", num_samples=4)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cfg": "demo_classification"}, "tune needs a Config, e.g. raydet.recipe('demo_classification')"),
        ({"space": 3}, "space must be a name, a file or a dict"),
        ({"algorithm": None}, "algorithm must be one of"),
        ({"space": {"optim.lr": 0.1}}, "optim.lr is 0.1, not one of tune's"),
        ({"space": {"optim": {"lr": 0.1}}}, "nested; write one key, optim.lr"),
    ],
)
def test_what_python_gives_wrong_is_refused_too(cfg: Config, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_setting(**{"cfg": cfg, "space": "lr", **options})
    assert why in str(caught.value)


def test_a_space_may_be_a_dict_and_one_range_or_objective_a_text(cfg: Config) -> None:
    found = make_setting(
        cfg, {"optim.lr": tune.loguniform(1e-3, 1e-1)}, "ema.decay=uniform(0.5, 1)", objectives="size_mb"
    )
    assert found.space.keys == ["optim.lr", "ema.decay"] and found.objectives == ("size_mb",)


def test_trials_need_ray(cfg: Config) -> None:
    with pytest.raises(ConfigError, match="num_workers=0 trains without Ray"):
        make_setting(override(cfg, {"scaling.num_workers": 0}), "lr")


def test_a_search_does_not_lie_where_the_run_of_its_recipe_does(cfg: Config, tmp_path: Path) -> None:
    assert make_setting(cfg, "lr").folder == tmp_path / "runs" / "demo_classification-lr"


def test_a_name_that_was_given_stays(cfg: Config, tmp_path: Path) -> None:
    assert make_setting(override(cfg, {"run.name": "mine"}), "lr").folder == tmp_path / "runs" / "mine"


def test_a_trial_has_its_values_its_name_and_its_place(cfg: Config, tmp_path: Path) -> None:
    setting = make_setting(cfg, None, ["augment.crop_area=choice([0.7, 1.0], [0.5, 1.0])"])
    trial = setting.trial("0003", {"augment.crop_area": "0.5,1.0"}, seed=7)
    assert trial.augment.crop_area == (0.5, 1.0) and trial.run.seed == 7
    assert Path(trial.run.storage_path) / trial.run.name == setting.folder / "trials" / "0003"


def test_the_first_trial_is_the_configuration_itself(cfg: Config) -> None:
    setting = make_setting(cfg, "lr_wd")
    place = {"run.name": "0001", "run.storage_path": str(setting.folder / "trials")}
    assert setting.trial("0001", setting.space.points[0]) == override(setting.cfg, place)


@pytest.mark.parametrize(
    ("epochs", "warmup", "eval_after", "grace"),
    [(3, 0.15, 0, 1), (300, 4.5, 0, 5), (10, 1, 6, 6), (2, 5, 0, 2)],
)
def test_no_trial_is_stopped_in_its_warm_up_or_before_it_is_scored(
    cfg: Config, epochs: int, warmup: float, eval_after: int, grace: int
) -> None:
    changes = {"schedule.epochs": epochs, "schedule.warmup_epochs": warmup, "run.eval_after": eval_after}
    assert make_setting(override(cfg, changes), "wd").grace_epochs == grace


@pytest.mark.parametrize(
    ("epochs", "scheduler", "rungs", "brackets"),
    [(1, "asha", (), 1), (3, "asha", (1,), 1), (64, "asha", (1, 4, 16), 1), (64, "hyperband", (1, 4, 16), 4)],
)
def test_the_next_rung_is_four_times_later_and_hyperband_s_next_bracket_starts_there(
    cfg: Config, epochs: int, scheduler: str, rungs: tuple[int, ...], brackets: int
) -> None:
    found = make_setting(override(cfg, {"schedule.epochs": epochs}), "wd", scheduler=scheduler)
    assert (found.rungs, found.brackets) == (rungs, brackets)


def test_the_longest_trial_counts_where_epochs_are_searched(cfg: Config) -> None:
    assert make_setting(cfg, None, ["schedule.epochs=randint(2, 9)"]).total_epochs == 8


def test_further_objectives_and_pbt_switch_early_stopping_off(cfg: Config) -> None:
    assert make_setting(cfg, "lr", objectives=["size_mb"]).scheduler == "none"
    assert make_setting(cfg, "lr", algorithm="pbt").scheduler == "none"
    assert make_setting(cfg, "lr").scheduler == "asha"


# --- the same search again


@pytest.fixture
def known(cfg: Config) -> Callable[..., Setting]:
    def make(changes: dict[str, Any] | None = None, **options: Any) -> Setting:
        setting = make_setting(override(cfg, changes or {}), options.pop("space", "lr"), **options)
        setting.folder.mkdir(parents=True, exist_ok=True)
        write_identity(setting)
        return setting

    return make


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 50},
        {"concurrent": 1, "confirm": 2, "patience": 3, "budget_s": 60.0},
        {"changes": {"scaling.num_workers": 2, "data.workers": 0, "run.max_failures": 9}},
    ],
)
def test_what_changes_no_trial_may_be_given_again(known: Callable[..., Setting], options: dict[str, Any]) -> None:
    known()
    known(**options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"changes": {"optim.weight_decay": 0.5}}, "optim.weight_decay was 0.01, now 0.5"),
        ({"changes": {"run.seed": 1}}, "run.seed was 42, now 1"),
        ({"sets": ["ema.decay=uniform(0.5, 0.999)"]}, "ema.decay was not searched, now uniform(0.5, 0.999)"),
        ({"algorithm": "random"}, "algorithm was tpe, now random"),
        ({"scheduler": "none"}, "scheduler was asha, now none"),
    ],
)
def test_another_search_under_the_same_name_is_refused(
    known: Callable[..., Setting], options: dict[str, Any], why: str
) -> None:
    known({"run.name": "one"})
    with pytest.raises(ConfigError) as caught:
        known({"run.name": "one", **options.pop("changes", {})}, **options)
    assert why in str(caught.value) and "run.name=one is another search" in str(caught.value)


def test_a_folder_of_something_else_is_refused(cfg: Config, tmp_path: Path) -> None:
    setting = make_setting(cfg, "lr")
    setting.folder.mkdir(parents=True)
    (setting.folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="exists and is not a search"):
        write_identity(setting)
