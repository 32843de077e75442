"""What the raydet of before 2026-12 wrote (commit 5b120c7) still evaluates, continues and loads.

A run of demo_classification (SGD, 60 training and 30 validation images as `toy_classification`) killed after 8 of 9
epochs, and its best checkpoint as an INT8 file, whose weights need VNNI.
"""

import csv
import json
import shutil
import warnings
from pathlib import Path

import pytest

import raydet
from raydet.config import load
from raydet.onnx import saturation
from raydet.runs.bad_images import read_bad_images

OLD = Path(__file__).parent / "files" / "before_2026_12"


@pytest.fixture
def run(toy_classification: Path, tmp_path: Path) -> Path:
    """The old run, moved to where this machine keeps its data and runs."""
    folder = tmp_path / "runs" / "run"
    shutil.copytree(OLD / "run", folder)
    values = json.loads((folder / "config.json").read_text())
    values["data"]["root"], values["run"]["storage_path"] = str(toy_classification), str(tmp_path / "runs")
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_an_old_checkpoint_evaluates_to_the_figures_it_had(run: Path, toy_classification: Path) -> None:
    saved = json.loads(next(run.glob("checkpoints/*/MANIFEST.json")).read_text())["metrics"]
    found = raydet.evaluate(run, {"data.root": str(toy_classification)})
    assert found["top1"] == pytest.approx(saved["top1"]) and found["top5"] == pytest.approx(saved["top5"])
    assert found["eval_loss"] == pytest.approx(saved["eval_loss"], rel=1e-4) == pytest.approx(2.75218, abs=1e-4)


def test_an_old_run_continues_under_its_own_configuration(run: Path) -> None:
    before = list(csv.reader((run / "results.csv").open()))
    result = raydet.fit(load(run / "config.json"))
    after = list(csv.reader((run / "results.csv").open()))
    assert len(before) == 9 and [row[0] for row in after] == ["epoch", *map(str, range(1, 10))]
    column = before[0].index("train_loss")
    assert [row[column] for row in after[1:9]] == [row[column] for row in before[1:]]
    assert result.last.name == "step_00000072"


def test_the_list_of_bad_images_is_read_under_its_old_name() -> None:
    assert read_bad_images(OLD / "run") == ["train\t/data/train/3/9.jpg: is cut off (IMG-E04)\n"]


@pytest.mark.parametrize("saturates", [True, False])
def test_an_old_int8_file_loads_and_is_named_where_it_needs_vnni(
    saturates: bool, toy_classification: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "saturates", lambda: saturates)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = raydet.evaluate(OLD / "int8.onnx", {"data.root": str(toy_classification)})
    told = [str(w.message) for w in caught if "needs a CPU with VNNI" in str(w.message)]
    assert len(told) == saturates and 0 <= found["top1"] <= 1
