"""A search's study: what is proposed, what is known of a trial, and what a killed driver leaves of both."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from raydet.config import Config, override, to_dict
from raydet.recipes import recipe
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.settings import Setting, make_setting
from raydet.tuning.trials.folders import repeats_of, run_name


def new(tmp_path: Path, name: str = "search", **options: Any) -> Setting:
    changes = {"run.storage_path": str(tmp_path), "run.name": name, "run.seed": options.pop("seed", 42)}
    changes["schedule.epochs"] = options.pop("epochs", 3)
    setting = make_setting(override(recipe("demo_classification"), changes), options.pop("space", "lr_wd"), **options)
    setting.folder.mkdir(exist_ok=True)
    return setting


def evaluated(setting: Setting, number: int, *scores: float) -> None:
    """Write what the trial's run would have."""
    folder = setting.folder / "trials" / run_name(number)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"epoch": epoch, "step": epoch, "top1": score}) for epoch, score in enumerate(scores, 1)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


def asked(study: SearchStudy) -> dict[str, Any]:
    number = study.ask()
    assert number is not None
    return study.params(number)


def ran(setting: Setting, study: SearchStudy, score: float, **values: float) -> int:
    number = study.ask()
    assert number is not None
    evaluated(setting, number, score)
    study.end(number, "finished", seconds=1.0, **values)
    return number


def test_trial_1_is_the_default_and_there_are_no_more_than_wanted(tmp_path: Path) -> None:
    setting = new(tmp_path, num_samples=3)
    study = SearchStudy(setting)
    assert [study.ask() for _ in range(5)] == [1, 2, 3, None, None]
    assert study.params(1) == setting.space.points[0]
    assert study.params(2) != study.params(1)


def test_one_trial_at_a_time_one_seed_gives_the_same_points_whether_or_not_it_is_interrupted(tmp_path: Path) -> None:
    """Given the same results; past the ten points that TPE draws at random."""
    found = []
    for name, seed, interrupted in (("a", 1, False), ("b", 1, True), ("c", 2, False)):
        setting = new(tmp_path, name, seed=seed, space="wd", num_samples=13)
        study = SearchStudy(setting)
        for i in range(13):
            study = SearchStudy(setting) if interrupted else study
            ran(setting, study, 0.1 + i % 7 / 10)
        found.append([study.params(number) for number in range(1, 14)])
    assert found[0] == found[1] and found[0][1:] != found[2][1:]


@pytest.mark.parametrize("objectives", [[], ["size_mb"]])
def test_trials_side_by_side_are_not_given_the_same_points(tmp_path: Path, objectives: list[str]) -> None:
    """TPE, past its random points, with eight trials of which no result is known."""
    setting = new(tmp_path, space="lr", num_samples=20, objectives=objectives)
    study = SearchStudy(setting)
    for i in range(12):
        ran(setting, study, 0.9 if i == 5 else 0.1, **dict.fromkeys(objectives, float(i)))
    tried = [asked(study)["optim.lr"] for _ in range(8)]
    assert len(set(tried)) == 8 and max(tried) > 2 * min(tried)


@pytest.mark.slow
def test_a_better_region_is_searched_more_by_tpe(tmp_path: Path) -> None:
    setting = new(tmp_path, space="lr", num_samples=40)
    study, low, high = SearchStudy(setting), 1e-3, 2e-3
    for _ in range(40):
        number = study.ask()
        assert number is not None
        good = low < study.params(number)["optim.lr"] < high
        evaluated(setting, number, 0.9 if good else 0.1)
        study.end(number, "finished", seconds=1.0)
    tried = [study.params(number)["optim.lr"] for number in range(21, 41)]
    assert sum(low < lr < high for lr in tried) > 5  # by chance it would be 2


