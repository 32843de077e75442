"""dllogger's format, to the byte (docs/faults.md A6)."""

import datetime
import json
import math
import re
import sys
import types
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.io.jsonable import plain
from raydet.runs import dllogger_format, run_log
from raydet.runs.run_log import RunLog


def lines(folder: Path) -> list[dict[str, Any]]:
    records = [dllogger_format.parse(line) for line in (folder / "log.json").read_text().splitlines()]
    return [r for r in records if r is not None]


def logs(folder: Path) -> list[dict[str, Any]]:
    return [r for r in lines(folder) if r["type"] == "LOG"]


STAMP = r'"timestamp": "\d{10}\.\d+"'


DATE = r'"datetime": "\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?[+-]\d\d:\d\d"'


ELAPSED = r'"elapsedtime": "[0-9.e-]+"'


def check_golden(folder: Path) -> None:
    text = (folder / "log.json").read_text()
    metadata = (
        rf'DLLL {{{STAMP}, {ELAPSED}, {DATE}, "type": "METADATA", "metric": "map", "metadata": {{"unit": null}}}}\n'
    )
    assert re.search(f"^{metadata}", text, re.M)
    step = (
        rf'DLLL {{{STAMP}, {DATE}, {ELAPSED}, "type": "LOG", "step": \[3, 100, 7\], "data": {{"train_loss": 0.5}}}}\n'
    )
    assert re.search(f"^{step}", text, re.M)
    summary = rf'DLLL {{{STAMP}, {DATE}, {ELAPSED}, "type": "LOG", "step": \[\], "data": {{"map": NaN}}}}\n'
    assert re.search(f"^{summary}", text, re.M)
    parameters = (
        rf'DLLL {{{STAMP}, {DATE}, {ELAPSED}, "type": "LOG", "step": "PARAMETER", "data": {{"a": "\\u00e9"}}}}\n'
    )
    assert re.search(f"^{parameters}", text, re.M)
    assert all(line.startswith("DLLL {") for line in text.splitlines())


def write_golden(folder: Path) -> None:
    run = RunLog(folder, "detection")
    run.parameters({"a": "é"})
    run.train_step(3, 100, 7, {run_log.TRAIN_LOSS: 0.5})
    run.summary({run_log.MAP: math.nan})
    run.close()


def test_log_json_has_dlloggers_format_to_the_byte(tmp_path: Path) -> None:
    write_golden(tmp_path)
    check_golden(tmp_path)


class FakeLogger:
    """dllogger.Logger as its interface is, with the naive times of version 1.0."""

    made = 0

    def __init__(self, backends: list[Any]) -> None:
        self.backends, self.start = backends, datetime.datetime.now()
        FakeLogger.made += 1

    def metadata(self, metric: str, metadata: dict[str, Any]) -> None:
        for backend in self.backends:
            backend.metadata(datetime.datetime.now(), 0.5, metric, metadata)

    def log(self, step: Any, data: dict[str, Any], verbosity: int = 1) -> None:
        for backend in self.backends:
            if backend.verbosity >= verbosity:
                backend.log(datetime.datetime.now(), 0.5, step, data)


def test_with_the_dllogger_package_the_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("dllogger")
    module.Logger = FakeLogger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dllogger", module)
    before = FakeLogger.made
    write_golden(tmp_path)
    assert FakeLogger.made == before + 1
    check_golden(tmp_path)


def test_verbosity_filters_as_dllogger_does(tmp_path: Path) -> None:
    backend = dllogger_format.JsonBackend(tmp_path / "log.json", dllogger_format.DEFAULT)
    logger = dllogger_format.logger(backend)
    logger.log((), {"shown": 1}, dllogger_format.DEFAULT)
    logger.log((), {"hidden": 1})
    logger.metadata("always", {})
    assert [r.get("data", r.get("metric")) for r in lines(tmp_path)] == [{"shown": 1}, "always"]


def test_steps_are_nvidias_for_each_task(tmp_path: Path) -> None:
    for task, expected in (
        ("detection", [[2, 50, 7], [2], []]),
        ("classification", [[2, 7], [2], []]),
    ):
        run = RunLog(tmp_path / task, task)
        run.train_step(2, 50, 7, {})
        run.epoch(3, 150, {})
        run.summary({})
        steps = [r["step"] for r in logs(tmp_path / task)]
        assert steps == ["PARAMETER", *expected]


