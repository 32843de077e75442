"""A search's record: what is proposed, what is known of a trial, and what a killed driver leaves of both."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from raydet.config import Config, override, to_dict
from raydet.recipes import recipe
from raydet.tuning.search.study import Record
from raydet.tuning.settings import Setting, make_setting
from raydet.tuning.trials.folders import repeats_of, run_name


def new(tmp_path: Path, name: str = "search", **told: Any) -> Setting:
    changes = {"run.storage_path": str(tmp_path), "run.name": name, "run.seed": told.pop("seed", 42)}
    changes["schedule.epochs"] = told.pop("epochs", 3)
    setting = make_setting(override(recipe("demo_classification"), changes), told.pop("space", "lr_wd"), **told)
    setting.folder.mkdir(exist_ok=True)
    return setting


def evaluated(setting: Setting, number: int, *scores: float) -> None:
    """Write what the trial's run would have."""
    folder = setting.folder / "trials" / run_name(number)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"epoch": epoch, "step": epoch, "top1": score}) for epoch, score in enumerate(scores, 1)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


def proposed(record: Record) -> dict[str, Any]:
    number = record.propose()
    assert number is not None
    return record.params(number)


def ran(setting: Setting, record: Record, score: float) -> int:
    number = record.propose()
    assert number is not None
    evaluated(setting, number, score)
    record.end(number, "finished", seconds=1.0)
    return number


def test_trial_1_is_the_default_and_there_are_no_more_than_wanted(tmp_path: Path) -> None:
    setting = new(tmp_path, num_samples=3)
    record = Record(setting)
    assert [record.propose() for _ in range(5)] == [1, 2, 3, None, None]
    assert record.params(1) == setting.space.points[0]
    assert record.params(2) != record.params(1)


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_two_searches_with_one_seed_propose_the_same_points(tmp_path: Path, algorithm: str) -> None:
    """Given the same results; well past the ten points that TPE draws at random."""
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        setting = new(tmp_path, name, seed=seed, algorithm=algorithm, num_samples=16)
        record = Record(setting)
        for i in range(16):
            ran(setting, record, 0.1 + i % 7 / 10)
        found.append([record.params(number) for number in range(1, 17)])
    assert found[0] == found[1] and found[0][1:] != found[2][1:]


def test_a_search_taken_up_proposes_what_it_would_have_proposed(tmp_path: Path) -> None:
    whole, broken = new(tmp_path, "whole", num_samples=14), new(tmp_path, "broken", num_samples=14)
    record = Record(whole)
    expected = [record.params(ran(whole, record, 0.5)) for _ in range(14)]
    seen = []
    for _ in range(14):  # a new process for each
        record = Record(broken)
        seen.append(record.params(ran(broken, record, 0.5)))
    assert seen == expected


def test_a_better_region_is_searched_more_by_tpe(tmp_path: Path) -> None:
    setting = new(tmp_path, space="lr", num_samples=60)
    record, low, high = Record(setting), 1e-3, 2e-3
    for _ in range(60):
        number = record.propose()
        assert number is not None
        good = low < record.params(number)["optim.lr"] < high
        evaluated(setting, number, 0.9 if good else 0.1)
        record.end(number, "finished", seconds=1.0)
    tried = [record.params(number)["optim.lr"] for number in range(31, 61)]
    assert sum(low < lr < high for lr in tried) > 8  # by chance it would be 3


