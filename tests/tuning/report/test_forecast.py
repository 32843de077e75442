"""What a search will take: from made paces and rows, and from a run's files while they grow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raydet.config import override
from raydet.exceptions import ConfigError
from raydet.runs import dllogger_format, run_log
from raydet.runs.run_log import RunLog
from raydet.search_spaces import get
from raydet.tuning.report.forecast import Forecast, Pace, Paces, forecast, line
from raydet.tuning.search.allowance import asha_share
from raydet.tuning.settings import parse_budget
from raydet.tuning.trials.rows import Row, Search
from tests.tuning.made import made, row_of

STEP = {run_log.TRAIN_LOSS: 1.0, run_log.IMAGES_PER_S: 9.0, run_log.DATA_WAIT: 0.1, run_log.STEP_S: 0.1}


def search(folder: Path, *rows: Row, **fields: object) -> Search:
    """10 epochs a trial, 2 trials at a time, 1 CPU each."""
    values: dict[str, object] = {"scheduler": "none", "num_samples": 4, "rows": rows}
    return replace(made(folder / "s", 1, space="lr"), **(values | fields))  # type: ignore[arg-type]


def running(number: int, **fields: object) -> Row:
    return row_of(number, "running", None, **({"epochs": 0, "seconds": 0.0, "device_hours": 0.0} | fields))


def told(found: Forecast | None) -> Forecast:
    assert found is not None
    return found


def test_nothing_is_foretold_before_the_first_step(tmp_path: Path) -> None:
    assert forecast(search(tmp_path), {}) is None
    assert forecast(search(tmp_path, running(1), running(2)), {}) is None
    assert forecast(search(tmp_path, running(1)), {1: Pace(seconds=9, share=0.0, startup_s=9)}) is None


def test_a_full_trial_is_its_start_up_and_the_pace_of_its_steps(tmp_path: Path) -> None:
    found = told(forecast(search(tmp_path, running(1)), {1: Pace(seconds=30, share=0.1, startup_s=20)}))
    assert found.trial_s == pytest.approx(120)
    assert found.trial_device_hours == pytest.approx(120 / 3600)


def test_a_trial_taken_up_again_is_foretold_from_what_this_session_did(tmp_path: Path) -> None:
    pace = Pace(seconds=30, share=0.6, startup_s=20, from_share=0.5)
    assert pace.full_s == pytest.approx(120) and pace.left_s == pytest.approx(40)


def test_a_full_trial_is_the_median_over_trials(tmp_path: Path) -> None:
    rows = [row_of(n, seconds=s) for n, s in ((1, 100.0), (2, 110.0), (3, 900.0))]
    assert told(forecast(search(tmp_path, *rows), {})).trial_s == 110


def test_failed_and_diverged_trials_say_nothing_of_the_time_of_a_full_one(tmp_path: Path) -> None:
    rows = [row_of(1, seconds=100.0), row_of(2, "failed", None, seconds=1.0), row_of(3, "diverged", seconds=2.0)]
    assert told(forecast(search(tmp_path, *rows), {})).trial_s == 100


def test_where_all_were_stopped_their_share_of_the_epochs_tells(tmp_path: Path) -> None:
    rows = [row_of(n, "stopped", epochs=2, seconds=20.0) for n in (1, 2)]
    assert told(forecast(search(tmp_path, *rows), {})).trial_s == 100


@pytest.mark.parametrize(("concurrent", "left"), [(1, 90 + 200), (2, 190), (3, 100), (9, 100)])
def test_trials_still_to_come_take_the_places_that_fall_free(concurrent: int, left: float, tmp_path: Path) -> None:
    """One is finished, one has 90 s left, two are to come."""
    now = search(tmp_path, row_of(1, seconds=100.0), running(2), concurrent=concurrent)
    found = told(forecast(now, {2: Pace(seconds=10, share=0.1, startup_s=0)}))
    assert found.most_s == pytest.approx(left) and found.left_s == found.most_s
    assert found.most_device_hours == pytest.approx(290 / 3600)


def test_a_waiting_trial_needs_its_rest_and_a_new_start(tmp_path: Path) -> None:
    rows = [running(1), row_of(2, "waiting", epochs=5)]
    paces = {1: Pace(seconds=30, share=0.1, startup_s=20)}  # 120 s in all, 90 left
    found = told(forecast(search(tmp_path, *rows, num_samples=2, concurrent=1), paces))
    assert found.most_s == pytest.approx(90 + 50 + 20)


def test_a_trial_with_epochs_of_its_own_is_measured_by_these(tmp_path: Path) -> None:
    row = row_of(1, "stopped", params={"schedule.epochs": 20}, epochs=5, seconds=50.0)
    assert told(forecast(search(tmp_path, row), {})).trial_s == 100
    waits = row_of(2, "waiting", params={"schedule.epochs": 20}, curve=(), epochs=0)
    assert told(forecast(search(tmp_path, row, waits, num_samples=2), {})).most_s == 200


def test_trials_whose_epochs_are_searched_take_their_mean_and_at_most_the_longest(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1, params={"schedule.epochs": 10}, seconds=100.0), num_samples=3, concurrent=1)
    now = replace(now, space=get(None, now.cfg, ["schedule.epochs=choice(5, 10, 30)"]))
    found = told(forecast(now, {}))
    assert (found.left_s, found.most_s, found.stops_early) == (300, 600, True)
    assert "about 0:05:00, at most 0:10:00 more" in line(found)


def test_nothing_more_comes_once_the_search_has_ended(tmp_path: Path) -> None:
    found = told(forecast(search(tmp_path, row_of(1), ended="budget"), {}))
    assert found.left_s == found.most_s == found.left_device_hours == 0


def test_with_asha_less_is_expected_than_the_bound_and_measured_shares_count(tmp_path: Path) -> None:
    fields = {"scheduler": "asha", "num_samples": 20}
    before = told(forecast(search(tmp_path, running(1), **fields), {1: Pace(seconds=10, share=0.1, startup_s=0)}))
    assert before.left_s == pytest.approx(before.most_s * asha_share(20, 10, (1, 4)))
    rows = [row_of(n, "stopped", epochs=1, seconds=10.0) for n in range(1, 11)]
    after = told(forecast(search(tmp_path, *rows, **fields), {}))
    assert after.left_s / after.most_s == pytest.approx((asha_share(20, 10, (1, 4)) + 10 * 0.1) / 11)


def test_a_trial_that_is_stopped_early_starts_all_the_same(tmp_path: Path) -> None:
    fields = {"scheduler": "asha", "num_samples": 20}
    paces = {1: Pace(seconds=30, share=0.1, startup_s=20)}  # a full trial takes 120 s, 20 of them to start
    found = told(forecast(search(tmp_path, running(1), **fields), paces))
    share = asha_share(20, 10, (1, 4))
    assert found.left_device_hours * 3600 == pytest.approx(90 * share + 19 * (20 + 100 * share))
    assert found.most_device_hours * 3600 == pytest.approx(90 + 19 * 120)


def test_two_hundred_trials_and_huge_numbers_give_finite_figures(tmp_path: Path) -> None:
    rows = [row_of(n, seconds=1e12 if n % 2 else 1e-9) for n in range(1, 201)]
    found = told(forecast(search(tmp_path, *rows, num_samples=400, scheduler="asha"), {}))
    assert 0 < found.left_s < found.most_s < 1e16


def test_the_share_of_asha_lies_between_halving_at_each_rung_and_all() -> None:
    """12 trials: all do 1 epoch, 3 reach the 4th, 0.75 the 9th; or more, for early ones are measured against few."""
    halving = (12 * 1 + 3 * 3 + 0.75 * 5) / (12 * 9)
    assert halving < asha_share(12, 9, (1, 4)) < 0.5
    assert asha_share(12, 9, (1, 4)) == pytest.approx(0.362, abs=0.02)
    shares = [asha_share(trials, 64, (1, 4, 16)) for trials in (1, 2, 5, 20, 100, 500)]
    assert shares == sorted(shares, reverse=True), "the more there are, the sooner most are stopped"


def test_of_two_trials_the_second_goes_on_half_the_time() -> None:
    assert asha_share(2, 4, (1,)) == pytest.approx((4 + 1 + 0.5 * 3) / 8, rel=0.03)


def test_one_trial_or_one_rung_is_trained_whole() -> None:
    assert asha_share(1, 9, (1, 3)) == asha_share(12, 1, ()) == asha_share(12, 4, ()) == 1


def test_the_sharper_the_selection_the_less_is_trained() -> None:
    assert asha_share(100, 16, (1, 4), 8) < asha_share(100, 16, (1, 4), 4) < asha_share(100, 16, (4,), 4)


def test_the_line_says_what_a_trial_takes_and_what_is_left(tmp_path: Path) -> None:
    rows = [row_of(n, seconds=100.0, device_hours=100 / 3600) for n in (1, 2)]
    now = search(tmp_path, *rows, num_samples=12)
    assert line(told(forecast(now, {}))) == (
        "forecast  a full trial takes 0:01:40 and 0.03 CPU-hours; 12 trials, 2 at a time: "
        "about 0:08:20 more (0.28 CPU-hours)"
    )
    text = line(told(forecast(replace(now, scheduler="asha", device="GPU"), {})))
    assert ", at most 0:08:20 more (" in text and "GPU-hours, at most 0.28)" in text


# --- files


class Clock:
    """Time that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of what reads the files, and of the log that a run writes."""
    found = Clock()
    monkeypatch.setattr(dllogger_format, "clock", found)
    return found


def write(run: RunLog, clock: Clock, seconds: float, act: Callable[[RunLog], None]) -> None:
    clock.now += seconds
    act(run)


def begun_at(clock: Clock, seconds: float, folder: Path) -> tuple[Paces, Search, RunLog]:
    """Return what follows a trial, the search, and the log that the trial's run begins then."""
    now, paces = search(folder, running(1, folder=folder)), Paces(clock)
    paces.poll(now)
    clock.now = seconds
    return paces, now, RunLog(folder, "classification")


