"""What Ray Tune is handed: how many at a time, begun ones first, and what it says of them taken down."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from raydet.tuning.search import searcher
from raydet.tuning.search.sampler import RANDOM_TRIALS
from raydet.tuning.search.searcher import Feed, Last, Proposals, Repeats
from raydet.tuning.search.study import Record
from raydet.tuning.trials.folders import run_name
from tests.tuning.search.test_study import evaluated, new


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(searcher, "clock", found)
    return found


def handed(feed: Feed) -> str | None:
    """Do what next_trial does, without making one of Ray Tune's trials."""
    found = feed.next_name()
    if found is None:
        return None
    feed.live.add(found[0])
    return found[0]


def feed_of(tmp_path: Path, concurrent: int = 2, may_start: bool = True, **told: Any) -> Proposals:
    return Proposals(Record(new(tmp_path, num_samples=3, **told)), concurrent, lambda: may_start)


def test_trials_are_handed_out_until_there_are_enough(tmp_path: Path) -> None:
    feed = feed_of(tmp_path)
    assert [handed(feed) for _ in range(4)] == ["0001", "0002", "0003", None]
    assert feed.is_finished()


def test_no_more_than_have_room(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, concurrent=1)
    feed.live.add("0001")
    assert feed.next_trial() is None and not feed.is_finished()


def test_trials_that_were_begun_come_first(tmp_path: Path) -> None:
    first = feed_of(tmp_path)
    handed(first), handed(first)
    again = Proposals(Record(new(tmp_path, num_samples=3)), 2, lambda: True)
    assert [handed(again) for _ in range(4)] == ["0001", "0002", "0003", None]


def test_without_time_only_what_was_begun_goes_on(tmp_path: Path) -> None:
    handed(feed_of(tmp_path))
    again = Proposals(Record(new(tmp_path, num_samples=3)), 2, lambda: False)
    assert [handed(again), handed(again)] == ["0001", None] and again.is_finished()


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        ({"done": True, "finished": True, "score": 0.5}, False, "finished"),
        ({"done": True, "finished": False, "failed": "x", "diverged": True}, False, "diverged"),
        ({"done": True, "finished": False, "failed": "DataError: x", "diverged": False}, False, "failed"),
        ({"done": True, "finished": False, "score": 0.5}, False, "stopped"),
        (None, True, "failed"),
    ],
)
def test_an_end_is_taken_down_as_what_it_is(
    tmp_path: Path, result: dict[str, Any] | None, error: bool, state: str
) -> None:
    feed = feed_of(tmp_path)
    name = handed(feed)
    assert name == "0001"
    evaluated(feed.record.setting, 1, 0.5)
    feed.on_trial_result(name, {"epoch": 1, "score": 0.5})
    feed.on_trial_complete(name, result, error)
    row = feed.record.rows()[0]
    assert row.state == state and not feed.live
    assert (row.error is not None) == (state in ("diverged", "failed"))


def test_a_full_disk_leaves_the_trial_unfinished(tmp_path: Path) -> None:
    feed = feed_of(tmp_path)
    name = str(handed(feed))
    feed.on_trial_complete(name, {"done": True, "epoch": 0, "full": ("/there", 9, 1)})
    assert feed.full == ("/there", 9, 1) and feed.record.unfinished() == [1]


def test_what_is_left_when_the_search_ends_is_unfinished(tmp_path: Path) -> None:
    feed = feed_of(tmp_path)
    name = handed(feed)
    feed.stopping = True
    feed.on_trial_complete(str(name), {"done": True, "epoch": 1, "score": 0.4})
    assert feed.record.unfinished() == [1] and feed.next_trial() is None and feed.is_finished()


def test_what_live_trials_have_cost_is_written_down_now_and_then(tmp_path: Path, clock: Clock) -> None:
    feed = feed_of(tmp_path)
    feed.note(frozenset({str(handed(feed))}))
    clock.now += 25
    feed.keep()
    assert feed.record.rows()[0].seconds == 25


def test_a_trial_s_time_counts_only_while_it_is_on_workers(tmp_path: Path, clock: Clock) -> None:
    feed = feed_of(tmp_path)
    name = str(handed(feed))
    for running, seconds in (((), 5), ((name,), 7), ((), 11), ((name,), 2)):
        feed.note(frozenset(running))
        clock.now += seconds
    assert feed.seconds(name) == 9 and feed.live_numbers() == {1}
    feed.record.report(1, 1, 0.5, feed.seconds(name))
    again = Proposals(Record(new(tmp_path, num_samples=3)), 2, lambda: True)
    assert again.seconds(str(handed(again))) == 9