def test_a_diverged_trial_counts_as_score_0_and_a_failed_one_not_at_all(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    for state in ("diverged", "failed"):
        number = record.propose()
        assert number is not None
        record.end(number, state, seconds=1.0, error="why")  # type: ignore[arg-type]
    first, second = record.study.trials[:2]
    assert first.state == optuna.trial.TrialState.COMPLETE and first.value == 0.0
    assert second.state == optuna.trial.TrialState.FAIL and second.value is None
    assert [(row.state, row.score, row.error) for row in record.rows()] == [
        ("diverged", 0.0, "why"),
        ("failed", None, "why"),
    ]


def test_a_stopped_trial_is_pruned_with_what_it_had_reached(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    assert record.propose() == 1
    evaluated(setting, 1, 0.3, 0.2)
    record.report(1, 1, 0.3, 5.0)
    record.report(1, 2, 0.3, 9.0)
    record.end(1, "stopped", seconds=10.0)
    told = record.study.trials[0]
    assert told.state == optuna.trial.TrialState.PRUNED and told.intermediate_values == {1: 0.3, 2: 0.3}
    row = record.rows()[0]
    assert (row.state, row.curve, row.epochs, row.score, row.seconds) == ("stopped", ((1, 0.3), (2, 0.2)), 2, 0.3, 10.0)


def test_further_objectives_are_told_of_finished_trials(tmp_path: Path) -> None:
    setting = new(tmp_path, objectives=["size_mb"])
    record = Record(setting)
    for number in (1, 2):
        assert record.propose() == number
        evaluated(setting, number, 0.5)
    record.end(1, "finished", seconds=1.0, size_mb=3.5)
    record.end(2, "diverged", seconds=1.0)
    assert record.study.trials[0].values == [0.5, 3.5]
    assert record.study.trials[1].state == optuna.trial.TrialState.FAIL
    assert record.rows()[0].values == {"size_mb": 3.5}


# --- a killed driver


def test_trials_under_way_are_known_to_be_unfinished(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    ran(setting, record, 0.5)
    params = proposed(record)
    again = Record(setting)
    assert again.unfinished() == [2] and again.params(2) == params
    assert [row.state for row in again.rows()] == ["finished", "waiting"]
    assert [row.state for row in again.rows(frozenset({2}))] == ["finished", "running"]


def test_a_proposal_that_was_only_half_drawn_is_drawn_to_its_end(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record, left = Record(setting), []
    for _ in range(2):
        record.propose()
        journal = setting.folder / "optuna.journal"
        lines = journal.read_text().splitlines(keepends=True)
        drawn = [i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 5]  # set_trial_param
        journal.write_text("".join(lines[: drawn[-2]]))
        left.append([json.loads(lines[i])["param_name"] for i in drawn[-5:-2]])
        before = record.params(len(left))
        record = Record(setting)
        assert all(record.params(len(left))[key] == before[key] for key in left[-1])
    assert record.params(1) == setting.space.points[0] and set(record.params(2)) == set(setting.space.keys)
    assert record.unfinished() == [1, 2] and len(left[0]) == 3


def test_an_end_that_was_noted_and_not_told_is_told(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    ran(setting, record, 0.5)
    journal = setting.folder / "optuna.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # the end itself
    assert Record(setting).unfinished() == [] and Record(setting).study.trials[0].value == 0.5


def test_a_torn_line_and_a_lock_left_behind_do_no_harm(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    ran(setting, record, 0.5)
    journal = setting.folder / "optuna.journal"
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    journal.with_name("optuna.journal.lock").symlink_to(journal)
    record = Record(setting)
    assert record.propose() == 2 and Record(setting).unfinished() == [2]


def test_the_time_of_earlier_sessions_is_kept(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    record.propose()
    record.report(1, 1, 0.5, 12.34)
    record.spent(100.0)
    assert Record(setting).spent() == 100.0 and Record(setting).seconds(1) == 12.3


def test_of_pbt_only_what_came_after_the_last_takeover_counts(tmp_path: Path) -> None:
    setting = new(tmp_path, space="lr", algorithm="pbt", num_samples=2)
    record = Record(setting)
    assert record.propose() == 1
    evaluated(setting, 1, 0.1, 0.2, 0.3, 0.4)
    folder = setting.folder / "trials" / "0001-g1"
    folder.mkdir()
    told = {"number": 1, "epoch": 2, "donor": 2, "before": {"optim.lr": 0.003}, "after": {"optim.lr": 0.001}}
    (folder / "donation.json").write_text(json.dumps(told))
    lines = [json.dumps({"epoch": epoch, "step": epoch, "top1": s}) for epoch, s in enumerate((0.9, 0.9, 0.5), 1)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    row = record.rows()[0]
    assert (row.score, row.since, row.epochs, row.spent) == (0.5, 2, 3, 5) and row.params == {"optim.lr": 0.001}


def test_what_an_interrupted_trial_has_cost_is_kept(tmp_path: Path) -> None:
    setting = new(tmp_path)
    record = Record(setting)
    record.propose()
    record.keep(1, 33.3)
    assert Record(setting).rows()[0].seconds == 33.3


# --- from an earlier search


def test_the_best_points_of_an_earlier_search_are_tried_after_the_default(tmp_path: Path) -> None:
    earlier = new(tmp_path, "earlier", space="lr")
    record = Record(earlier)
    for i in range(10):
        ran(earlier, record, i / 10)
    best = [record.params(number)["optim.lr"] for number in (10, 9, 8, 7, 6)]
    setting = new(tmp_path, "later", warm_start=earlier.folder)
    tried = [proposed(record) for record in [Record(setting)] for _ in range(6)]
    own = setting.space.points[0]
    assert tried == [own, *(own | {"optim.lr": lr} for lr in best)]


def test_points_outside_the_new_space_are_left_out(tmp_path: Path) -> None:
    earlier = new(tmp_path, "earlier", space="lr")
    record = Record(earlier)
    for i in range(10):
        ran(earlier, record, i / 10)
    setting = new(tmp_path, "later", space=None, sets=["optim.lr=uniform(0.00299, 0.00301)"], warm_start=earlier.folder)
    record = Record(setting)
    assert all(0.00299 <= proposed(record)["optim.lr"] <= 0.00301 for _ in range(6))


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
    record = Record(setting)
    assert [proposed(record) for _ in setting.space.points] == setting.space.points
    assert len(setting.space.points) == 2 and to_dict(setting.cfg)["optim"]["lr"] == 0.09
