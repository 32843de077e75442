"""The driver's view of a run, from files as a run writes them: growing, torn, cut back, missing."""

import io
import json
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from raydet.runs import run_log
from raydet.runs.run_log import RunLog
from raydet.terminal import run_view
from raydet.terminal.run_status import Board, Tail, columns_of, duration, wait_share
from raydet.terminal.run_view import follow, render


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def figures(epoch: int) -> dict[str, float]:
    return {
        run_log.LR: 0.01 / epoch,
        run_log.TRAIN_LOSS: 1.0 / epoch,
        run_log.EVAL_LOSS: 2.0 / epoch,
        run_log.AP: 0.1 * epoch,
        run_log.AP50: 0.15 * epoch,
        run_log.TOP1: 0.7,
        run_log.TOP5: 0.9,
        run_log.IMAGES_PER_S: 1234.5,
        run_log.DATA_WAIT: 0.12,
        run_log.MEMORY_BYTES: 3.2e9,
    }


def step(loss: float) -> dict[str, float]:
    return {run_log.TRAIN_LOSS: loss, run_log.IMAGES_PER_S: 99.0, run_log.DATA_WAIT: 0.5, run_log.STEP_S: 0.4}


class Script(threading.Event):
    """A stop event whose waits run the run's next piece; set after the last."""

    def __init__(self, *pieces: Callable[[], object]) -> None:
        super().__init__()
        self.pieces = list(pieces)

    def wait(self, timeout: float | None = None) -> bool:
        if self.pieces:
            self.pieces.pop(0)()
        return not self.pieces


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_each_epoch_is_one_line(tmp_path: Path) -> None:
    out = io.StringIO()
    runs: list[RunLog] = []
    follow(
        tmp_path,
        "detection",
        3,
        Script(
            lambda: None,
            lambda: runs.append(RunLog(tmp_path, "detection")),
            lambda: runs[0].train_step(0, 10, 0, step(1.5)),
            lambda: runs[0].epoch(1, 10, figures(1)),
            lambda: runs[0].train_step(1, 10, 0, step(1.5)),
            lambda: [runs[0].epoch(2, 20, figures(2)), runs[0].epoch(3, 30, figures(3) | {run_log.AP: math.nan})],
        ),
        out,
    )
    first, *lines = out.getvalue().splitlines()
    assert first == "starting ...  0:00:00"
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[0].startswith(
        "epoch 1/3  train loss 1.0000  AP 0.100  eval loss 2.0000  AP50 0.150  images/s 1234  wait 12%  lr 1.0e-02"
        "  memory 3.2 GB  elapsed 0:00:0"
    )
    assert "AP 0" not in lines[2], "a figure that is not a number is left out"


def test_on_a_terminal_the_table_grows_above_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    runs: list[RunLog] = []
    follow(
        tmp_path,
        "detection",
        2,
        Script(
            lambda: runs.append(RunLog(tmp_path, "detection")),
            lambda: runs[0].train_step(0, 10, 4, step(1.5)),
            lambda: runs[0].epoch(1, 10, figures(1)),
            lambda: runs[0].epoch(2, 20, figures(2)),
        ),
        out,
    )
    assert "starting ..." in out.getvalue() and "waits for data 50%" in out.getvalue()
    assert screen(out.getvalue()) == [
        "epoch  train loss      AP  eval loss    AP50  images/s  wait       lr   memory",
        "  1/2      1.0000   0.100     2.0000   0.150      1234   12%  1.0e-02   3.2 GB",
        "  2/2      0.5000   0.200     1.0000   0.300      1234   12%  5.0e-03   3.2 GB",
    ]