def test_a_diverged_trial_counts_as_score_0_and_a_failed_one_not_at_all(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    for state in ("diverged", "failed"):
        number = study.ask()
        assert number is not None
        study.end(number, state, seconds=1.0, error="why")  # type: ignore[arg-type]
    first, second = study.study.trials[:2]
    assert first.state == optuna.trial.TrialState.COMPLETE and first.value == 0.0
    assert second.state == optuna.trial.TrialState.FAIL and second.value is None
    assert [(row.state, row.score, row.error) for row in study.rows()] == [
        ("diverged", 0.0, "why"),
        ("failed", None, "why"),
    ]


def test_a_stopped_trial_is_pruned_with_what_it_had_reached(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    assert study.ask() == 1
    evaluated(setting, 1, 0.3, 0.2)
    study.report(1, 1, 0.3, 5.0)
    study.report(1, 2, 0.3, 9.0)
    study.end(1, "stopped", seconds=10.0)
    ended = study.study.trials[0]
    assert ended.state == optuna.trial.TrialState.PRUNED and ended.intermediate_values == {1: 0.3, 2: 0.3}
    row = study.rows()[0]
    assert (row.state, row.curve, row.epochs, row.score, row.seconds) == ("stopped", ((1, 0.3), (2, 0.2)), 2, 0.3, 10.0)


def test_further_objectives_are_recorded_of_finished_trials(tmp_path: Path) -> None:
    setting = new(tmp_path, objectives=["size_mb"])
    study = SearchStudy(setting)
    for number in (1, 2):
        assert study.ask() == number
        evaluated(setting, number, 0.5)
    study.end(1, "finished", seconds=1.0, size_mb=3.5)
    study.end(2, "diverged", seconds=1.0)
    assert study.study.trials[0].values == [0.5, 3.5]
    assert study.study.trials[1].state == optuna.trial.TrialState.FAIL
    assert study.rows()[0].values == {"size_mb": 3.5}


# --- a killed driver


def test_trials_under_way_are_known_to_be_unfinished(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    ran(setting, study, 0.5)
    params = asked(study)
    again = SearchStudy(setting)
    assert again.unfinished() == [2] and again.params(2) == params
    assert [row.state for row in again.rows()] == ["finished", "waiting"]


def test_a_proposal_that_was_only_half_drawn_is_drawn_to_its_end(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study, left = SearchStudy(setting), []
    for _ in range(2):
        study.ask()
        journal = setting.folder / "optuna.journal"
        lines = journal.read_text().splitlines(keepends=True)
        drawn = [i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 5]  # set_trial_param
        journal.write_text("".join(lines[: drawn[-2]]))
        left.append([json.loads(lines[i])["param_name"] for i in drawn[-5:-2]])
        before = study.params(len(left))
        study = SearchStudy(setting)
        assert all(study.params(len(left))[key] == before[key] for key in left[-1])
    assert study.params(1) == setting.space.points[0] and set(study.params(2)) == set(setting.space.keys)
    assert study.unfinished() == [1, 2] and len(left[0]) == 3


def test_an_end_that_was_noted_and_did_not_reach_optuna_is_repaired(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    ran(setting, study, 0.5)
    journal = setting.folder / "optuna.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # the end itself
    assert SearchStudy(setting).unfinished() == [] and SearchStudy(setting).study.trials[0].value == 0.5


def test_a_torn_line_and_a_lock_left_behind_do_no_harm(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    ran(setting, study, 0.5)
    journal = setting.folder / "optuna.journal"
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    journal.with_name("optuna.journal.lock").symlink_to(journal)
    study = SearchStudy(setting)
    assert study.ask() == 2 and SearchStudy(setting).unfinished() == [2]


def test_the_time_of_earlier_sessions_is_kept(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    study.ask()
    study.report(1, 1, 0.5, 12.34)
    study.spent(100.0)
    assert SearchStudy(setting).spent() == 100.0 and SearchStudy(setting).seconds(1) == 12.3


def test_of_pbt_only_what_came_after_the_last_takeover_counts(tmp_path: Path) -> None:
    setting = new(tmp_path, space="lr", algorithm="pbt", num_samples=2)
    study = SearchStudy(setting)
    assert study.ask() == 1
    evaluated(setting, 1, 0.1, 0.2, 0.3, 0.4)
    folder = setting.folder / "trials" / "0001-g1"
    folder.mkdir()
    donation = {"number": 1, "epoch": 2, "donor": 2, "before": {"optim.lr": 0.003}, "after": {"optim.lr": 0.001}}
    (folder / "donation.json").write_text(json.dumps(donation))
    lines = [json.dumps({"epoch": epoch, "step": epoch, "top1": s}) for epoch, s in enumerate((0.9, 0.9, 0.5), 1)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    row = study.rows()[0]
    assert (row.score, row.since, row.epochs, row.spent) == (0.5, 2, 3, 5) and row.params == {"optim.lr": 0.001}


def test_what_an_interrupted_trial_has_cost_is_kept(tmp_path: Path) -> None:
    setting = new(tmp_path)
    study = SearchStudy(setting)
    study.ask()
    study.keep(1, 33.3)
    assert SearchStudy(setting).rows()[0].seconds == 33.3


# --- from an earlier search


def test_the_best_points_of_an_earlier_search_are_tried_after_the_default(tmp_path: Path) -> None:
    earlier = new(tmp_path, "earlier", space="lr")
    study = SearchStudy(earlier)
    for i in range(10):
        ran(earlier, study, i / 10)
    best = [study.params(number)["optim.lr"] for number in (10, 9, 8, 7, 6)]
    setting = new(tmp_path, "later", warm_start=earlier.folder)
    tried = [asked(study) for study in [SearchStudy(setting)] for _ in range(6)]
    own = setting.space.points[0]
    assert tried == [own, *(own | {"optim.lr": lr} for lr in best)]


def test_points_outside_the_new_space_are_left_out(tmp_path: Path) -> None:
    earlier = new(tmp_path, "earlier", space="lr")
    study = SearchStudy(earlier)
    for i in range(10):
        ran(earlier, study, i / 10)
    setting = new(tmp_path, "later", space=None, sets=["optim.lr=uniform(0.00299, 0.00301)"], warm_start=earlier.folder)
    study = SearchStudy(setting)
    assert all(0.00299 <= asked(study)["optim.lr"] <= 0.00301 for _ in range(6))


# --- repeats


def test_repeats_are_read_from_their_folders(tmp_path: Path) -> None:
    setting = new(tmp_path)
    for number, seed, top1 in ((1, 43, 0.5), (7, 44, 0.6)):
        folder = setting.folder / "trials" / run_name(number, seed=seed)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"step": 1, "metrics": {"top1": top1}}))
    (setting.folder / "trials" / run_name(7, seed=45)).mkdir()  # has not ended
    assert [(r.number, r.seed, r.score) for r in repeats_of(setting)] == [(1, 43, 0.5), (7, 44, 0.6)]


def test_the_space_s_own_further_points_come_before_what_is_drawn(tmp_path: Path) -> None:
    cfg: Config = override(recipe("demo_classification"), {"run.storage_path": str(tmp_path), "optim.lr": 0.09})
    setting = make_setting(cfg, "lr")
    setting.folder.mkdir()
    study = SearchStudy(setting)
    assert [asked(study) for _ in setting.space.points] == setting.space.points
    assert len(setting.space.points) == 2 and to_dict(setting.cfg)["optim"]["lr"] == 0.09
