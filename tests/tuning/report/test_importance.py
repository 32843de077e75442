"""Importance: what matters comes first, nothing is said of nothing, and nobody's logging is changed."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from raydet.tuning.report.importance import beyond_chance, importances, reservations
from raydet.tuning.trials.rows import Search
from tests.tuning.made import made, population


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return made(tmp_path_factory.mktemp("search") / "mine", 40)


def test_the_key_that_decides_comes_first(many: Search) -> None:
    shares = importances(many)
    assert next(iter(shares)) == "optim.lr" and shares["optim.lr"] > 0.5


def test_shares_add_up_to_one_the_largest_first(many: Search) -> None:
    shares = importances(many)
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert set(shares) == set(many.space.keys)


@pytest.mark.slow
def test_a_key_that_decides_is_told_apart_from_chance_and_few_others_are(many: Search) -> None:
    found = beyond_chance(many)
    assert "optim.lr" in found and len(found) <= 2
    assert found == beyond_chance(many)


@pytest.mark.slow
def test_where_nothing_but_chance_is_at_work_hardly_a_key_is_named(many: Search) -> None:
    draw, named = random.Random(0), 0
    for _ in range(2):
        rows = tuple(replace(row, state="finished", curve=((10, draw.random()),)) for row in many.rows)
        named += len(beyond_chance(replace(many, rows=rows)))
    assert named <= 3  # of 10; one in twenty is expected, more than 3 come by chance in 0.1 %


def test_shares_are_the_same_each_time(many: Search) -> None:
    assert list(importances(many).items()) == list(importances(many).items())


@pytest.mark.parametrize("trials", [0, 1, 3])
def test_of_few_trials_nothing_is_said(many: Search, trials: int) -> None:
    assert importances(replace(many, rows=many.rows[:trials])) == {}
    assert beyond_chance(replace(many, rows=many.rows[:trials])) == set()


@pytest.mark.parametrize("state", ["failed", "waiting", "running"])
def test_trials_that_tell_nothing_yet_do_not_count(many: Search, state: str) -> None:
    rows = tuple(replace(row, state=state) for row in many.rows)
    assert importances(replace(many, rows=rows)) == {}
    assert importances(replace(many, rows=many.rows[:20] + rows[20:])) == importances(
        replace(many, rows=many.rows[:20])
    )


def test_where_all_scores_are_equal_nothing_is_said(many: Search) -> None:
    rows = tuple(replace(row, state="finished", curve=((1, 0.5),)) for row in many.rows)
    assert importances(replace(many, rows=rows)) == {}
    assert beyond_chance(replace(many, rows=rows)) == set()


def test_of_values_that_change_on_the_way_nothing_is_said(tmp_path: Path) -> None:
    assert importances(population(tmp_path / "mine", 8)) == {}


@pytest.mark.parametrize(("trials", "said"), [(4, True), (19, True), (20, False), (40, False)])
def test_below_twenty_trials_it_is_said_that_they_tell_little(many: Search, trials: int, said: bool) -> None:
    rows = tuple(replace(row, state="finished", curve=((10, 0.5),)) for row in many.rows[:trials])
    few = [f"Only {trials} trials can be compared: below 20 the shares tell little."]
    assert reservations(replace(many, rows=rows)) == (few if said else [])


def test_scores_of_trials_stopped_on_the_way_are_said_to_be_mixed_with_the_others(many: Search) -> None:
    stopped = sum(row.state == "stopped" for row in many.rows)
    ran = sum(row.state in ("finished", "stopped", "diverged") for row in many.rows)
    (said,) = reservations(many)
    assert said.startswith(f"{stopped} of the {ran} trials compared were stopped early") and "starts slowly" in said


def test_where_nothing_is_said_nothing_is_reserved(many: Search) -> None:
    assert reservations(replace(many, rows=many.rows[:3])) == reservations(replace(many, rows=())) == []


def test_all_kinds_of_values_can_be_compared(tmp_path: Path) -> None:
    sets = [
        "ema.decay=choice(None, 0.99)",
        "optim.decay_bn=choice(True, False)",
        "augment.crop_area=choice('0.08,1.0', '0.7,1.0')",
        "schedule.warmup_epochs=quniform(0, 3, 0.05)",
        "data.batch_size=lograndint(1, 4096)",
        "optim.lr=loguniform(1e-12, 10)",
    ]
    search = made(tmp_path / "mine", 30, space=None, sets=sets)
    assert set(importances(search)) == set(search.space.keys)


def test_a_value_outside_the_range_is_borne(many: Search) -> None:
    wide = replace(many.rows[1], params=many.rows[1].params | {"optim.lr": 5.0, "ema.decay": 0.5}, state="finished")
    assert importances(replace(many, rows=(many.rows[0], wide, *many.rows[2:])))


def test_optunas_logging_is_left_as_it_was(many: Search, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        importances(many)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")
