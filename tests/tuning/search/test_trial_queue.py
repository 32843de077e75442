"""What Ray Tune is handed: how many at a time, unfinished ones first, and what it reports recorded."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydet.tuning.search import trial_queue
from raydet.tuning.search.study import SearchStudy
from raydet.tuning.search.trial_queue import NewTrials, NextTrial, Reruns, TrialQueue
from tests.tuning.search.test_study import evaluated, new


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(trial_queue, "clock", found)
    return found


@pytest.fixture(autouse=True)
def plain_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials without Ray Tune's: a status, RUNNING from the start."""
    monkeypatch.setattr(trial_queue, "make_trial", lambda spec, name, params: SimpleNamespace(status="RUNNING"))


def queue_of(tmp_path: Path, concurrent: int = 2, may_start: bool = True, **options: Any) -> TrialQueue:
    study = SearchStudy(new(tmp_path, num_samples=3, **options))
    return TrialQueue(NewTrials(study, lambda: may_start), concurrent)


def study_of(queue: TrialQueue) -> SearchStudy:
    assert isinstance(queue.source, NewTrials)
    return queue.source._study


def test_trials_are_handed_out_until_there_are_enough_and_no_more_at_a_time_than_have_room(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    assert queue.next_trial() and queue.next_trial() and queue.next_trial() is None
    assert list(queue.live) == ["0001", "0002"] and not queue.is_finished()
    queue.on_trial_complete("0001", {"done": True, "failed": "x"})
    assert queue.next_trial() and queue.is_finished() and list(queue.live) == ["0002", "0003"]


@pytest.mark.parametrize(("may_start", "names"), [(True, ["0001", "0002", "0003"]), (False, ["0001", "0002"])])
def test_unfinished_trials_come_first_and_without_time_nothing_else_does(
    tmp_path: Path, may_start: bool, names: list[str]
) -> None:
    before = queue_of(tmp_path)
    assert before.next_trial() and before.next_trial()
    queue = queue_of(tmp_path, concurrent=9, may_start=may_start)
    while queue.next_trial() is not None:
        pass
    assert list(queue.live) == names and queue.is_finished()


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        ({"done": True, "finished": True, "score": 0.5, "epoch": 1}, False, "finished"),
        ({"done": True, "finished": False, "failed": "x", "diverged": True}, False, "diverged"),
        ({"done": True, "finished": False, "failed": "DataError: x", "diverged": False}, False, "failed"),
        ({"done": True, "finished": False, "score": 0.5, "epoch": 1}, False, "stopped"),
        (None, True, "failed"),
    ],
)
def test_an_end_is_recorded_as_what_it_is(
    tmp_path: Path, result: dict[str, Any] | None, error: bool, state: str
) -> None:
    queue = queue_of(tmp_path)
    queue.next_trial()
    evaluated(study_of(queue).setting, 1, 0.5)
    queue.on_trial_complete("0001", result, error)
    row = study_of(queue).row(1)
    assert row.state == state and not queue.live
    assert (row.error is not None) == (state in ("diverged", "failed"))


def test_the_evaluation_that_stops_a_trial_reaches_tpe(tmp_path: Path) -> None:
    """Ray Tune passes it on with the trial's end only."""
    queue = queue_of(tmp_path)
    queue.next_trial()
    evaluated(study_of(queue).setting, 1, 0.4, 0.5)
    queue.on_trial_result("0001", {"epoch": 1, "score": 0.4})
    queue.on_trial_complete("0001", {"done": True, "finished": False, "score": 0.5, "epoch": 2})
    assert study_of(queue).study.trials[0].intermediate_values == {1: 0.4, 2: 0.5}


def test_a_full_disk_or_an_interruption_leaves_the_trial_unfinished(tmp_path: Path) -> None:
    queue = queue_of(tmp_path)
    queue.next_trial(), queue.next_trial()
    queue.on_trial_complete("0001", {"done": True, "full": ("/there", 9, 1)})
    queue.stopping = True
    queue.on_trial_complete("0002", {"done": True})
    assert queue.full == ("/there", 9, 1) and queue.next_trial() is None and queue.is_finished()
    assert study_of(queue).unfinished() == [1, 2]


