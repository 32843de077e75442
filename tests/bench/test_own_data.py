"""`raydet bench own-data`: both sides train, are scored on the test split, and are told what they cost."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from raydet import models
from raydet.bench import own_data
from raydet.cli import main as cli


def test_what_it_needs_is_said(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ([], "takes one data set"),
        ([str(shop)], "needs --model.weights FILE"),
        ([str(shop), "--model.weights", "x.pth", "--only", "effdat"], "--only must be some of raydet, effdet, random"),
        ([str(shop), "--model.weights", "x.pth"], "has no test split to score on"),
    ):
        assert cli.run(["bench", "own-data", *words]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.soak
def test_both_sides_train_and_are_scored(toy_detection: Path, tmp_path: Path) -> None:
    data = tmp_path / "toy"
    shutil.copytree(toy_detection, data)
    annotations = data / "annotations"
    shutil.copy(annotations / "instances_val.json", annotations / "instances_test.json")
    shutil.copytree(data / "val", data / "test")
    backbone = models.build("tf_efficientnet_lite0", 10).state_dict()
    torch.save(backbone, tmp_path / "tf_efficientnet_lite0.pth")
    changes = {"model.weights": str(tmp_path / "tf_efficientnet_lite0.pth"), "data.workers": 0}
    changes |= {"schedule.epochs": 1, "model.image_size": 128}
    said: list[str] = []
    out, sides = tmp_path / "out", ("raydet", "effdet")
    report = own_data.bench_own_data(str(data), "efficientdet_lite0", changes, 1, out, sides, said.append)
    assert [run["side"] for run in report["runs"]] == ["raydet", "effdet"] and len(said) == 2
    for run in report["runs"]:
        assert 0 <= run["AP"] <= run["AP50"] <= 1 and run["cpu_min"] > 0.05 and run["peak_mib"] > 300
    assert json.loads((out / "own_data.json").read_text()) == report
    assert "| effdet | " in (out / "own_data.md").read_text()
