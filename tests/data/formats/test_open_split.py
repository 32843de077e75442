"""Finding a split's files, and saying what was looked for when they are not there."""

from pathlib import Path

import pytest

from raydet.config import Config, override
from raydet.data.formats.index import ClassificationIndex, DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.exceptions import DataError
from tests.data.makers import truth, write_coco


def test_splits_open_by_format(coco: Config, folders: Config) -> None:
    assert isinstance(open_split(coco, "train"), DetectionIndex)
    assert isinstance(open_split(folders, "val"), ClassificationIndex)


def test_a_yolo_set_opened_as_coco_is_told_its_format(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [a]")
    with pytest.raises(DataError, match=r"set data\.format=yolo"):
        open_split(override(Config(), {"data.root": str(tmp_path)}), "train")


@pytest.mark.parametrize("place", ["train", "images/train", "images"])
def test_image_folder_is_found_by_the_annotations_name(coco: Config, place: str) -> None:
    root = Path(coco.data.root)
    (root / place).parent.mkdir(exist_ok=True)
    (root / "train").rename(root / place)
    assert open_split(coco, "train").files.root == root / place


def test_images_beside_the_annotations_are_found(coco: Config) -> None:
    root = Path(coco.data.root)
    (root / "annotations" / "instances_train.json").rename(root / "train" / "_annotations.coco.json")
    index = open_split(override(coco, {"data.train": "train/_annotations.coco.json"}), "train")
    assert index.files.root == root / "train"


def test_image_folder_can_be_named(coco: Config) -> None:
    (Path(coco.data.root) / "train").rename(Path(coco.data.root) / "photos")
    with pytest.raises(DataError, match=r"looked for .*/train, .*\nThere is annotations/, photos/.*data\.train_images"):
        open_split(coco, "train")
    assert len(open_split(override(coco, {"data.train_images": "photos"}), "train")) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.root": "/nowhere/at/all"}, r"/nowhere/at/all: no such file or folder \(data\.root\)"),
        ({"data.train": "annotations/x.json"}, r"\(data\.train\).*\n.*annotations holds instances_train\.json"),
        ({"data.train_images": "pics"}, r"\(data\.train_images\).*\n.*coco holds annotations/, train/"),
        ({"data.root": "demo://letters"}, "none of demo://detection, demo://classification"),
    ],
)
def test_wrong_paths_name_the_field_and_what_is_there(coco: Config, changes: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_split(override(coco, changes), "train")
    assert caught.value.rule == "DIR-E01"


def test_unset_test_split_is_said(coco: Config) -> None:
    with pytest.raises(DataError, match=r"data\.test is not set"):
        open_split(coco, "test")


def test_folder_of_other_images_is_refused_but_some_missing_ones_are_not(coco: Config) -> None:
    root = Path(coco.data.root)
    (root / "train" / "3.jpg").unlink()
    open_split(coco, "train")
    (root / "other").mkdir()
    (root / "other" / "z.jpg").write_text("")
    with pytest.raises(DataError, match=r"none of 11 images tried .*, e\.g\. 0\.jpg .*\nIt holds z\.jpg"):
        open_split(override(coco, {"data.train_images": "other"}), "train")


def test_test_split_may_be_without_annotations(coco: Config) -> None:
    content = truth(11)
    del content["annotations"]
    write_coco(Path(coco.data.root), content, images=False)
    with pytest.raises(DataError, match="COCO-E06"):
        open_split(coco, "val")
    cfg = override(coco, {"data.test": "annotations/instances_train.json"})
    assert len(open_split(cfg, "test")) == 11


def test_relative_and_home_roots_work(coco: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(coco.data.root)
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(open_split(override(coco, {"data.root": "~/coco"}), "train")) == 11
    monkeypatch.chdir(root)
    assert open_split(override(coco, {"data.root": "."}), "train").image(0).is_file()
