"""evaluate and predict on a run that was trained for a moment: figures, files, errors at the door."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import raydet
from raydet.config import Config
from raydet.exceptions import CheckpointError, ConfigError
from raydet.inference.predict import Classes, Detections
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


def test_predict_draws_and_writes_coco_results(trained_detector: Path, toy_detection: Path, tmp_path: Path) -> None:
    images = sorted((toy_detection / "val").glob("*.jpg"))[:3]
    found = raydet.predict(
        trained_detector, images, {"evaluation.score_threshold": 0.0}, score_threshold=0.0, out=tmp_path
    )
    assert [type(answer) for answer in found] == [Detections] * 3
    for answer, path in zip(found, images, strict=True):
        width, height = Image.open(path).size
        assert answer.image == path and len(answer.boxes_K4) == 100
        assert (answer.boxes_K4 >= 0).all() and (answer.boxes_K4 <= [width, height] * 2).all()
        assert set(answer.category_ids_K.tolist()) <= set(range(1, 11))
        assert (np.diff(answer.scores_K) <= 0).all()
        assert Image.open(tmp_path / f"{path.stem}.png").size >= (width, height)
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert len(rows) == 300 and set(rows[0]) == {"image_id", "category_id", "bbox", "score"}


def test_predict_classifies(trained_classifier: Path, toy_classification: Path, tmp_path: Path) -> None:
    (answer,) = raydet.predict(
        trained_classifier, [sorted((toy_classification / "val").rglob("*.jpg"))[0]], out=tmp_path
    )
    assert isinstance(answer, Classes) and len(answer.names) == 5
    assert answer.probabilities_K.sum() <= 1 + 1e-6 and (np.diff(answer.probabilities_K) <= 0).all()


def test_images_of_one_name_do_not_overwrite_each_other(
    trained_detector: Path, toy_detection: Path, tmp_path: Path
) -> None:
    source = sorted((toy_detection / "val").glob("*.jpg"))[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(source.read_bytes())
    raydet.predict(trained_detector, [tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_a_turned_image_keeps_its_boxes_inside(trained_detector: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 300, 3), 200, np.uint8)).save(tmp_path / "wide.png")
    (answer,) = raydet.predict(trained_detector, [tmp_path / "wide.png"], score_threshold=0.0)
    assert isinstance(answer, Detections) and (answer.boxes_K4[:, 3] <= 40).all()


@pytest.mark.parametrize(
    ("source", "images", "said"),
    [
        ("no/such/run", ["x.jpg"], "no checkpoint, run folder or recipe"),
        (None, ["no.jpg"], "no such image"),
        ("efficientdet_d0_coco", ["x.jpg"], "model.weights"),
    ],
)
def test_what_is_not_there_is_named(trained_detector: Path, source: str | None, images: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        raydet.predict(source or trained_detector, images)


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
