"""When a search ends before its trials do."""

from pathlib import Path
from typing import Any

import pytest

from raydet.tuning.search import stopping
from raydet.tuning.search.stopping import StopSearch, all_failed, deadline, unbeaten
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.search.trial_queue import NewTrials, Reruns, TrialQueue
from raydet.tuning.trials.rows import Row, Search
from tests.tuning.made import made, row_of
from tests.tuning.search.test_study import new


def search(tmp_path: Path, *rows: Row, **fields: Any) -> Search:
    return made(tmp_path / "s", 1, space="lr", rows=rows, num_samples=20, **fields)


def failed(number: int, **fields: Any) -> Row:
    return row_of(number, "failed", curve=(), error=f"DataError: {number}", **fields)


def test_trials_that_all_fail_end_it_with_the_last_one_s_error(tmp_path: Path) -> None:
    assert all_failed(search(tmp_path, failed(1), failed(2))) is None
    assert all_failed(search(tmp_path, *map(failed, (1, 2, 3)))) == (
        "the first 3 trials have all failed; the last: DataError: 3"
    )


def test_one_that_does_not_fail_keeps_it_going(tmp_path: Path) -> None:
    assert all_failed(search(tmp_path, row_of(1), *map(failed, (2, 3, 4, 5)))) is None


def test_a_search_of_one_trial_ends_with_its_failure(tmp_path: Path) -> None:
    one = made(tmp_path / "s", 1, space="lr", rows=(failed(1),), num_samples=1)
    assert all_failed(one) is not None


@pytest.mark.parametrize(
    ("scores", "default", "said"),
    [
        ([0.4, 0.5, 0.6], "finished", "3 trials have not beaten the default"),
        ([0.4, 0.5, 0.71], "finished", None),
        ([0.4, 0.5], "finished", None),
        ([0.4, 0.5, 0.6], "running", None),
    ],
)
def test_a_default_that_nothing_beats_ends_it(
    tmp_path: Path, scores: list[float], default: Any, said: str | None
) -> None:
    rows = [row_of(1, default, 0.7), *(row_of(n, "stopped", score) for n, score in enumerate(scores, 2))]
    assert unbeaten(search(tmp_path, *rows), 3) == said


def test_the_budget_counts_earlier_sessions_and_keeps_time_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "clock", lambda: 1000.0)
    assert deadline(None, 50.0) is None
    assert deadline(7200.0, 200.0) == 1000 + 7000 - 20
    assert deadline(100.0, 0.0) == 1000 + 95


def test_past_the_budget_all_is_left_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(stopping, "clock", lambda: now[0])
    watcher = StopSearch(lambda: search(tmp_path, row_of(1, seconds=60.0)), None, deadline=1100.0)
    watcher.queue = queue = TrialQueue(Reruns([]), 2)
    assert not watcher.stop_all() and watcher.may_start()
    now[0] = 1050.0
    assert not watcher.stop_all() and not watcher.may_start()  # the shortest took 60 s
    now[0] = 1101.0
    assert watcher.stop_all() and queue.stopping and watcher.reason == "the budget is used up" and watcher.over


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    watcher = StopSearch(lambda: search(tmp_path), None, None)
    watcher.queue = queue = TrialQueue(Reruns([]), 2)
    queue.full = ("/there", 9, 1)
    assert watcher.stop_all() and watcher.reason == "the disk is full" and watcher.over


def test_an_interruption_ends_it_at_once(tmp_path: Path) -> None:
    watcher = StopSearch(lambda: search(tmp_path), None, None)
    watcher.interrupted = 2
    assert watcher.stop_all() and watcher.reason == "interrupted" and watcher.over


def test_a_default_that_nothing_beats_may_still_be_repeated(tmp_path: Path) -> None:
    watcher = StopSearch(lambda: search(tmp_path, row_of(1, score=0.7), row_of(2, score=0.1)), 1, None)
    watcher.queue = proposals = TrialQueue(NewTrials(SearchStudy(new(tmp_path, num_samples=3)), watcher.may_start), 2)
    assert watcher.stop_all() and proposals.stopping and not watcher.over and not watcher.may_start()
    watcher.queue = repeats = TrialQueue(Reruns([]), 2)
    assert not watcher.stop_all() and not repeats.stopping
    watcher.interrupted = 2
    assert watcher.stop_all() and repeats.stopping and watcher.reason == "interrupted"
