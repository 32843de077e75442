"""What a run writes: no step twice, nothing lost by a kill, no failing file ends it (docs/faults.md F03, F24)."""

import csv
import errno
import json
import math
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydet.io.clock import clock, now
from raydet.io.files import replace_file
from raydet.runs import dllogger_format, run_log
from raydet.runs.run_log import RunLog


def lines(folder: Path) -> list[dict[str, Any]]:
    records = [dllogger_format.parse(line) for line in (folder / "log.json").read_text().splitlines()]
    return [r for r in records if r is not None]


def logs(folder: Path) -> list[dict[str, Any]]:
    return [r for r in lines(folder) if r["type"] == "LOG"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_epoch_stands_once_in_every_file(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, {run_log.MAP: 0.5, run_log.TRAIN_LOSS: math.nan, "note": "fine"})
    run.close()
    [line], [row] = metrics(tmp_path), rows(tmp_path)
    assert {k: v for k, v in line.items() if k != "elapsed_s"} == {
        "epoch": 1,
        "step": 10,
        "map": 0.5,
        "train_loss": None,
        "note": "fine",
    }
    assert (row["epoch"], row["step"], row["map"], row["train_loss"], row["note"]) == ("1", "10", "0.5", "nan", "fine")
    assert logs(tmp_path)[-1]["step"] == [0]
    assert run.problems == []


def test_files_are_closed_to_other_users(tmp_path: Path) -> None:
    run = RunLog(tmp_path / "runs" / "a", "detection")
    run.epoch(1, 10, {"x": 1})
    run.epoch(2, 20, {"y": 1})
    assert {oct(p.stat().st_mode & 0o7777) for p in (tmp_path / "runs").rglob("*") if p.is_file()} == {"0o640"}
    assert oct((tmp_path / "runs" / "a").stat().st_mode & 0o7777) == "0o750"


def test_a_new_column_widens_the_table_and_keeps_old_rows(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, {"a": 1})
    run.epoch(2, 20, {"b": 2, "a": 3})
    run.epoch(3, 30, {"b": 4})
    table = rows(tmp_path)
    assert [(r["a"], r["b"]) for r in table] == [("1", ""), ("3", "2"), ("", "4")]


def test_a_spreadsheet_finds_no_formula(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    names = ["=cmd()", "+1", "-x", "@sum", "\tx", 'quote",comma', "line\nbreak"]
    for epoch in (1, 2):
        run.epoch(epoch, epoch, {name: name for name in names} | {"number": -0.5})
    run.close()
    again = RunLog(tmp_path, "detection", first_step=2)
    again.epoch(3, 3, dict.fromkeys(names, "=x"))
    table = list(csv.reader((tmp_path / "results.csv").open(newline="")))
    assert [len(row) for row in table] == [11] * 4
    cells = [cell for row in table for cell in row if cell and cell != "-0.5"]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    assert table[1][-1] == "-0.5"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return TensorBoard's events as its reader sees them: a later session takes back what it repeats."""
    from tensorboardX.proto import event_pb2

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                found = {k: [p for p in v if p[0] < event.step] for k, v in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_gets_the_scalars_at_their_steps(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    run.train_step(1, 10, 4, {run_log.TRAIN_LOSS: 2.0, "text": "no", "flag": True})
    run.epoch(2, 20, {run_log.MAP: 0.5})
    run.epoch(3, 30, {run_log.MAP: 0.25})
    run.close()
    again = RunLog(tmp_path, "detection", first_step=20)
    again.epoch(3, 30, {run_log.MAP: 0.75})
    again.close()
    assert scalars(tmp_path) == {"step/train_loss": [(15, 2.0)], "map": [(20, 0.5), (30, 0.75)]}


def test_on_resume_no_step_stands_twice(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    for epoch in (1, 2, 3):
        run.epoch(epoch, 10 * epoch, {"map": epoch})
    run.close()
    again = RunLog(tmp_path, "detection", first_step=20)
    again.epoch(3, 30, {"map": 33})
    assert [(m["step"], m["map"]) for m in metrics(tmp_path)] == [(10, 1), (20, 2), (30, 33)]
    assert [(r["step"], r["map"]) for r in rows(tmp_path)] == [("10", "1"), ("20", "2"), ("30", "33")]
    assert len([r for r in logs(tmp_path) if r["step"] == [2]]) == 2, "log.json is a diary"


def test_a_step_written_again_within_a_run_replaces_the_old(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    for epoch, value in ((1, 1), (2, 2), (3, 3), (2, 22), (2, 23)):
        run.epoch(epoch, 10 * epoch, {"map": value})
    assert [(m["step"], m["map"]) for m in metrics(tmp_path)] == [(10, 1), (20, 23)]
    assert [(r["step"], r["map"]) for r in rows(tmp_path)] == [("10", "1"), ("20", "23")]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_last_line_torn_by_a_kill_is_dropped_on_resume(tmp_path: Path, cut: int) -> None:
    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, {"map": 1.5})
    run.epoch(2, 20, {"map": 2.5})
    run.close()
    for name in ("log.json", "metrics.jsonl", "results.csv"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-cut])
    again = RunLog(tmp_path, "detection", first_step=20)
    again.epoch(3, 30, {"map": 3.5})
    assert [m["step"] for m in metrics(tmp_path)] == [10, 30]
    assert [r["step"] for r in rows(tmp_path)] == ["10", "30"]
    assert all(dllogger_format.parse(line) for line in (tmp_path / "log.json").read_text().splitlines())


def test_rubbish_in_the_files_is_dropped_on_resume(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, {"map": 1})
    run.close()
    for name, text in (("metrics.jsonl", '{"a"\n[]\n{"step": "x"}\n\0\0\n'), ("results.csv", "a,b\n\0\0\n,,,,,,\n")):
        with (tmp_path / name).open("a") as file:
            file.write(text)
    again = RunLog(tmp_path, "detection", first_step=10)
    again.epoch(2, 20, {"map": 2})
    assert [m["step"] for m in metrics(tmp_path)] == [10, 20]
    assert [r["step"] for r in rows(tmp_path)] == ["10", "20"]
    assert again.problems == []


def in_child(action: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_after_a_hundred_lines_loses_none(tmp_path: Path) -> None:
    def run_and_die() -> None:
        run = RunLog(tmp_path, "detection")
        for i in range(100):
            run.train_step(0, 100, i, {run_log.TRAIN_LOSS: i})
        run.epoch(1, 100, {run_log.MAP: 1})
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(run_and_die) == -signal.SIGKILL
    assert [r["step"][-1] for r in logs(tmp_path) if len(r["step"]) == 3] == list(range(100))
    assert len(metrics(tmp_path)) == len(rows(tmp_path)) == 1
    assert scalars(tmp_path)["map"] == [(100, 1.0)]


def test_a_full_disk_never_ends_training_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, {"map": 1})
    real = os.write

    def half(handle: int, data: bytes) -> int:
        return real(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.warns(RuntimeWarning) as caught:
        for epoch in (2, 3):
            run.train_step(epoch, 10, 0, {"a": 1})
            run.epoch(epoch, 10 * epoch, {"map": epoch})
    assert len(caught) == len(run.problems) == 3
    assert all("No space left" in problem for problem in run.problems)
    monkeypatch.undo()
    run.epoch(4, 40, {"map": 4})
    assert logs(tmp_path)[-1]["step"] == [3], "what comes after stands on lines of its own"
    run.close()
    again = RunLog(tmp_path, "detection", first_step=40)
    assert [m["step"] for m in metrics(tmp_path)] == [10, 40]
    assert [r["step"] for r in rows(tmp_path)] == ["10", "40"]
    assert again.problems == []


@pytest.mark.parametrize("name", ["JsonBackend", "JsonLines", "CsvTable", "EventFile"])
def test_a_sink_that_cannot_be_opened_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", "s3://key:hunter2secret@bucket")

    monkeypatch.setattr(run_log, name, refuse)
    with pytest.warns(RuntimeWarning, match="continues without"):
        run = RunLog(tmp_path, "detection")
    run.parameters({"a": 1})
    run.train_step(0, 10, 0, {"train_loss": 1})
    run.epoch(1, 10, {"map": 1})
    run.summary({"map": 1})
    run.close()
    assert len(run.problems) == 1 and "Permission denied" in run.problems[0] and "hunter2" not in run.problems[0]
    assert sum(p.stat().st_size > 0 for p in tmp_path.iterdir()) == 3


def test_a_value_that_no_file_can_hold_does_not_end_training(tmp_path: Path) -> None:
    class Odd:
        def tolist(self) -> object:
            return object()

    run = RunLog(tmp_path, "detection")
    run.epoch(1, 10, {"odd": Odd(), "map": 1})
    assert metrics(tmp_path)[0]["map"] == 1


def test_a_second_close_does_nothing(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    run.close()
    run.close()
    assert run.problems == []


def test_the_clock_only_grows_and_now_has_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock() >= before
    assert now().tzinfo is not None


def test_a_replaced_file_is_old_or_new_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    replace_file(path, "old\n")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        replace_file(path, "new\n")
    assert path.read_text() == "old\n" and [p.name for p in tmp_path.iterdir()] == ["x"]