@pytest.mark.parametrize("task", ["demo_detection", "demo_classification"])
def test_a_trials_pace_is_read_from_its_files_as_they_grow(task: str, clock: Clock, tmp_path: Path) -> None:
    now = replace(made(tmp_path / "s", 1, space="lr", of=task), rows=(running(1, folder=tmp_path),))
    paces = Paces(clock)
    assert paces.poll(now) == {}
    clock.now = 20
    run = RunLog(tmp_path, now.cfg.task)
    assert paces.poll(now) == {}
    clock.now = 30
    run.train_step(0, 100, 49, STEP)
    assert paces.poll(now) == {1: Pace(seconds=30, share=0.05, startup_s=20)}
    clock.now = 35  # nothing new: still as of the last step
    assert paces.poll(now)[1].seconds == 30
    clock.now = 40
    run.train_step(0, 100, 99, STEP)
    clock.now = 44
    run.epoch(1, 100, STEP | {now.score: 0.5})
    assert paces.poll(now) == {1: Pace(seconds=44, share=0.1, startup_s=20)}


def test_steps_that_are_read_late_took_as_long_as_they_took(clock: Clock, tmp_path: Path) -> None:
    """On a busy machine the head and many steps of the log are seen at once; none would seem to take any time."""
    paces, now, run = begun_at(clock, 20, tmp_path)
    clock.now = 30
    run.train_step(0, 100, 99, STEP)
    clock.now = 33
    pace = paces.poll(now)[1]
    assert (pace.share, pace.seconds - pace.startup_s) == (0.1, pytest.approx(10))
    clock.now = 40
    run.train_step(1, 100, 99, STEP)
    pace = paces.poll(now)[1]
    assert (pace.startup_s, pace.seconds, pace.share) == (pytest.approx(20), pytest.approx(40), 0.2)