def test_metric_names_are_nvidias_misspelling_included() -> None:
    assert {"train_loss", "eval_loss", "train_throughout", "eval_throughput", "map"} < set(
        run_log.METADATA["detection"]
    )
    assert {"train_batch_time", "eval_batch_time"} < set(run_log.METADATA["detection"])
    names = "train.loss train.total_ips train.compute_ips train.data_time train.compute_time train.lr train.grad_scale"
    assert {*names.split(), "val.top1", "val.top5", "val.loss"} < set(run_log.METADATA["classification"])


OURS = {
    "train_loss": 1.5,
    "lr": 0.1,
    "images_per_s": 100.0,
    "step_s": 0.5,
    "data_wait": 0.25,
    "loss_scale": 8.0,
    "eval_loss": 2.0,
    "eval_images_per_s": 50.0,
    "other": "kept",
}


def test_a_detectors_figures_get_nvidias_names_in_log_json() -> None:
    assert run_log.nvidia("detection", {**OURS, "AP": 0.3, "AP50": 0.5}) == {
        "train_loss": 1.5,
        "lr": 0.1,
        "train_throughout": 100.0,
        "train_batch_time": 0.5,
        "data_wait": 0.25,
        "loss_scale": 8.0,
        "eval_loss": 2.0,
        "eval_throughput": 50.0,
        "map": 0.3,
        "AP50": 0.5,
        "other": "kept",
    }


def test_a_classifiers_figures_get_nvidias_names_and_units_in_log_json() -> None:
    assert run_log.nvidia("classification", {**OURS, "top1": 0.75, "top5": math.nan}) == pytest.approx(
        {
            "train.loss": 1.5,
            "train.lr": 0.1,
            "train.total_ips": 100.0,
            "train.compute_ips": 100 / 0.75,
            "train.data_time": 0.125,
            "train.compute_time": 0.375,
            "train.grad_scale": 8.0,
            "val.loss": 2.0,
            "val.total_ips": 50.0,
            "val.top1": 75.0,
            "val.top5": math.nan,
            "other": "kept",
        },
        nan_ok=True,
    )


def test_names_are_translated_in_log_json_alone(tmp_path: Path) -> None:
    RunLog(tmp_path, "classification").epoch(1, 10, {"top1": 0.75})
    assert logs(tmp_path)[-1]["data"] == {"val.top1": 75.0}
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["top1"] == 0.75


def test_upstreams_old_files_and_rubbish_are_read_without_a_crash() -> None:
    old = (
        'DLLL {"timestamp": "1570716921.842053", "datetime": "2019-10-10 14:15:21.842053+00:00", "type": "LOG", '
        '"step": [0, 5], "data": {"train.loss": 8.56640625}}'
    )
    record = dllogger_format.parse(old)
    assert record is not None and record["step"] == [0, 5]
    bad_format = 'DLLL {"timestamp": "1", "type": "METADATA", "metric": "a", "metadata": {"format": ":.5f+00:00"}}'
    assert dllogger_format.parse(bad_format) is not None
    assert [dllogger_format.parse(text) for text in ("", "DLLL", "DLLL {", "DLLL []", "{}", old[:40])] == [None] * 6


class Level(IntEnum):
    HIGH = 3


def test_values_of_all_kinds_become_plain_json(tmp_path: Path) -> None:
    values = {
        "f32": np.float32(0.5),
        "f64": np.float64(0.25),
        "i64": np.int64(7),
        "bool": np.bool_(True),
        "array": np.arange(2),
        "tensor": torch.tensor(1.5, requires_grad=True),
        "bf16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "enum": Level.HIGH,
        "path": Path("a") / "b",
        "tuple": (1, (2.5, None)),
        "set": {1},
        "nested": {1: {"x": np.float16(2)}},
    }
    found = {k: plain(v) for k, v in values.items()}
    assert found == {
        "f32": 0.5,
        "f64": 0.25,
        "i64": 7,
        "bool": True,
        "array": [0, 1],
        "tensor": 1.5,
        "bf16": [1.0, 2.0],
        "enum": 3,
        "path": str(Path("a") / "b"),
        "tuple": [1, [2.5, None]],
        "set": [1],
        "nested": {"1": {"x": 2.0}},
    }
    assert json.loads(json.dumps(found)) == found
    assert type(found["f64"]) is float and type(found["enum"]) is int


def test_elapsed_time_ignores_jumps_of_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = dllogger_format.JsonBackend(tmp_path / "log.json")
    day = datetime.timedelta(days=1)
    for jump in (day, -day):
        backend.log(datetime.datetime.now() + jump, jump.total_seconds(), (), {})
    assert all(0 <= float(r["elapsedtime"]) < 60 for r in lines(tmp_path))
