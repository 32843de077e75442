"""The audit at the door: what fit, dry run, tune, evaluate and check say before an image is looked at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydet.config import Config, override
from raydet.data.open_data import open_data
from raydet.training.state import resolve_model
from tests.data.formats.test_image_folder import tree
from tests.data.formats.yolo.test_load import write as write_yolo
from tests.data.test_left_out import of_shop

Edit = Callable[[dict[str, Any]], object]


def edited(shop: Path, split: str, edit: Edit) -> None:
    path = shop / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def rules(cfg: Config, *splits: Any) -> dict[str, int]:
    return {fault.rule: fault.count for fault in open_data(cfg, splits or ("train", "val")).faults}


def refused(cfg: Config, *splits: Any) -> str:
    error = open_data(cfg, splits or ("train", "val")).verdict()
    return "" if error is None else str(error)


def test_a_sound_set_is_used_without_a_word(shop: Path) -> None:
    data = open_data(of_shop(shop), ("train", "val", "test"))
    assert list(data.splits) == ["train", "val"] and data.check() is data and set(rules(data.cfg)) <= {"COCO-W27"}


def test_what_training_leaves_out_is_counted_by_why(shop: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        of: dict[int, list[Any]] = {}
        for annotation in content["annotations"]:
            of.setdefault(annotation["image_id"], []).append(annotation)
        for annotation in of[10]:
            content["annotations"].remove(annotation)
        for annotation in of[11]:
            annotation["iscrowd"] = 1
        for annotation in of[12]:
            annotation["bbox"][2] = 0.5
        content["images"][3].update(width=20)
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 13]

    edited(shop, "train", edit)
    data = open_data(of_shop(shop), ("train",))
    told = {f.what: (f.rule, f.count) for f in data.faults if f.rule in ("BOX-W01", "BOX-W02")}
    assert told == {
        "images under 32 pixels wide or high are left out of training": ("BOX-W02", 1),
        "images without a box are left out of training": ("BOX-W01", 1),
        "images with crowds only are left out of training": ("BOX-W01", 1),
        "images with boxes under data.min_box or outside the image only are left out of training": ("BOX-W01", 1),
    }
    assert data.notes[0].startswith("train: ") and data.notes[0].endswith(("(BOX-W01)", "(BOX-W02)"))
    assert "BOX-W01" not in rules(of_shop(shop, **{"data.skip_empty": False}), "train")


def test_a_split_that_cannot_be_scored_is_refused_for_every_verb(shop: Path) -> None:
    edited(shop, "val", lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
    assert "the validation split has no boxes but crowds, so AP cannot be computed" in refused(of_shop(shop))
    edited(shop, "val", lambda c: c.update(annotations=[]))
    assert "the validation split has no boxes, so AP" in refused(of_shop(shop), "val")
    cfg = of_shop(shop, **{"data.test": "annotations/instances_val.json", "data.test_images": "val"})
    assert "the test split has no boxes" in refused(cfg, "test")


def test_training_on_crowds_only_is_refused_with_the_reason(shop: Path) -> None:
    edited(shop, "train", lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
    assert "12 with crowds only" in refused(of_shop(shop)) and "COCO-E33" in refused(of_shop(shop))


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg")
    changes = {"model.name": "efficientnet_b0", "data.format": "folder", "data.train": "train", "data.val": "val"}
    cfg = override(Config(), {"data.root": str(tmp_path), **changes})
    assert "one class, 'cat'" in refused(cfg) and refused(cfg, "val") == ""


def test_boxes_that_no_anchor_meets_are_told_for_the_model_that_is_trained(shop: Path) -> None:
    small = resolve_model(of_shop(shop, **{"model.image_size": 128}))
    assert "BOX-W03" not in rules(small)
    edited(shop, "train", lambda c: [a["bbox"].__setitem__(slice(2, 4), [4, 4]) for a in c["annotations"]])
    (what,) = [f.what for f in open_data(small, ("train",)).faults if f.rule == "BOX-W03"]
    assert what.startswith("100% of the boxes have no anchor with an IoU of 0.5 at model.image_size=128")
    assert "BOX-W03" not in rules(override(small, {"model.image_size": 1024, "model.anchor_scale": 6.0}), "train")


def test_no_fault_hides_another(shop: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """A total failure is said after what led to it, in both splits."""
    zero: Edit = lambda c: [a["bbox"].__setitem__(2, 0) for a in c["annotations"]]  # noqa: E731
    negative: Edit = lambda c: [a["bbox"].__setitem__(2, -5) for a in c["annotations"]]  # noqa: E731
    edited(shop, "train", negative)
    edited(shop, "val", zero)
    yolo = write_yolo(tmp_path / "yolo", ["0 .5 .5 .5", "red .5 .5 .1 .1"])
    tree(tmp_path, "folder/train/a/1.txt", "folder/train/b/2.txt", "folder/val/a/1.jpg")
    folder = {"model.name": "efficientnet_b0", "data.format": "folder", "data.train": "train", "data.val": "val"}
    skip = {"data.on_bad": "skip", "data.max_bad": 1.0}
    cases = {
        "coco": (of_shop(shop), {"COCO-E16", "COCO-E26", "COCO-W15"}, "COCO-E16"),
        "skipped": (of_shop(shop, **skip), {"COCO-E16", "COCO-E26"}, "COCO-E16"),
        "yolo": (
            override(Config(), {"data.format": "yolo", "data.root": str(yolo)}),
            {"YOLO-E09", "YOLO-E10", "YOLO-E19", "COCO-E26"},
            "YOLO-E09",
        ),
        "folder": (
            override(Config(), {"data.root": str(tmp_path / "folder"), **folder}),
            {"DIR-E02", "DIR-E03", "DIR-W05"},
            "DIR-E02",
        ),
    }
    for name, (cfg, expected, first) in cases.items():
        with subtests.test(name):
            assert expected <= set(rules(cfg)) and f"({first})" in refused(cfg).splitlines()[0]


def test_boxes_that_are_all_dropped_are_named_as_the_cause(shop: Path) -> None:
    edited(shop, "train", lambda c: [a["bbox"].__setitem__(2, 0) for a in c["annotations"]])
    said = refused(of_shop(shop), "train").splitlines()
    assert said[0].endswith("(COCO-E26)") and "COCO-W15: 24 of 24 annotations: bbox has no width or no" in said[1]


def test_a_test_split_is_opened_where_there_is_one(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    text = (root / "data.yaml").read_text()
    cfg = override(Config(), {"data.format": "yolo", "data.root": str(root)})

    def opened(test: str) -> tuple[set[str], bool]:
        (root / "data.yaml").write_text(text + test)
        data = open_data(cfg, ("train", "val", "test"))
        assert data.verdict() is None
        return set(data.splits) - {"train", "val"}, "DIR-W14" in {fault.rule for fault in data.faults}

    assert opened("") == (set(), False)
    assert opened("test: ../test/images\n") == (set(), True)
    assert opened("test: images/val\n") == (set(), False), "the same images as val"
    (root / "images" / "val").rename(root / "images" / "held")
    (root / "labels" / "val").rename(root / "labels" / "held")
    text = text.replace("images/val", "images/train")
    assert opened("test: images/held\n") == ({"test"}, False)
