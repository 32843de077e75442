"""The demo data: right in form, repeatable, made once, never over other people's files."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from raydet.config import Config, override
from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.demo.datasets import make_classification, make_detection
from raydet.data.formats.demo.digits import Ink, Paper
from raydet.data.formats.image_folder import load_folder
from raydet.data.formats.open_split import open_split
from raydet.data.images.decode import read_rgb
from raydet.exceptions import DataError

pytest.importorskip("sklearn")


def small(root: Path | str | None = None, seed: int = 0) -> Path:
    return make_detection(root, train=8, val=4, seed=seed)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_detection_set_is_sound_coco_with_tight_boxes(tmp_path: Path) -> None:
    root = make_detection(tmp_path / "d", train=40, val=4)
    train = load_coco(root / "annotations" / "instances_train.json", root / "train")
    val = load_coco(root / "annotations" / "instances_val.json", root / "val", role="val")
    assert train.class_names == val.class_names
    assert (len(train), len(val), train.class_names) == (40, 4, [str(d) for d in range(10)])
    assert train.warnings == []
    assert set(map(tuple, train.sizes.tolist())) == {(128, 160), (160, 128)}
    assert 80 < len(train.boxes) < 240
    inked = []
    for row in range(10):
        grey_HW = read_rgb(train.image(row)).mean(axis=2)
        for x1, y1, x2, y2 in train.boxes_of(row)[0].astype(int):
            ink_HW = grey_HW[y1:y2, x1:x2] < 140  # paper is above 165, ink below 90
            inked += [ink_HW[0].any(), ink_HW[-1].any(), ink_HW[:, 0].any(), ink_HW[:, -1].any()]
    assert np.mean(inked) > 0.9


def test_classification_set_is_folders_of_single_digits(tmp_path: Path) -> None:
    root = make_classification(tmp_path / "c", train=60, val=40, size=48)
    train, val = load_folder(root / "train"), load_folder(root / "val")
    assert train.class_names == val.class_names
    assert (len(train), len(val), train.num_classes) == (60, 40, 10)
    assert read_rgb(train.image(0)).shape == (48, 48, 3)


def test_same_settings_give_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    assert content(small(tmp_path / "a")) == content(small(tmp_path / "b"))
    assert content(small(tmp_path / "c", seed=1)) != content(tmp_path / "a")


def test_a_longer_set_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short, long = small(tmp_path / "a"), make_detection(tmp_path / "b", train=9, val=4)
    assert (short / "train" / "000007.jpg").read_bytes() == (long / "train" / "000007.jpg").read_bytes()


def test_sets_are_kept_in_the_cache_by_their_settings(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small()
    assert first.parent == own_cache / "demo-v1"
    assert small(seed=1) != first
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert small() == first
    assert [p.name for p in first.parent.iterdir() if p.name.startswith(".")] == []


def test_missing_scikit_learn_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'pip install "raydet\[demo\]"'):
        small()
    assert list((own_cache / "demo-v1").iterdir()) == []


def test_other_peoples_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="DIR-E06"):
        small(tmp_path / "mine")
    assert content(tmp_path / "mine") == {"thesis.txt": b"x"}
    (tmp_path / "empty").mkdir()
    small(tmp_path / "empty")


@pytest.mark.slow
def test_two_processes_may_make_a_set_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        made = list(pool.map(small, [tmp_path / "d"] * 3))
    assert made == [tmp_path / "d"] * 3
    assert [p.name for p in tmp_path.iterdir() if "d" in p.name and p.name != "cache"] == ["d"]
    assert len(content(tmp_path / "d")) == 8 + 4 + 2 + 1


def test_training_and_validation_share_neither_digits_nor_pixels() -> None:
    ink = Ink(np.arange(100).reshape(100, 1, 1) / 100, np.arange(100))
    assert not set(ink.part("train").labels) & set(ink.part("val").labels)
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8), (3, 200))[..., None].repeat(3, axis=2)
    sides = [Paper([columns]).part(split, 0.0).photos[0] for split in ("train", "val")]
    assert not set(sides[0].ravel()) & set(sides[1].ravel())


def test_demo_roots_open_as_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet.data.formats.demo.datasets.make_detection", small)
    changes = {"data.root": "demo://detection", "data.train": "annotations/instances_train.json"}
    index = open_split(override(Config(), changes), "train")
    assert (len(index), index.num_classes) == (8, 10)
