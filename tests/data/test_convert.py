"""A converted data set: whole or not there, names that stay apart, and what is lost counted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from raydet.cli import main as cli
from raydet.config import Config, override
from raydet.data import convert as module
from raydet.data.convert import convert
from raydet.data.formats.detect_format import guess
from raydet.data.formats.open_split import open_split
from raydet.exceptions import ConfigError, DataError
from tests.data.formats.annotated.layouts import forty, save_images, voc_xml, write_voc
from tests.data.makers import write_coco

BOX = ("bee", (10, 20, 30, 25))


def test_the_command_writes_every_split_and_links_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voc, out = tmp_path / "voc", tmp_path / "new" / "coco"
    for split, names in (("train", ("0.jpg", "1.jpg")), ("test", ("2.jpg",))):
        write_voc(voc, {name: forty()[name] for name in names}, split, split)
    assert cli.run(["convert", str(voc), str(out), "--json"]) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out.splitlines()[-1])
    assert values == {
        "out": str(out),
        "format": "coco",
        **{"train_images": 2, "val_images": 1, "train_boxes": 10, "val_boxes": 5},
        **{"crowds_left_out": 0, "outside_left_out": 0},
    }
    assert "data.val is the same as data.test" in captured.err
    assert sorted(p.name for p in out.iterdir()) == ["annotations", "train", "val"]
    assert (out / "train" / "0.jpg").samefile(voc / "train" / "0.jpg")
    assert cli.run(["convert", str(voc), str(tmp_path / "yolo"), "--to", "yolo", "--copy"]) == 0
    assert not (tmp_path / "yolo" / "images" / "train" / "0.jpg").samefile(voc / "train" / "0.jpg")
    assert cli.run(["convert", str(voc), str(out)]) == 2 and "is not empty" in capsys.readouterr().err


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path / "voc", forty())

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_instances", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "voc", tmp_path / "out", "coco")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["voc"]


def test_images_of_one_name_stay_apart(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    names = ["x/a.jpg", "y/a.jpg", "y_a.jpg", "b.jpg", "c.jpg", "c.png"]
    save_images(root, names)
    for i, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        (root / f"{name.replace('.', '_')}.xml").write_text(
            voc_xml(os.path.basename(name), [("bee", (i, 0, i + 9, 9))])
        )
    want = {"x_a.jpg", "y_a.jpg", "y_a_2.jpg", "b.jpg", "c.jpg", "c.png"}
    for to, folder in (("coco", "train"), ("yolo", "images/train")):
        done = convert(root, tmp_path / to, to)  # type: ignore[arg-type]
        held = {p.name: p for p in (done.dir / folder).iterdir()}
        wanted = {name.replace("c.png", "c_2.png") if to == "yolo" else name for name in want}
        assert set(held) == wanted
        index = open_split(guess(done.dir), "train")
        left = {index.names[i].rpartition("/")[2]: index.boxes[i, 0] for i in range(6)}
        assert {round(left[name]) for name in ("x_a.jpg", "b.jpg")} == {0, 3}
        for name, path in held.items():
            assert path.samefile(root / names[round(left[name])])


def test_what_yolo_cannot_hold_is_counted_and_kept_by_coco(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 4, "file_name": "0.jpg", "width": 80, "height": 60}],
        "categories": [{"id": 7, "name": "a: [b"}, {"id": 3, "name": "no"}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 7, "bbox": [70, 10, 20, 20], "area": 99, "iscrowd": 0},
            {"id": 2, "image_id": 4, "category_id": 3, "bbox": [1, 1, 30, 30], "area": 900, "iscrowd": 1},
            {"id": 3, "image_id": 4, "category_id": 3, "bbox": [200, 1, 30, 30], "area": 900, "iscrowd": 0},
            *(
                {"id": 4 + i, "image_id": 4, "category_id": 3, "bbox": [i, 1, 30, 30], "area": 900, "iscrowd": 0}
                for i in range(9)
            ),
        ],
    }
    path = write_coco(tmp_path / "coco", content)
    done = convert(path, tmp_path / "yolo", "yolo")
    assert (done.crowds_left_out, done.outside_left_out, done.boxes) == (1, 1, {"train": 10})
    index = open_split(guess(done.dir), "train")
    assert index.class_names == ["no", "a: [b"]
    assert np.allclose(index.boxes[0], [70, 10, 10, 20], atol=1e-4)
    same = open_split(guess(convert(path, tmp_path / "again", "coco").dir), "train")
    source = open_split(guess(path), "train")
    for name in ("ids", "boxes", "areas", "labels", "crowd", "category_ids"):
        assert np.array_equal(getattr(same, name), getattr(source, name)), name


def test_splits_that_list_other_classes_get_all_of_them(tmp_path: Path) -> None:
    for split, ids in (("train", {1: "bee", 2: "cat"}), ("val", {1: "cat", 2: "dog"})):
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "0.jpg", "width": 80, "height": 60}],
            "annotations": [box],
            "categories": [{"id": i, "name": name} for i, name in ids.items()],
        }
        write_coco(tmp_path / "coco", content).rename(tmp_path / "coco" / "annotations" / f"{split}.json")
    (tmp_path / "coco" / "train").rename(tmp_path / "coco" / "images")
    done = convert(tmp_path / "coco", tmp_path / "yolo", "yolo")
    for split, name in (("train", "bee"), ("val", "cat")):
        index = open_split(guess(done.dir), split)  # type: ignore[arg-type]
        assert [index.class_names[label] for label in index.labels] == [name]


def test_what_is_no_detection_set_or_is_malformed_is_refused(tmp_path: Path, toy_classification: Path) -> None:
    with pytest.raises(ConfigError, match="no boxes that COCO or YOLO could hold"):
        convert(toy_classification, tmp_path / "out", "coco")
    with pytest.raises(ConfigError, match="to must be coco or yolo"):
        convert(tmp_path, tmp_path / "out", "voc")  # type: ignore[arg-type]
    write_voc(tmp_path / "voc", {"0.jpg": [BOX, ("bee", (30, 20, 10, 25))]})
    with pytest.raises(DataError, match="ANN-E16"):
        convert(tmp_path / "voc", tmp_path / "out", "coco")
    cfg = override(guess(tmp_path / "voc"), {"data.on_bad": "skip", "data.max_bad": 1.0})
    assert isinstance(cfg, Config) and convert(cfg, tmp_path / "out", "coco").boxes == {"train": 1}