def screen(text: str) -> list[str]:
    """Return what a terminal shows after `text`; knows the few codes that rich's live view uses."""
    rows, at = [""], 0
    for part in re.findall(r"\x1b\[\??\d*(?:;\d+)*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\n":
            at += 1
            rows += [""] * (at + 1 - len(rows))
        elif part.endswith("A") and part[0] == "\x1b":
            at -= int(part[2:-1])
        elif part == "\x1b[2K":
            rows[at] = ""
        elif part[0] not in "\x1b\r":
            rows[at] += part
    while rows and not rows[-1]:
        rows.pop()
    return rows


def test_a_long_epoch_gives_a_line_each_half_minute(tmp_path: Path) -> None:
    clock = Clock()
    board = Board(tmp_path, "detection", 2, time=clock)
    out = io.StringIO()
    run: list[RunLog] = []

    def later(seconds: float, batch: int) -> Callable[[], None]:
        def act() -> None:
            clock.now += seconds
            if batch < 0:
                return
            run[0].train_step(0, 100, batch, step(0.5))

        return act

    script = Script(
        lambda: run.append(RunLog(tmp_path, "detection")), later(10, 0), later(15, 5), later(20, 10), later(5, 11)
    )
    run_view._follow_plain(board, out, script)
    lines = out.getvalue().splitlines()
    assert lines[0] == "starting ...  0:00:00"
    assert lines[1:] == [
        "epoch 1/2  step 11/100  loss 0.5000  99.0 images/s  waits for data 50%  elapsed 0:00:45  left 0:11:02"
    ]


def test_what_an_earlier_attempt_wrote_is_not_shown(tmp_path: Path) -> None:
    old = RunLog(tmp_path, "detection")
    for epoch in (1, 2, 3):
        old.train_step(epoch - 1, 10, 9, step(1))
        old.epoch(epoch, 10 * epoch, figures(epoch))
    old.close()
    board = Board(tmp_path, "detection", 5, from_step=20)
    assert board.poll() == [] and not board.running
    new = RunLog(tmp_path, "detection", first_step=20)  # drops step 30: the file is replaced
    assert board.poll() == []
    new.epoch(3, 30, figures(3))
    assert [row["step"] for row in board.poll()] == [30]


def test_a_step_that_a_restart_repeats_is_shown_once(tmp_path: Path) -> None:
    board = Board(tmp_path, "detection", 5)
    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, figures(1))
    run.epoch(2, 20, figures(2))
    seen = [row["step"] for row in board.poll()]
    run.close()
    again = RunLog(tmp_path, "detection", first_step=10)
    again.epoch(2, 20, figures(2))
    again.epoch(3, 30, figures(3))
    assert seen + [row["step"] for row in board.poll()] == [10, 20, 30]


def test_torn_and_foreign_lines_are_waited_for_or_skipped(tmp_path: Path) -> None:
    board = Board(tmp_path, "detection", 5)
    row = json.dumps({"epoch": 1, "step": 10, "map": 0.5})
    path = tmp_path / "metrics.jsonl"
    path.write_text("{rubbish\n[1]\n{}\n\xff\n" + row[:9], encoding="latin-1")
    (tmp_path / "log.json").write_text(
        'DLLL {"type": "LOG", "step": [0, 10, 3], "da\nhello\nDLLL [1]\nDLLL {"type": 3}\n'
    )
    assert board.poll() == [] and not board.running
    with path.open("a") as file:
        file.write(row[9:])
    assert board.poll() == []
    with path.open("a") as file:
        file.write("\n")
    assert [row["map"] for row in board.poll()] == [0.5]


def test_a_tail_starts_again_when_its_file_is_cut_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text("a\nb\n")
    assert tail.lines() == ["a", "b"] and tail.lines() == []
    path.write_text("c\n")
    assert tail.lines() == ["c"]
    (tmp_path / "y").write_text("d\ne\nf\n")
    (tmp_path / "y").replace(path)
    assert tail.lines() == ["d", "e", "f"]
    path.unlink()
    assert tail.lines() == []


def test_the_forecast_goes_by_the_pace_since_the_first_step_seen(tmp_path: Path) -> None:
    clock = Clock()
    board = Board(tmp_path, "detection", 4, time=clock)
    run = RunLog(tmp_path, "detection")
    clock.now += 500  # starting up is not part of the pace
    run.train_step(0, 10, 0, step(1))
    board.poll()
    assert board.left_s is None and board.elapsed_s == 500
    clock.now += 27
    run.train_step(0, 10, 9, step(1))
    board.poll()
    assert board.left_s == pytest.approx(3.0 * 30)
    run.train_step(0, 10, 4, step(1))  # back to a checkpoint: the pace is measured anew
    board.poll()
    assert board.left_s is None


