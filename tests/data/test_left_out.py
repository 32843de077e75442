"""Images that a user wants left out: of the quarantine list, and training images that another split has too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data import DetectionIndex, open_split
from raydet.data.left_out import duplicate_groups, prints, read_quarantine
from raydet.data.open_data import open_data
from raydet.exceptions import DataError
from tests.data.formats.yolo.test_load import write as write_yolo


def of_shop(shop: Path, **changes: object) -> Config:
    names = {f"data.{split}": f"annotations/instances_{split}.json" for split in ("train", "val")}
    return override(Config(), {"data.root": str(shop), "model.image_size": 128, **names} | changes)


def counts(cfg: Config, split: str = "train") -> dict[str, int]:
    return {fault.rule: fault.count for fault in open_split(cfg, split).faults}  # type: ignore[arg-type]


def test_listed_images_are_left_out_of_their_split_and_counted(shop: Path, tmp_path: Path) -> None:
    listed = tmp_path / "quarantine.txt"
    listed.write_text("train\ttrain_2.jpg\tIMG-E03\nval\tval_0.jpg\tIMG-E01\ntrain\tgone.jpg\tIMG-E01\n\ntrain_5.jpg\n")
    plain, cfg = of_shop(shop), of_shop(shop, **{"data.quarantine": str(listed)})
    whole, left = open_split(plain, "train"), open_split(cfg, "train")
    assert isinstance(whole, DetectionIndex) and isinstance(left, DetectionIndex)
    kept = [i for i in range(12) if i not in (2, 5)]
    assert left.names.tolist() == [f"train_{i}.jpg" for i in kept] and left.ids.tolist() == whole.ids[kept].tolist()
    for new, old in enumerate(kept):
        for mine, theirs in zip(left.boxes_of(new), whole.boxes_of(old), strict=True):
            assert np.array_equal(mine, theirs)
    assert {"DIR-W11": 2, "DIR-W12": 1}.items() <= counts(cfg).items()
    assert open_split(cfg, "val").names.tolist() == ["val_1.jpg", "val_2.jpg", "val_3.jpg"]
    assert any(note.startswith("val: 1 of 4 images") or "quarantine" in note for note in open_data(cfg, ("val",)).notes)


def test_a_broken_image_on_the_list_refuses_nothing(shop: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Also where a format opens each image for its size."""
    bare = tmp_path / "bare"
    shutil.copytree(shop, bare)
    for path in (bare / "annotations").iterdir():
        content = json.loads(path.read_text())
        for image in content["images"]:
            del image["width"]
        path.write_text(json.dumps(content))
    yolo = write_yolo(tmp_path / "yolo")
    cases = {
        "coco": (of_shop(bare), bare / "train" / "train_2.jpg", "train_2.jpg"),
        "yolo": (
            override(Config(), {"data.format": "yolo", "data.root": str(yolo), "model.image_size": 128}),
            yolo / "images" / "train" / "2.jpg",
            "images/train/2.jpg",
        ),
    }
    for name, (cfg, broken, listed) in cases.items():
        with subtests.test(name):
            broken.write_bytes(b"<html>")
            data = open_data(cfg, ("train", "val"))
            assert data.verdict() is not None and data.found["train"].unusable == [(listed, "IMG-E03")]
            (tmp_path / "list.txt").write_text(f"train\t{listed}\tIMG-E03\n")
            data = open_data(override(cfg, {"data.quarantine": str(tmp_path / "list.txt")}), ("train", "val"))
            assert data.verdict() is None and listed not in data.splits["train"].names.tolist()
            assert "DIR-W11" in {fault.rule for fault in data.faults}


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"quarantine list cannot be read.*\n.*data\.quarantine"):
        read_quarantine(str(tmp_path / "none.txt"))


def leaky(shop: Path) -> None:
    shutil.copy(shop / "train" / "train_3.jpg", shop / "val" / "val_1.jpg")
    Image.open(shop / "train" / "train_7.jpg").save(shop / "val" / "val_2.jpg", quality=60)
    shutil.copy(shop / "train" / "train_7.jpg", shop / "train" / "train_8.jpg")
    shutil.copy(shop / "train" / "train_10.jpg", shop / "train" / "train_11.jpg")


def test_training_copies_of_other_splits_images_are_dropped(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal files, nearly equal ones, and copies of those; not what is twice in training alone."""
    leaky(shop)
    assert len(open_split(of_shop(shop), "train")) == 12
    cfg = of_shop(shop, **{"data.on_leak": "drop"})
    index = open_split(cfg, "train")
    assert index.names.tolist() == [f"train_{i}.jpg" for i in range(12) if i not in (3, 7, 8)]
    assert counts(cfg)["IMG-W20"] == 3 and len(open_split(cfg, "val")) == 4
    monkeypatch.setattr("raydet.data.left_out.look", lambda *_: pytest.fail("what was seen is kept"))
    assert open_split(cfg, "train").names.tolist() == index.names.tolist()
    (shop / "val" / "val_1.jpg").write_bytes((shop / "val" / "val_0.jpg").read_bytes())
    with pytest.raises(pytest.fail.Exception):
        open_split(cfg, "train")


def test_prints_are_the_same_from_the_cache(shop: Path) -> None:
    (shop / "train" / "train_2.jpg").write_bytes(b"x")
    (shop / "train" / "train_4.jpg").unlink()
    cfg = of_shop(shop)
    index = open_split(cfg, "train")
    fresh, kept = prints(cfg, index), prints(cfg, index)
    for field in ("row", "name", "sha1", "dhash", "miniature"):
        assert [getattr(one, field) for one in fresh] == [getattr(one, field) for one in kept], field
    groups: Callable[[object], int] = lambda seen: len(duplicate_groups({"train": seen}))  # type: ignore[dict-item] # noqa: E731
    assert groups(fresh) == groups(kept) == 0
