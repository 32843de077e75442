"""YOLO data sets without data.yaml: where their classes and splits stand."""

from pathlib import Path

import pytest

from raydet.data.formats.detect_format import guess
from raydet.data.formats.open_split import open_split
from raydet.data.formats.yolo.load import load_yolo
from raydet.data.storage.files import Folder
from raydet.exceptions import DataError
from tests.data.formats.annotated.layouts import CLASSES, forty, save_images, yolo_rows

PARTS = {"train": dict(list(forty().items())[:5]), "val": dict(list(forty().items())[5:])}


def write(root: Path, images: str, labels: str, classes: str) -> Path:
    for split, part in PARTS.items():
        names = {"split": split, "Split": {"train": "Train", "val": "Validation"}[split]}
        save_images(root / images.format(**names), part)
        (root / labels.format(**names)).mkdir(parents=True, exist_ok=True)
        for name, objects in part.items():
            (root / labels.format(**names) / name.replace(".jpg", ".txt")).write_text(yolo_rows(objects))
    (root / classes).parent.mkdir(parents=True, exist_ok=True)
    (root / classes).write_text("\n".join(CLASSES) + "\n\n")
    return root


def test_splits_are_those_of_folders_or_lists(tmp_path: Path) -> None:
    table = [
        ("obj_{Split}_data", "obj_{Split}_data", "obj.names", [5, 3]),
        ("obj_{split}_data", "obj_{split}_data", "obj.names", [5, 3]),
        ("images/{split}", "labels/{split}", "classes.txt", [5, 3]),
        ("{split}/images", "{split}/labels", "classes.txt", [5, 3]),
        ("images", "labels", "labels/classes.txt", [8, 8]),
        (".", ".", "classes.txt", [8, 8]),
        ("obj_data", "obj_data", "obj.names", [8, 8]),
    ]
    for k, (images, labels, classes, counts) in enumerate(table):
        root = write(tmp_path / str(k), images, labels, classes)
        cfg = guess(root)
        assert cfg.data.format == "yolo"
        found = [open_split(cfg, split) for split in ("train", "val")]  # type: ignore[arg-type]
        assert [len(index) for index in found] == counts and found[1].class_names == CLASSES, images
        assert {fault.rule for index in found for fault in index.faults} == set(), images
    root = write(tmp_path / "darknet", "photos", "photos", "obj.names")
    (root / "obj.data").write_text(
        "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    for name, part in (("train", "train"), ("valid", "val")):
        (root / f"{name}.txt").write_text("".join(f"photos/{one}\n" for one in PARTS[part]))
    assert [len(open_split(guess(root), split)) for split in ("train", "val")] == [5, 3]  # type: ignore[arg-type]


def test_a_file_of_classes_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, "images", "labels", "classes.txt")
    for data, message in ((b"\n \n", "names no class"), (b"caf\xe9", "not UTF-8 text at byte 3")):
        (root / "classes.txt").write_bytes(data)
        with pytest.raises(DataError, match=rf"classes\.txt: .*{message}") as caught:
            load_yolo(Folder(root), None, "train")
        assert caught.value.rule == "YOLO-E03"
