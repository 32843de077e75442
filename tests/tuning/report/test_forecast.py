"""What a search will take: from rows and times left, and from a run's files while they grow."""

from dataclasses import replace
from pathlib import Path

import pytest

from raydet.config import override
from raydet.exceptions import ConfigError
from raydet.runs import run_log
from raydet.runs.run_log import RunLog
from raydet.search_spaces import get
from raydet.tuning.report.forecast import Forecast, TimeLeft, forecast, line
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


def found_of(now: Search, left_s: dict[int, float] | None = None) -> Forecast:
    found = forecast(now, left_s or {})
    assert found is not None
    return found


def test_nothing_is_foretold_before_the_first_step(tmp_path: Path) -> None:
    assert forecast(search(tmp_path), {}) is None
    assert forecast(search(tmp_path, running(1), running(2, seconds=9.0)), {}) is None


def test_a_full_trial_is_the_median_over_finished_and_running_ones(tmp_path: Path) -> None:
    rows = [row_of(1, seconds=100.0), row_of(2, seconds=900.0), running(3, seconds=20.0)]
    rows += [row_of(4, "failed", None, seconds=1.0), row_of(5, "diverged", seconds=2.0)]
    assert found_of(search(tmp_path, *rows), {3: 90.0}).trial_s == pytest.approx(110)


def test_where_all_were_stopped_their_share_of_the_epochs_tells(tmp_path: Path) -> None:
    rows = [row_of(n, "stopped", epochs=2, seconds=20.0) for n in (1, 2)]
    assert found_of(search(tmp_path, *rows)).trial_s == 100


@pytest.mark.parametrize(("concurrent", "left"), [(1, 90 + 200), (2, 190), (3, 100), (9, 100)])
def test_trials_still_to_come_take_the_places_that_fall_free(concurrent: int, left: float, tmp_path: Path) -> None:
    """One is finished, one has 90 s left, two are to come."""
    now = search(tmp_path, row_of(1, seconds=100.0), running(2, seconds=10.0), concurrent=concurrent)
    found = found_of(now, {2: 90.0})
    assert found.most_s == pytest.approx(left) and found.left_s == found.most_s
    assert found.most_device_s == pytest.approx(290)


def test_a_trial_without_steps_and_a_waiting_one_need_the_epochs_they_lack(tmp_path: Path) -> None:
    rows = [row_of(1, seconds=100.0), running(2, epochs=2), row_of(3, "waiting", epochs=5)]
    assert found_of(search(tmp_path, *rows, num_samples=3, concurrent=1)).most_s == pytest.approx(80 + 50)


def test_a_trial_with_epochs_of_its_own_is_measured_by_these(tmp_path: Path) -> None:
    row = row_of(1, "stopped", params={"schedule.epochs": 20}, epochs=5, seconds=50.0)
    waits = row_of(2, "waiting", params={"schedule.epochs": 20}, curve=(), epochs=0)
    found = found_of(search(tmp_path, row, waits, num_samples=2))
    assert (found.trial_s, found.most_s) == (100, 200)


def test_trials_whose_epochs_are_searched_take_their_mean_and_at_most_the_longest(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1, params={"schedule.epochs": 10}, seconds=100.0), num_samples=3, concurrent=1)
    now = replace(now, space=get(None, now.cfg, ["schedule.epochs=choice(5, 10, 30)"]))
    found = found_of(now)
    assert (found.left_s, found.most_s) == (300, 600)
    assert "about 0:05:00, at most 0:10:00 more" in line(now, found)


def test_nothing_more_comes_once_the_search_has_ended(tmp_path: Path) -> None:
    found = found_of(search(tmp_path, row_of(1), ended="budget"))
    assert found.left_s == found.most_s == found.left_device_s == 0


@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
def test_with_early_stopping_measured_shares_count_beside_one_whole_trial(scheduler: str, tmp_path: Path) -> None:
    rows = [row_of(n, "stopped", epochs=1, seconds=10.0) for n in range(1, 11)]
    found = found_of(search(tmp_path, *rows, scheduler=scheduler, num_samples=20))
    assert found.left_s / found.most_s == pytest.approx((1 + 10 * 0.1) / 11)


def test_the_line_says_what_a_trial_takes_and_what_is_left(tmp_path: Path) -> None:
    rows = [row_of(n, seconds=100.0, device_hours=100 / 3600) for n in (1, 2)]
    now = search(tmp_path, *rows, num_samples=12)
    assert line(now, found_of(now)) == (
        "forecast  a full trial takes 0:01:40 and 0.03 CPU-hours; 12 trials, 2 at a time: "
        "about 0:08:20 more (0.28 CPU-hours)"
    )
    stops = replace(now, scheduler="asha", device="GPU", rows=(*rows, row_of(3, "stopped", epochs=1, seconds=10.0)))
    text = line(stops, found_of(stops))
    assert ", at most 0:08:20 more (" in text and "GPU-hours, at most 0.25)" in text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_of_running_trials_is_read_from_their_files(tmp_path: Path) -> None:
    clock = Clock()
    time_left = TimeLeft(clock)
    now = search(tmp_path, running(1, folder=tmp_path / "a"), running(2, folder=tmp_path / "b"))
    assert time_left.poll(now) == {}
    log = RunLog(tmp_path / "a", "classification")
    log.hyperparameters({"steps_per_epoch": 100}) if hasattr(log, "hyperparameters") else None
    for batch in (49, 99):
        clock.now += 10
        log.train_step(0, 100, batch, STEP)
        found = time_left.poll(now)
    assert found == {1: pytest.approx(10 / 50 * 900)}
    assert time_left.poll(replace(now, rows=(running(1, folder=tmp_path / "c"), row_of(2)))) == {}


# --- budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("2d", 172800), (" 1D2H3M4S ", 93784)],
)
def test_a_budget_is_read_with_its_units(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "30m1h", "1 h", "two hours", "1e3s", "9" * 400 + "h", "٣h"])
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
    assert found_of(replace(now, cfg=cfg)).left_device_s == 3 * 6 * 3600