def test_workers_that_were_lost_begin_a_log_anew(clock: Clock, tmp_path: Path) -> None:
    paces, now, first = begun_at(clock, 20, tmp_path)
    clock.now = 40
    first.train_step(0, 100, 99, STEP)
    paces.poll(now)
    first.close()
    clock.now = 60
    again = RunLog(tmp_path, "classification", first_step=100)
    paces.poll(now)
    clock.now = 65
    again.train_step(1, 100, 99, STEP)
    pace = paces.poll(now)[1]
    assert (pace.startup_s, pace.seconds, pace.share) == (pytest.approx(60), pytest.approx(65), 0.2)


def test_a_trial_that_logs_no_step_is_measured_by_its_epochs(clock: Clock, tmp_path: Path) -> None:
    paces, now, run = begun_at(clock, 0, tmp_path)
    paces.poll(now)
    clock.now = 10
    run.epoch(1, 100, STEP)
    assert paces.poll(now)[1].full_s == pytest.approx(100)


def test_a_resumed_trial_counts_from_the_epochs_it_had(clock: Clock, tmp_path: Path) -> None:
    old = RunLog(tmp_path, "classification")
    old.train_step(4, 10, 9, STEP)
    old.epoch(5, 50, STEP)
    old.close()
    now = search(tmp_path, running(1, folder=tmp_path, epochs=5))
    paces = Paces(clock)
    assert paces.poll(now) == {}
    run = RunLog(tmp_path, "classification", first_step=50)
    assert paces.poll(now) == {}
    clock.now = 7
    run.train_step(5, 10, 9, STEP)
    assert paces.poll(now) == {1: Pace(seconds=7, share=0.6, startup_s=0, from_share=0.5)}


