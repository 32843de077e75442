"""A run on data that is not all sound says so: before it starts, each epoch, and in what it leaves."""

import io
import json
import shutil
from pathlib import Path

import pytest

from raydet.config import Config, override
from raydet.driver.fit import fit
from raydet.driver.plan import describe_start, make_plan
from raydet.inference.evaluate import evaluate


@pytest.mark.slow
def test_what_is_left_out_is_counted_named_and_shown(detection: Config, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(detection.data.root, root)
    for name in ("train", "val"):
        next(iter(sorted((root / name).glob("*.jpg")))).write_bytes(b"<html>")
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    content["annotations"][5]["bbox"][2] = -4
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    skip = {"data.root": str(root), "data.on_bad": "skip", "data.max_bad": 0.2, "schedule.epochs": 1}
    cfg = override(detection, skip)
    plan = make_plan(cfg)
    assert any("COCO-E16" in line and line.startswith("note      train: ") for line in describe_start(plan))
    out = io.StringIO()
    result = fit(cfg, out=out)
    assert (result.metrics["bad_images"], result.metrics["eval_bad_images"]) == (1, 1)
    assert "COCO-E16" in out.getvalue() and "2 bad images left out" in out.getvalue()
    told = (result.dir / "bad_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in told] == ["train", "val"] and "IMG-E03" in told[0]
    assert evaluate(result.best)["eval_bad_images"] == 1


@pytest.mark.slow
def test_a_run_that_leaves_nothing_out_says_nothing_of_it(trained_detector: Path) -> None:
    assert "bad_images" not in (trained_detector / "metrics.jsonl").read_text()
    assert not (trained_detector / "bad_images.txt").exists()