def test_a_jump_of_the_wall_clock_changes_no_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    board = Board(tmp_path, "detection", 2, time=clock)
    run = RunLog(tmp_path, "detection")
    run.train_step(0, 10, 0, step(1))
    board.poll()
    monkeypatch.setattr("time.time", lambda: 0.0)
    clock.now += 9
    run.train_step(0, 10, 9, step(1))
    board.poll()
    assert board.left_s == pytest.approx(10)


def test_a_classifier_shows_its_own_figures(tmp_path: Path) -> None:
    board = Board(tmp_path, "classification", 2)
    run = RunLog(tmp_path, "classification")
    data = {run_log.TRAIN_LOSS: 2.5, run_log.IMAGES_PER_S: 512.0, run_log.DATA_WAIT: 0.25, run_log.STEP_S: 0.4}
    run.train_step(0, 20, 9, data)
    board.poll()
    assert run_view.plain_step(board).startswith("epoch 1/2  step 10/20  loss 2.5000  512 images/s  waits for data 25%")
    run.train_step(0, 20, 19, data)
    board.poll()
    assert run_view.plain_step(board).startswith("epoch 1/2  evaluating")
    run.epoch(1, 20, {run_log.TRAIN_LOSS: 2.0, run_log.TOP1: 0.7612, run_log.TOP5: 0.934, run_log.EVAL_LOSS: 1.1})
    run.train_step(1, 20, 0, data)  # the view reads on after that
    [row] = board.poll()
    assert run_view.plain_epoch(board, row).startswith(
        "epoch 1/2  train loss 2.0000  top1 % 76.12  eval loss 1.1000  top5 % 93.40"
    )
    assert run_view.plain_step(board).startswith("epoch 2/2  step 1/20")
    run.train_step(1, 20, 19, data)
    board.poll()
    assert run_view.plain_step(board).startswith("epoch 2/2  evaluating")


@pytest.mark.parametrize("task", ["detection", "classification"])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_table_fits_the_terminal(task: str, width: int) -> None:
    columns = run_view.fitting(columns_of(task, 300), width)
    row = {"epoch": 300} | figures(1) | {run_log.TRAIN_LOSS: 12345.678}
    texts = [run_view.head(columns).plain, run_view.line(columns, row).plain]
    assert max(map(len, texts)) <= width or len(columns) == 1
    if width >= 80:
        assert len(columns) == 9


def test_the_bar_fits_eighty_columns(tmp_path: Path) -> None:
    clock = Clock()
    board = Board(tmp_path, "detection", 300, time=clock)
    run = RunLog(tmp_path, "detection")
    run.train_step(0, 500, 0, step(1))
    board.poll()
    clock.now += 86400
    run.train_step(9, 500, 300, step(12345.6))
    board.poll()
    text = render(run_view.status(board))
    assert [len(line.rstrip()) <= 80 for line in text.splitlines()] == [True, True]
    assert "epoch 10/300  step 301/500  loss 12345.6000  99.0 images/s  waits for data 50%" in text
    assert "elapsed 1d 0:00:00" in text and "left 30d" in text


def test_a_closed_output_ends_the_view_quietly(tmp_path: Path) -> None:
    out = io.StringIO()
    out.close()
    follow(tmp_path, "detection", 1, Script(lambda: None), out)


def test_the_view_ends_when_told_in_a_thread(tmp_path: Path) -> None:
    stop, out = threading.Event(), io.StringIO()
    thread = threading.Thread(target=follow, args=(tmp_path, "detection", 1, stop, out))
    thread.start()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_durations_and_shares_are_readable() -> None:
    assert [duration(s) for s in (None, 0, 59.6, 3600, 90061)] == ["-", "0:00:00", "0:01:00", "1:00:00", "1d 1:01:01"]
    assert wait_share({}) is None
    assert wait_share({run_log.CLS_TRAIN_DATA_TIME: 0.0, run_log.CLS_TRAIN_COMPUTE_TIME: 0.0}) is None


def test_ascii_terminals_are_served(tmp_path: Path) -> None:
    board = Board(tmp_path, "detection", 3)
    RunLog(tmp_path, "detection").train_step(0, 10, 4, step(1))
    board.poll()
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=raw, width=80).print(run_view.status(board))
    raw.flush()