def test_a_trial_that_has_ended_or_begun_in_another_folder_is_followed_no_more(clock: Clock, tmp_path: Path) -> None:
    now = search(tmp_path, running(1, folder=tmp_path / "a"))
    paces = Paces(clock)
    paces.poll(now)
    run = RunLog(tmp_path / "a", "classification")
    run.train_step(0, 10, 4, STEP)
    assert set(paces.poll(now)) == {1}
    assert paces.poll(replace(now, rows=(running(1, folder=tmp_path / "b"),))) == {}
    assert paces.poll(replace(now, rows=(row_of(1),))) == {}


def test_each_of_two_running_trials_has_its_pace(clock: Clock, tmp_path: Path) -> None:
    now = search(tmp_path, running(1, folder=tmp_path / "a"), running(2, folder=tmp_path / "b"))
    paces = Paces(clock)
    paces.poll(now)
    for name, batch in (("a", 4), ("b", 9)):
        RunLog(tmp_path / name, "classification").train_step(0, 10, batch, STEP)
    assert {n: pace.share for n, pace in paces.poll(now).items()} == {1: 0.05, 2: 0.1}


# --- budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("2d", 172800), (" 1D2H3M4S ", 93784)],
)
def test_a_budget_is_read_with_its_units(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "0h", "-1h", "1h1h", "30m1h", "1 h", "1h 30", "two hours", "1.h", "1e3s", "9" * 400 + "h", "٣h"]
)
def test_what_is_no_time_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget must be a time with its units, e\.g\. 2h, 90m, 1h30m"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["90", "1.5", "0"])
def test_a_plain_number_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--budget {text}: of what unit\\? Write e\\.g\\. {text}m"):
        parse_budget(text)


def test_the_devices_of_a_trial_are_its_workers(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1, seconds=3600.0))
    cfg = override(now.cfg, {"scaling.num_workers": 2, "scaling.cpus_per_worker": 3})
    assert told(forecast(replace(now, cfg=cfg), {})).trial_device_hours == 6
