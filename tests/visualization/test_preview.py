"""What a run shows before its first step: classes, labels, and images as they will be trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data import DetectionIndex, open_split
from raydet.driver.plan import make_plan
from raydet.exceptions import DataError
from raydet.training.worker import train
from raydet.visualization.boxes import class_colour
from raydet.visualization.charts import content_of, labels_figure
from raydet.visualization.preview import write_preview


def preview(cfg: Config, folder: Path) -> None:
    splits = [open_split(cfg, name) for name in ("train", "val")]
    rows = splits[0].train_rows(cfg) if isinstance(splits[0], DetectionIndex) else np.arange(len(splits[0]))
    write_preview(make_plan(cfg).cfg, folder, *splits, rows)


def test_detection_shows_boxes_labels_and_classes(detection: Config, tmp_path: Path) -> None:
    preview(detection, tmp_path)
    classes = json.loads((tmp_path / "classes.json").read_text())
    index = open_split(detection, "train")
    assert [(c["class"], c["id"], c["name"]) for c in classes[:2]] == [(0, 1, "0"), (1, 2, "1")]
    assert sum(c["train"] for c in classes) == len(index.boxes)
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        "labels.png",
        "train_batch_0.png",
        "train_batch_1.png",
    ]
    pixels_HW3 = np.asarray(Image.open(tmp_path / "plots" / "train_batch_0.png"))
    drawn = [(pixels_HW3 == class_colour(str(digit))).all(axis=2).sum() for digit in range(10)]
    assert sum(count > 100 for count in drawn) >= 5


@pytest.mark.slow
def test_the_first_images_are_those_of_the_first_steps(detection: Config, tmp_path: Path) -> None:
    preview(detection, tmp_path / "a")
    preview(override(detection, {"optim.batch_size": 12}), tmp_path / "b")
    preview(override(detection, {"run.seed": 7}), tmp_path / "c")
    a, b, c = ((tmp_path / x / "plots" / "train_batch_0.png").read_bytes() for x in "abc")
    assert a == b != c


@pytest.mark.slow
def test_classification_shows_its_classes(classification: Config, tmp_path: Path) -> None:
    preview(classification, tmp_path)
    assert len(list((tmp_path / "plots").glob("train_batch_*.png"))) == 3
    assert sum(c["val"] for c in json.loads((tmp_path / "classes.json").read_text())) == 30


@pytest.mark.slow
def test_fit_writes_them_before_its_first_step(
    detection: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydet.distributed import WorkerGroup
    from raydet.training import worker

    seen = []

    def stopped(*_: object) -> None:
        seen.append(sorted(p.name for p in (tmp_path / "plots").iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "epochs", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(make_plan(detection).cfg, tmp_path, WorkerGroup(), lambda _: None, 1)
    assert seen == [["labels.png", "train_batch_0.png", "train_batch_1.png"]]


@pytest.mark.slow
def test_an_unreadable_image_is_told_as_training_would(detection: Config, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "own"
    shutil.copytree(detection.data.root, root)
    cfg = make_plan(override(detection, {"data.root": str(root)})).cfg
    train_index, val_index = open_split(cfg, "train"), open_split(cfg, "val")
    assert isinstance(train_index, DetectionIndex)
    for row in range(len(train_index)):
        Path(str(train_index.image(row))).write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        write_preview(cfg, tmp_path / "run", train_index, val_index, train_index.train_rows(cfg))


@pytest.mark.slow
def test_crowds_are_not_counted(detection: Config) -> None:
    index = open_split(detection, "train")
    assert isinstance(index, DetectionIndex)
    before = content_of(index).per_class.sum()
    index.crowd[:3] = True
    assert content_of(index).per_class.sum() == before - 3


@pytest.mark.slow
def test_many_classes_with_any_names_are_drawn(detection: Config, tmp_path: Path) -> None:
    from dataclasses import replace

    content = content_of(open_split(detection, "train"))
    names = tuple(f"$\\frac{{{i}}} <b>\n猫_{i}" * (i % 4) for i in range(300))
    many = replace(content, class_names=names, per_class=np.arange(300) ** 2)
    labels_figure(tmp_path / "labels.png", {"train": many}, 128)
    assert Image.open(tmp_path / "labels.png").size == (1320, 825)