def test_a_straggler_that_the_next_proposal_rests_on_is_waited_for_but_not_long(tmp_path: Path, clock: Clock) -> None:
    feed = Proposals(Record(new(tmp_path, num_samples=20)), 2, lambda: True)
    for number in range(1, RANDOM_TRIALS):
        assert handed(feed) == run_name(number)
        evaluated(feed.record.setting, number, 0.5)
        feed.note(frozenset({run_name(number)}))
        clock.now += 10
        feed.on_trial_result(run_name(number), {"epoch": 1, "score": 0.5})
        feed.on_trial_complete(run_name(number), {"done": True, "score": 0.5, "epoch": 1})
    slow, fast = str(handed(feed)), str(handed(feed))
    feed.note(frozenset({slow, fast}))
    clock.now += 9
    feed.on_trial_complete(fast, {"done": True, "failed": "x"})
    assert handed(feed) is None and not feed.is_finished(), "12 rests on 10, that is about to be heard of"
    clock.now += 4
    assert handed(feed) is None
    clock.now += 3
    assert handed(feed) == run_name(RANDOM_TRIALS + 2), "15 s are one and a half times the usual"


def test_random_points_wait_for_nothing(tmp_path: Path) -> None:
    feed = Proposals(Record(new(tmp_path, num_samples=20, algorithm="random")), 2, lambda: True)
    names = [str(handed(feed)) for _ in range(RANDOM_TRIALS + 5)]
    assert names == [run_name(n) for n in range(1, RANDOM_TRIALS + 6)]


def test_a_stopped_trial_goes_on_and_its_record_says_so(tmp_path: Path, clock: Clock) -> None:
    feed = feed_of(tmp_path)
    name = str(handed(feed))
    evaluated(feed.record.setting, 1, 0.5)
    feed.note(frozenset({name}))
    clock.now += 10
    feed.on_trial_complete(name, {"done": True, "finished": False, "score": 0.5})
    record = feed.record
    assert record.row(1, frozenset()).state == "stopped"
    last = Last(record, 1)
    assert handed(last) == "0001" and handed(last) is None and not last.has_more()
    last.note(frozenset({"0001"}))
    clock.now += 7
    evaluated(record.setting, 1, 0.5, 0.6)
    row = last.shown(record.row(1, frozenset()))
    assert (row.state, row.epochs, row.seconds) == ("running", 2, 17)
    evaluated(record.setting, 1, 0.5, 0.6, 0.8)
    last.on_trial_complete("0001", {"done": True, "finished": True, "score": 0.8})
    for found in (record, Record(record.setting)):
        row = found.row(1, frozenset())
        assert (row.state, row.epochs, row.score, row.seconds) == ("finished", 3, 0.8, 17)


def test_a_trial_that_went_on_and_was_interrupted_is_stopped_as_before_and_has_cost_more(
    tmp_path: Path, clock: Clock
) -> None:
    record = Record(new(tmp_path, num_samples=3))
    assert record.propose() == 1
    evaluated(record.setting, 1, 0.5)
    record.end(1, "stopped", seconds=10.0)
    for seconds in (17, 24):
        last = Last(record, 1)
        last.note(frozenset({str(handed(last))}))
        clock.now += 7
        last.on_trial_complete("0001", {"done": True, "failed": "DataError: x"})
        row = Record(record.setting).row(1, frozenset())
        assert (row.state, row.seconds, last.errors) == ("stopped", seconds, ["0001: DataError: x"])


def test_repeats_have_a_name_with_their_seed_and_tell_what_failed() -> None:
    feed = Repeats([(1, 43, {"optim.lr": 0.1}), (7, 43, {"optim.lr": 0.2})], 2)
    assert feed.next_name() == ("0001-seed43", {"optim.lr": 0.1})
    feed.live.add("0001-seed43")
    feed.on_trial_complete("0001-seed43", {"failed": "DataError: x"})
    assert feed.errors == ["0001-seed43: DataError: x"] and not feed.is_finished()
    assert feed.next_name() is not None and feed.is_finished()


def test_ray_tune_s_snapshot_keeps_nothing_of_them(tmp_path: Path) -> None:
    assert type(pickle.loads(pickle.dumps(feed_of(tmp_path)))) is object


def test_what_else_was_measured_is_taken_down(tmp_path: Path) -> None:
    """Ray Tune flattens what a trial returns before it hands it on."""
    feed = feed_of(tmp_path, objectives=["size_mb"])
    name = str(handed(feed))
    evaluated(feed.record.setting, 1, 0.5)
    feed.on_trial_complete(name, {"done": True, "finished": True, "score": 0.5, "size_mb": 2.5, "config/optim.lr": 1})
    assert feed.record.rows()[0].values == {"size_mb": 2.5} and feed.record.study.trials[0].values == [0.5, 2.5]