def test_a_trial_s_time_counts_only_while_it_is_on_workers(tmp_path: Path, clock: Clock) -> None:
    queue = queue_of(tmp_path)
    trial = queue.next_trial()
    for status, seconds in (("PENDING", 5), ("RUNNING", 7), ("PAUSED", 11), ("RUNNING", 2)):
        trial.status = status
        clock.now += seconds
        queue.tick()
    assert queue.seconds("0001") == 9
    queue.on_trial_result("0001", {"epoch": 1, "score": 0.5})
    again = queue_of(tmp_path)
    again.next_trial()
    assert again.seconds("0001") == 9


def test_a_stopped_trial_continues_and_its_record_says_so(tmp_path: Path, clock: Clock) -> None:
    queue = queue_of(tmp_path)
    study = study_of(queue)
    queue.next_trial()
    evaluated(study.setting, 1, 0.5)
    clock.now += 10
    queue.on_trial_complete("0001", {"done": True, "finished": False, "score": 0.5, "epoch": 1})
    assert study.row(1).state == "stopped"
    study.resume(1)
    run = NextTrial("0001", study.params(1), study.seconds(1))
    last = TrialQueue(Reruns([run], lambda result, seconds: study.end_resumed(1, seconds, result["finished"])), 1)
    assert last.next_trial() and last.next_trial() is None and last.is_finished()
    clock.now += 7
    evaluated(study.setting, 1, 0.5, 0.6, 0.8)
    assert study.row(1).epochs == 3, "its folder is read again"
    last.on_trial_complete("0001", {"done": True, "finished": True, "score": 0.8})
    for found in (study, SearchStudy(study.setting)):
        row = found.row(1)
        assert (row.state, row.epochs, row.score, row.seconds) == ("finished", 3, 0.8, 17)


def test_a_resumed_trial_that_is_interrupted_is_stopped_as_before_and_has_cost_more(tmp_path: Path) -> None:
    study = SearchStudy(new(tmp_path, num_samples=3))
    assert study.ask() == 1
    evaluated(study.setting, 1, 0.5)
    study.end(1, "stopped", seconds=10.0)
    for seconds in (17, 24):
        study.resume(1)
        study.end_resumed(1, study.seconds(1) + 7, finished=False)
        row = SearchStudy(study.setting).row(1)
        assert (row.state, row.seconds) == ("stopped", seconds)


def test_reruns_say_what_failed() -> None:
    runs = Reruns([NextTrial("0001-seed43", {"optim.lr": 0.1}), NextTrial("0007-seed43", {"optim.lr": 0.2})])
    queue = TrialQueue(runs, 1)
    assert queue.next_trial() and not queue.is_finished()
    queue.on_trial_complete("0001-seed43", {"failed": "DataError: x"})
    assert runs.errors == ["0001-seed43: DataError: x"] and queue.next_trial() and queue.is_finished()


def test_ray_tune_s_snapshot_keeps_nothing_of_a_queue(tmp_path: Path) -> None:
    assert type(pickle.loads(pickle.dumps(queue_of(tmp_path)))) is object


def test_further_objectives_are_recorded(tmp_path: Path) -> None:
    """Ray Tune flattens what a trial returns before it hands it on."""
    queue = queue_of(tmp_path, objectives=["size_mb"])
    queue.next_trial()
    evaluated(study_of(queue).setting, 1, 0.5)
    result = {"done": True, "finished": True, "score": 0.5, "epoch": 1, "size_mb": 2.5, "config/optim.lr": 1}
    queue.on_trial_complete("0001", result)
    study = study_of(queue)
    assert study.row(1).values == {"size_mb": 2.5} and study.study.trials[0].values == [0.5, 2.5]
