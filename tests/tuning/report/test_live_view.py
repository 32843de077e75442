"""What a search shows: tables as text, lines as they come, on a terminal and elsewhere."""

import io
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raydet.terminal.run_view import render
from raydet.tuning.report.forecast import forecast
from raydet.tuning.report.live_view import (
    Show,
    below_table,
    plain_events,
    short_names,
    shown,
    table,
    values_text,
)
from raydet.tuning.report.live_view import value_text as text_of
from raydet.tuning.trials.rows import Donation, Row, Search
from tests.tuning.made import made, row_of


def running(number: int, **fields: object) -> Row:
    values: dict[str, object] = {"epochs": 0, "seconds": 0.0, "device_hours": 0.0, "params": {"optim.lr": 0.001}}
    return row_of(number, "running", None, **(values | fields))


def search(folder: Path, *rows: Row, **fields: object) -> Search:
    values: dict[str, object] = {"rows": rows, "num_samples": 12, "seconds": 130.0}
    return replace(made(folder / "s", 1, space="lr"), **(values | fields))  # type: ignore[arg-type]


def drawn(now: Search, width: int = 80, height: int = 24, left_s: dict[int, float] | None = None) -> list[str]:
    return [line.rstrip() for line in render(table(now, left_s or {}, width, height), width).splitlines()]


def numbers(rows: list[Row]) -> list[int]:
    return [row.number for row in rows]


# --- table


def test_a_row_has_state_epochs_score_values_time_left_and_cost(tmp_path: Path) -> None:
    best = row_of(1, score=0.912, params={"optim.lr": 0.003}, device_hours=0.028)
    lines = drawn(search(tmp_path, best, running(2, epochs=4)), left_s={2: 60.0})
    assert lines[0].split() == ["trial", "state", "epochs", "top1", "values", "left", "CPU-hours"]
    assert lines[2].split() == ["best", "1", "finished", "10/10", "91.20", "%", "lr", "0.003", "-", "0.03"]
    assert lines[3].split() == ["2", "running", "4/10", "-", "lr", "0.001", "0:01:00", "-"]


def test_a_trial_without_a_step_is_starting(tmp_path: Path) -> None:
    assert "starting" in drawn(search(tmp_path, running(1)))[2]


def test_a_failed_trial_shows_its_error_instead_of_its_values(tmp_path: Path) -> None:
    error = "DataError: [red]a.jpg[/red]\nis no image"
    row = row_of(1, "failed", None, params={"optim.lr": 0.003}, error=error)
    line = drawn(search(tmp_path, row), 140)[2]
    assert "DataError: [red]a.jpg[/red]" in line and "is no image" in line and "0.003" not in line


def test_the_table_is_never_wider_than_the_terminal(tmp_path: Path) -> None:
    for now in (made(tmp_path / "s", 0), made(tmp_path / "s", 12)):
        for width in (30, 50, 80, 300):
            lines = drawn(now, width)
            assert max(map(len, lines)) <= width and ("left" in lines[0]) == (width >= 64)


@pytest.mark.parametrize("height", [5, 10, 30])
def test_of_many_trials_best_default_and_running_ones_are_shown_and_then_the_newest(
    height: int, tmp_path: Path
) -> None:
    rows = [row_of(n, score=0.9 if n == 40 else 0.1) for n in range(1, 199)]
    now = search(tmp_path, *rows, running(199), running(200), num_samples=200)
    lines = drawn(now, height=height)
    assert len(lines) <= height
    kept = numbers(shown(now, height - 2))
    assert kept[:2] == [1, 40] and len(kept) == height - 2
    assert kept[2:] == ([199] if height == 5 else list(range(200 - len(kept) + 3, 201)))


def test_an_old_trial_that_runs_is_shown_rather_than_a_new_one_that_has_ended(tmp_path: Path) -> None:
    rows = [running(n) if n in (2, 5) else row_of(n, score=0.1 * (n == 3)) for n in range(1, 60)]
    assert numbers(shown(search(tmp_path, *rows), 6)) == [1, 2, 3, 5, 58, 59]


def test_before_the_first_trial_there_is_a_head_only(tmp_path: Path) -> None:
    assert len(drawn(search(tmp_path))) == 2


