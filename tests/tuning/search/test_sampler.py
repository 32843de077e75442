"""What a proposal rests on, and that it is the same whichever trial is the faster."""

import random
from pathlib import Path
from typing import Any

import pytest

from raydet.tuning.search.sampler import RANDOM_TRIALS, is_known, rung_score
from raydet.tuning.search.study import Record
from tests.tuning.made import row_of
from tests.tuning.search.test_study import evaluated, new

CURVE = ((1, 0.3), (2, 0.9), (3, 0.4))


@pytest.mark.parametrize(
    ("state", "curve", "scheduler", "score"),
    [
        ("finished", CURVE, "asha", 0.3),
        ("running", CURVE, "asha", 0.3),
        ("stopped", CURVE[:1], "asha", 0.3),
        ("waiting", (), "asha", None),
        ("diverged", CURVE, "asha", 0.0),
        ("failed", CURVE, "asha", None),
        ("finished", CURVE, "none", 0.9),
        ("running", CURVE[:2], "none", None),
        ("running", CURVE, "none", 0.9),
    ],
)
def test_a_trial_counts_as_of_the_first_rung(
    state: str, curve: tuple[tuple[int, float], ...], scheduler: str, score: float | None, tmp_path: Path
) -> None:
    setting = new(tmp_path, scheduler=scheduler)
    row = row_of(7, state, curve=curve)
    assert rung_score(setting, row) == score
    assert is_known(setting, row) == (score is not None or state == "failed")


def test_evaluations_before_the_first_rung_count_as_well(tmp_path: Path) -> None:
    setting = new(tmp_path, epochs=64)
    assert setting.grace_epochs == 4
    row = row_of(7, "running", curve=((1, 0.5), (3, 0.2), (5, 0.3), (7, 0.9)))
    assert rung_score(setting, row) == 0.5
    assert not is_known(setting, row_of(7, "running", curve=row.curve[:2]))


def searched(setting: Any, concurrent: int, order: random.Random) -> list[dict[str, Any]]:
    """Return what is proposed where, of those that train, any may be the next to end, after one epoch or after all.

    None gets to the first rung later than one that was begun `concurrent` trials after it.
    """
    record, live = Record(setting), list[int]()
    while True:
        while len(live) < concurrent and (number := record.propose(concurrent)) is not None:
            live.append(number)
        if not live:
            break
        for number in live:
            if number <= record.asked + 1 - concurrent or order.random() < 0.5:
                evaluated(setting, number, number * 37 % 100 / 100)
        number = live.pop(order.randrange(len(live)))
        more = [order.random(), order.random()] if order.random() < 0.3 else []
        evaluated(setting, number, number * 37 % 100 / 100, *more)
        record.end(number, order.choice(["finished", "stopped"]), seconds=1.0)
    return [record.params(number) for number in range(1, setting.num_samples + 1)]


@pytest.mark.parametrize("concurrent", [1, 3])
def test_two_searches_propose_the_same_points_in_whatever_order_trials_end(concurrent: int, tmp_path: Path) -> None:
    told = {"num_samples": RANDOM_TRIALS + 10}
    first = searched(new(tmp_path, "first", **told), concurrent, random.Random(1))
    again = searched(new(tmp_path, "again", **told), concurrent, random.Random(2))
    assert first == again
    assert searched(new(tmp_path, "other", seed=7, **told), concurrent, random.Random(1))[1:] != first[1:]


def test_results_that_differ_lead_to_other_points(tmp_path: Path) -> None:
    """Or the test above would not see what TPE learns."""
    found = []
    for name, factor in (("a", 37), ("b", 13)):
        setting = new(tmp_path, name, num_samples=RANDOM_TRIALS + 6)
        record = Record(setting)
        while (number := record.propose(2)) is not None:
            evaluated(setting, number, number * factor % 100 / 100)
            record.end(number, "stopped", seconds=1.0)
        found.append([record.params(n) for n in range(1, setting.num_samples + 1)])
    same = [a == b for a, b in zip(*found, strict=True)]
    assert all(same[: RANDOM_TRIALS + 1]) and not any(same[RANDOM_TRIALS + 1 :])
