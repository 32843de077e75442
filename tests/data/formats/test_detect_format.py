"""What lies at a path is told from the layouts that people and tools make; what is no data set is said so."""

import io
import shutil
from pathlib import Path

import pytest

from raydet.audit.check import check
from raydet.data.formats.detect_format import guess
from raydet.exceptions import ConfigError


def test_guess_names_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(ConfigError, match=r"data\.yaml"):
            guess(path)


def test_guess_finds_splits_by_their_names(shop: Path, toy_classification: Path, tmp_path: Path) -> None:
    assert (guess(shop).data.train, guess(shop).data.val) == (
        "annotations/instances_train.json",
        "annotations/instances_val.json",
    )
    alone = guess(shop / "annotations" / "instances_val.json").data
    assert (alone.root, alone.train, alone.val) == (str(shop), *["annotations/instances_val.json"] * 2)
    folder = guess(toy_classification)
    assert (folder.data.format, folder.data.train, folder.model.name) == ("folder", "train", "efficientnet_b0")
    assert guess(toy_classification / "train").data.train == "."
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [a]")
    assert guess(tmp_path / "yolo").data.format == "yolo"


def places(root: Path) -> tuple[str, str, str]:
    data = guess(root).data
    return data.format, data.train, data.val


def test_guess_knows_the_layouts_that_tools_export(shop: Path, toy_classification: Path, tmp_path: Path) -> None:
    roboflow = tmp_path / "roboflow"
    for split, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(shop / split, roboflow / folder)
        told = shop / "annotations" / f"instances_{split}.json"
        shutil.copy(told, roboflow / folder / "_annotations.coco.json")
    assert places(roboflow) == ("coco", "train/_annotations.coco.json", "valid/_annotations.coco.json")
    assert check(guess(roboflow), stream=io.StringIO()).verdict is None
    kaggle = tmp_path / "kaggle"
    shutil.copytree(toy_classification / "train", kaggle / "train")
    shutil.copytree(shop / "val", kaggle / "test")
    assert places(kaggle) == ("folder", "train", "train")
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics" / "coco8.yaml").write_text("names: [a]")
    assert guess(tmp_path / "ultralytics").data.root.endswith("coco8.yaml")


@pytest.mark.parametrize("where", ["data/train-{}.parquet", "train-{}.parquet", "train/{}.parquet"])
def test_guess_takes_all_parts_of_a_parquet_split(tmp_path: Path, where: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [b"x", b"y"], "label": [0, 1]})
    for name in (where.format("00000-of-00002"), where.format("00001-of-00002"), where.replace("train", "test")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / name)
    cfg = guess(tmp_path)
    assert (cfg.data.format, cfg.task) == ("parquet", "classification")
    audit = check(cfg, stream=io.StringIO())
    assert {split.name: len(split.index) for split in audit.splits} == {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("folders", "hint"), [("images/train labels/train", "data.yaml"), ("train/images train/labels", "data.yaml")]
)
def test_parts_of_a_data_set_are_not_taken_for_classes(shop: Path, tmp_path: Path, folders: str, hint: str) -> None:
    for name in folders.split():
        shutil.copytree(shop / "val", tmp_path / "parts" / name)
    with pytest.raises(ConfigError, match=hint):
        guess(tmp_path / "parts")
    with pytest.raises(ConfigError):
        guess(tmp_path / "parts" / folders.split()[0].partition("/")[0])
    with pytest.raises(ConfigError, match="holds images and nothing"):
        guess(shop / "val")


def test_a_class_may_be_called_train(shop: Path, tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        shutil.copytree(shop / "val", tmp_path / "vehicles" / name)
    assert places(tmp_path / "vehicles") == ("folder", ".", ".")