def test_a_detectors_score_has_three_digits_and_a_classifiers_is_in_percent(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1, score=1.0))
    assert "100.00 %" in drawn(now)[2]
    assert " 1.000 " in drawn(replace(now, score="AP"))[2]


# --- values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0031234, "0.00312"),
        (1e-4, "1e-4"),
        (2.34e-7, "2.34e-7"),
        (0.9998, "0.9998"),
        (1.0, "1"),
        (0.0, "0"),
        (-0.00005, "-5e-5"),
        (12345678.0, "1.23e7"),
        (1e300, "1e300"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (3, "3"),
        (True, "true"),
        (None, "none"),
        ("0.1,2.0", "0.1,2.0"),
    ],
)
def test_a_value_has_as_many_digits_as_say_something(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_key_is_named_by_its_end_unless_two_end_alike() -> None:
    assert short_names(["optim.lr", "optim.weight_decay", "ema.decay", "model.name", "optim.name"]) == {
        "optim.lr": "lr",
        "optim.weight_decay": "wd",
        "ema.decay": "ema",
        "model.name": "model.name",
        "optim.name": "optim.name",
    }


def test_values_are_one_line_also_of_a_key_that_the_space_has_not() -> None:
    assert values_text({"optim.lr": 0.1, "x.y": "a\nb"}, {"optim.lr": "lr"}).count("\n") == 0
    assert values_text({}, {}) == ""


# --- below


def test_the_lines_below_count_the_trials_and_compare_best_and_default(tmp_path: Path) -> None:
    states = ["finished", "finished", "stopped", "diverged", "failed", "running", "waiting"]
    rows = [row_of(n, state, 0.5 + 0.1 * (n == 2)) for n, state in enumerate(states, 1)]  # type: ignore[arg-type]
    now = search(tmp_path, *rows)
    assert below_table(now, None, None, 200) == [
        "trials 12: 1 running, 2 finished, 1 stopped, 1 diverged, 1 failed, 6 waiting"
        " | best top1 60.00 %, trial 2; default 50.00 %",
        "elapsed 0:02:10 | forecast after the first steps",
    ]


def test_time_left_and_budget_left_are_shown(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1, seconds=100.0), row_of(2, "stopped", 0.4, epochs=1, seconds=10.0), num_samples=4)
    lines = below_table(now, forecast(now, {}), 7200, 80)
    assert lines[0] == "trials 4: 1 finished, 1 stopped, 2 waiting | best top1 50.00 %, trial 1"
    assert re.fullmatch(r"elapsed 0:02:10 \| budget left 1:57:50 \| left about 0:01:10, at most 0:01:40", lines[1])
    assert lines[2].startswith("a full trial takes 0:01:40 and ")


def test_a_search_that_has_ended_promises_nothing(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1), ended="the budget of 2:00:00 is spent")
    assert below_table(now, forecast(now, {}), None, 80)[0].startswith("trials 12: 1 finished |")
    assert "left" not in " ".join(below_table(now, forecast(now, {}), None, 80))


def test_no_line_below_is_wider_than_the_terminal(tmp_path: Path) -> None:
    now = made(tmp_path / "s", 20)
    assert all(max(map(len, below_table(now, forecast(now, {}), 9e9, width))) <= width for width in (20, 80))


# --- lines


def test_start_and_end_of_a_trial_are_a_line_each(tmp_path: Path) -> None:
    empty = search(tmp_path)
    started = replace(empty, rows=(running(1),))
    ended = replace(empty, rows=(row_of(1, "stopped", 0.5, epochs=3, seconds=41.0),))
    assert plain_events(empty, started) == ["trial 1 of 12  starts  lr 0.001"]
    assert plain_events(started, started) == []
    assert plain_events(started, ended) == [
        "trial 1 of 12  stopped early  top1 50.00 %, best so far  epoch 3/10  0:00:41"
    ]


def test_a_trial_that_started_and_ended_between_two_looks_has_both_lines(tmp_path: Path) -> None:
    empty = search(tmp_path)
    lines = plain_events(empty, replace(empty, rows=(row_of(1, "failed", None, epochs=0, error="OSError: full"),)))
    assert [line.split("  ")[1] for line in lines] == ["starts", "failed"] and lines[1].endswith("OSError: full")


