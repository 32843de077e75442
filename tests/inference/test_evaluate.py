"""evaluate on a run that was trained for a moment: figures, files, errors at the door."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import raydet
from raydet.config import Config
from raydet.exceptions import CheckpointError, ConfigError, DataError, Refused
from raydet.runs import checkpoint_store


def last_metrics(run: Path) -> dict[str, float]:
    row: dict[str, float] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return row


@pytest.mark.slow
def test_evaluate_gives_what_the_run_wrote_down(trained_detector: Path, trained_classifier: Path) -> None:
    figures = raydet.evaluate(trained_detector)
    written = last_metrics(trained_detector)
    for name in ("eval_loss", "AP", "AP50", "AP75", "AR100"):
        assert figures[name] == pytest.approx(written[name], rel=1e-6, abs=1e-9), name
    assert raydet.evaluate(trained_classifier)["top1"] == pytest.approx(last_metrics(trained_classifier)["top1"])


@pytest.mark.slow
def test_both_judges_give_the_same_figures(trained_detector: Path) -> None:
    one, other = (raydet.evaluate(trained_detector, {"evaluation.backend": b}) for b in ("faster", "pycocotools"))
    names = [name for name in one if name.startswith(("AP", "AR"))]
    assert len(names) >= 12
    np.testing.assert_allclose([one[n] for n in names], [other[n] for n in names], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_checkpoint_and_its_run_are_the_same_source(trained_detector: Path) -> None:
    newest = checkpoint_store.newest(trained_detector / "checkpoints")
    assert newest is not None
    assert raydet.evaluate(newest.path)["AP"] == raydet.evaluate(trained_detector)["AP"]


@pytest.mark.slow
def test_another_split_can_be_scored(trained_detector: Path) -> None:
    on_train = raydet.evaluate(trained_detector, split="train")
    assert on_train["eval_loss"] != raydet.evaluate(trained_detector)["eval_loss"]


def test_detections_and_metrics_are_written(trained_detector: Path, toy_detection: Path, tmp_path: Path) -> None:
    """pycocotools, given the file and the data set's own annotations, comes to the same AP."""
    figures = raydet.evaluate(trained_detector, {"evaluation.score_threshold": 0.0}, out=tmp_path / "scored")
    truth = COCO(str(toy_detection / "annotations" / "instances_val.json"))
    for source in (truth, COCO(str(tmp_path / "scored" / "images.json"))):
        found = source.loadRes(str(tmp_path / "scored" / "predictions.json"))
        assert set(found.getImgIds()) == set(truth.getImgIds()) and set(found.getCatIds()) == set(truth.getCatIds())
    rows = json.loads((tmp_path / "scored" / "predictions.json").read_text())
    assert {row["category_id"] for row in rows} <= set(truth.getCatIds())
    judge = COCOeval(truth, truth.loadRes(str(tmp_path / "scored" / "predictions.json")), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(figures["AP"], abs=1e-4)
    written = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert written["AP"] == figures["AP"]
    with pytest.raises(Refused, match=r"holds .*instances_val\.json"):
        raydet.evaluate(trained_detector, out=toy_detection / "annotations")


def test_a_split_without_boxes_is_refused_in_words(trained_detector: Path, toy_detection: Path) -> None:
    folder = toy_detection / "annotations"
    whole = json.loads((folder / "instances_val.json").read_text())
    crowds = whole | {"annotations": [one | {"iscrowd": 1} for one in whole["annotations"]]}
    bare = {key: whole[key] for key in ("images", "categories")}
    for name, content, said in (("bare", bare, "no boxes"), ("crowds", crowds, "no boxes but crowds")):
        (folder / f"{name}.json").write_text(json.dumps(content))
        changes = {"data.test": f"annotations/{name}.json", "data.test_images": "val"}
        with pytest.raises(DataError, match=rf"(?s){said}.*raydet predict"):
            raydet.evaluate(trained_detector, changes, split="test")


def test_a_damaged_checkpoint_is_refused(trained_detector: Path, tmp_path: Path) -> None:
    newest = checkpoint_store.newest(trained_detector / "checkpoints")
    assert newest is not None
    copy = tmp_path / newest.path.name
    copy.mkdir()
    for file in newest.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "ema.safetensors").write_bytes((copy / "ema.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"ema\.safetensors"):
        raydet.evaluate(copy)


def test_data_with_other_classes_is_refused(
    trained_detector: Path, toy_classification: Path, toy_detection: Path
) -> None:
    other = json.loads((toy_detection / "annotations" / "instances_val.json").read_text())
    other["categories"][3]["name"] = "drei"
    path = toy_detection / "annotations" / "instances_other.json"
    path.write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="classes that the model lacks: class 4 'drei'"):
        raydet.evaluate(trained_detector, {"data.val": f"annotations/{path.name}", "data.val_images": "val"})


def test_a_split_with_fewer_classes_is_scored_by_their_names(trained_detector: Path, toy_detection: Path) -> None:
    """In another order and under other ids: what is scored is what the whole list of classes gives."""
    content = json.loads((toy_detection / "annotations" / "instances_val.json").read_text())
    kept = {a["category_id"] for a in content["annotations"][:9:2]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
    whole = json.dumps(content)
    new = {old: number for number, old in enumerate(sorted(kept, reverse=True), 700)}
    content["categories"] = [c | {"id": new[c["id"]]} for c in content["categories"] if c["id"] in kept]
    for annotation in content["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]
    few = toy_detection / "annotations" / "instances_few.json"
    changes = {"data.val": f"annotations/{few.name}", "data.val_images": "val"}
    figures = []
    for text in (whole, json.dumps(content)):
        few.write_text(text)
        figures.append(raydet.evaluate(trained_detector, changes))
        del figures[-1]["eval_images_per_s"]
    assert figures[0] == pytest.approx(figures[1], nan_ok=True)


def test_images_on_the_quarantine_list_are_said(
    trained_detector: Path, toy_detection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = json.loads((toy_detection / "annotations" / "instances_val.json").read_text())["images"][0]["file_name"]
    (tmp_path / "list.txt").write_text(f"val\t{name}\tIMG-E03\n")
    raydet.evaluate(trained_detector, {"data.quarantine": str(tmp_path / "list.txt")})
    assert "note      val: 1 of 10 images: images of the quarantine list are left out" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [("model.name", "efficientdet_d0"), ("model.act", "relu6")])
def test_what_a_checkpoint_was_trained_with_cannot_change(key: str, value: str, trained_detector: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{key} cannot change"):
        raydet.evaluate(trained_detector, {key: value})


def test_foreign_weights_are_scored_through_a_recipe(classification: Config, tmp_path: Path) -> None:
    cfg = classification
    from raydet.training.state import build_model, resolve_model

    model = build_model(resolve_model(cfg), 10)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    changes = {"data.root": cfg.data.root, "model.weights": str(tmp_path / "weights.pth"), "model.num_classes": 10}
    figures = raydet.evaluate("demo_classification", changes | {"data.workers": 0})
    assert 0 <= figures["top1"] <= 1 and figures["eval_loss"] == pytest.approx(2.3, abs=0.3)


def test_a_run_whose_only_checkpoint_is_damaged_says_so(trained_detector: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_detector, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step_*"):
        (path / "MANIFEST.json").write_text("{}")
    told = pytest.raises(CheckpointError, match="only damaged checkpoints")
    with pytest.warns(RuntimeWarning, match="damaged"), told:
        raydet.evaluate(tmp_path / "run")