def test_a_search_that_continues_counts_what_had_ended_and_says_what_continues(tmp_path: Path) -> None:
    now = search(tmp_path, row_of(1), row_of(2, "failed", None), row_of(3, "waiting", epochs=4))
    assert plain_events(None, now) == ["trials 12: 1 finished, 1 failed, 10 waiting"]
    going = replace(now, rows=(*now.rows[:2], running(3, epochs=4)))
    assert plain_events(now, going) == ["trial 3 of 12  continues after epoch 4/10  lr 0.001"]


def test_the_pauses_of_pbt_are_not_shown(tmp_path: Path) -> None:
    paused = search(tmp_path, row_of(1, "waiting", epochs=4), algorithm="pbt")
    assert plain_events(paused, replace(paused, rows=(running(1, epochs=4),))) == []
    assert plain_events(replace(paused, rows=()), replace(paused, rows=(running(1),))) != []


def test_an_error_of_many_lines_is_one_line(tmp_path: Path) -> None:
    empty = search(tmp_path, running(1))
    failed = replace(empty, rows=(row_of(1, "failed", None, error="a\nb\x1b[31m"),))
    (line,) = plain_events(empty, failed)
    assert "\n" not in line and "\x1b" not in line


def test_a_donation_is_shown_with_what_it_changed(tmp_path: Path) -> None:
    before = search(tmp_path, running(1), running(2))
    one = Donation(number=2, epoch=3, donor=1, before={"optim.lr": 0.1, "a.b": 1}, after={"optim.lr": 0.08, "a.b": 1})
    now = replace(before, donations=(one,))
    assert plain_events(before, now) == ["trial 2 of 12  takes over trial 1 at epoch 3  lr 0.1 -> 0.08"]


# --- following


class Script(threading.Event):
    """A stop event that is set after `looks` looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def wait(self, timeout: float | None = None) -> bool:
        self.looks -= 1
        return self.looks <= 0


def reading(*states: Search) -> Callable[[], Search]:
    left = list(states)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def course(folder: Path) -> list[Search]:
    rows = (row_of(1, score=0.5, params={"optim.lr": 0.003}), running(2))
    error = "DataError: a.jpg is no image"
    return [
        search(folder),
        search(folder, running(1)),
        search(folder, *rows),
        search(folder, rows[0], row_of(2, "failed", None, error=error)),
    ]


def test_elsewhere_than_on_a_terminal_each_event_is_a_line_and_the_forecast_comes_once(tmp_path: Path) -> None:
    out = io.StringIO()
    Show(reading(*course(tmp_path)), out, 7200).follow(Script(5))
    lines = out.getvalue().splitlines()
    events = [line.split("  ")[1] for line in lines if line.startswith("trial ")]
    assert events == ["starts", "finished", "starts", "failed"]
    said = [line for line in lines if line.startswith("forecast")]
    assert len(said) == 1 and said[0].endswith("  elapsed 0:02:10  budget left 1:57:50")


def test_the_forecast_comes_again_every_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 10**6, 200))
    monkeypatch.setattr("raydet.tuning.report.live_view.clock", lambda: float(next(times)))
    out = io.StringIO()
    Show(reading(course(tmp_path)[2]), out, None).follow(Script(6))
    assert out.getvalue().count("forecast  a full trial") > 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (30, 8)])
def test_on_a_terminal_the_table_stays_and_a_failure_is_shown_above_it(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", str(height))
    out = Terminal()
    Show(reading(*course(tmp_path)), out, None).follow(Script(5))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "trials 12: 1 running, 11 w"[: width - 5] in text and "finished" in text
    assert text.replace("\n", " ").replace("  ", " ").count("DataError: a.jpg is no image") >= 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_reader_that_has_gone_ends_the_view_and_nothing_else(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal() if terminal else io.StringIO()
    out.close()
    monkeypatch.setattr(type(out), "isatty", lambda self: terminal, raising=False) if terminal else None
    Show(reading(*course(tmp_path)), out, None).follow(Script(5))
