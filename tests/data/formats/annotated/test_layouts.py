"""The same boxes in every layout are the same index; where a layout says its splits, they are found."""

from pathlib import Path

import numpy as np
import pytest

from raydet.config import override
from raydet.data.convert import convert
from raydet.data.formats.detect_format import guess
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.open_split import open_split
from tests.data.formats.annotated.layouts import CLASSES, HW, LAYOUTS, forty, write_voc
from tests.data.s3_stub import serving
from tests.data.storage.test_object_store import upload

XYXY = np.array([box for objects in forty().values() for _, box in objects], float)


def opened(place: Path, split: str = "train", **changes: object) -> DetectionIndex:
    cfg = override(guess(place), changes)
    index = open_split(cfg, split)  # type: ignore[arg-type]
    assert isinstance(index, DetectionIndex)
    return index


def truth_of(index: DetectionIndex) -> list[tuple[object, ...]]:
    """Class names and rounded corners of each image, in the order of the images' names."""
    found = []
    for i in range(len(index)):
        part = slice(index.first[i], index.first[i + 1])
        xywh = index.boxes[part]
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).round(3)
        labels = [index.class_names[label] for label in index.labels[part]]
        found.append((index.names[i].rpartition("/")[2], sorted(zip(labels, corners.tolist(), strict=True))))
    return sorted(found)


@pytest.mark.slow
def test_forty_boxes_are_the_same_in_every_layout_and_after_conversion(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for name, (format_, write) in LAYOUTS.items():
        with subtests.test(layout=name):
            root = tmp_path / name
            root.mkdir()
            write(root, forty())
            assert guess(root).data.format == format_
            index = opened(root)
            assert index.class_names == CLASSES and index.sizes.tolist() == [list(HW)] * 8
            assert not index.crowd.any() and len(index.boxes) == 40
            assert {fault.rule for fault in index.faults} <= {"COCO-W27"}
            # Label files have six decimals of 80 pixels.
            corners = np.concatenate([index.boxes[:, :2], index.boxes[:, :2] + index.boxes[:, 2:]], axis=1)
            assert np.abs(corners - XYXY).max() <= (1e-4 if format_ == "yolo" else 1e-6)
            assert np.allclose(index.areas, (index.boxes[:, 2:]).prod(axis=1))
            assert [c for objects in forty().values() for c, _ in objects] == [CLASSES[i] for i in index.labels]
            for to in ("coco", "yolo"):
                done = convert(guess(root), tmp_path / f"{name}-as-{to}", to)  # type: ignore[arg-type]
                assert (done.images["train"], done.boxes["train"]) == (8, 40)
                again = opened(done.dir)
                assert guess(done.dir).data.format == to and again.class_names == CLASSES
                for (_, ours), (_, theirs) in zip(truth_of(index), truth_of(again), strict=True):
                    assert [c for c, _ in ours] == [c for c, _ in theirs]
                    assert np.allclose([b for _, b in ours], [b for _, b in theirs], atol=0.01)


def test_voc_is_read_in_the_layouts_that_tools_write(tmp_path: Path, subtests: pytest.Subtests) -> None:
    truth = forty()
    halves = {"train": dict(list(truth.items())[:5]), "test": dict(list(truth.items())[5:])}
    for k, (annotations, images) in enumerate((("", ""), ("annotations/xmls", "images"), ("labels", "pics"))):
        with subtests.test(annotations=annotations):
            write_voc(tmp_path / str(k), truth, annotations, images)
            data = guess(tmp_path / str(k)).data
            assert (data.format, data.train, data.val, data.test) == ("voc", ".", ".", None)
            assert len(opened(tmp_path / str(k)).boxes) == 40
    for folder in ("{}", "{}/Annotations", "Annotations/{}"):
        with subtests.test(folder=folder):
            root = tmp_path / folder.replace("/", "_")
            for split, part in halves.items():
                write_voc(root, part, folder.format(split), folder.format(split).replace("Annotations", "JPEGImages"))
            data = guess(root).data
            assert (data.train, data.val, data.test) == ("train", "test", "test")
            assert [len(opened(root, split)) for split in ("train", "test")] == [5, 3]
    with subtests.test("images in folders of splits"):
        for split, part in halves.items():
            write_voc(tmp_path / "by_image", part, "xml", f"images/{split}")
        assert [len(opened(tmp_path / "by_image", split)) for split in ("train", "test")] == [5, 3]


def test_lists_of_image_sets_say_the_splits_and_all_have_the_same_classes(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    write_voc(root, forty())
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    names = [name[:-4] for name in forty()]
    sets = {"train": names[:3], "val": names[3:5], "trainval": names[:5], "test": names[5:], "bee_train": names[:1]}
    for name, held in sets.items():
        (lists / f"{name}.txt").write_text("".join(f"{one}\n" for one in held))
    data = guess(tmp_path).data  # as VOCdevkit unpacks
    assert data.root == str(root)
    assert (data.train, data.val, data.test) == tuple(f"ImageSets/Main/{name}.txt" for name in ("train", "val", "test"))
    assert [len(opened(root, split)) for split in ("train", "val", "test")] == [3, 2, 3]
    assert len(opened(root, **{"data.train": "trainval"})) == 5
    assert opened(root, "val").class_names == CLASSES
    for name in ("train", "val"):
        (lists / f"{name}.txt").unlink()
    data = guess(root).data
    assert (data.train, data.val) == ("ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt")


def test_an_object_store_gives_the_same_index_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with serving() as stub:
        stub.buckets["shop"] = {}
        for name in ("voc", "cvat", "labelstudio", "csv-retinanet", "cvat-yolo"):
            root = tmp_path / name
            root.mkdir()
            LAYOUTS[name][1](root, forty())
            upload(stub, root, name)
            here = opened(root)
            changes = {"data.root": stub.root(f"shop/{name}")}
            there = opened(root, **changes)
            assert truth_of(here) == truth_of(there) and here.class_names == there.class_names
            before = len(stub.requests)
            opened(root, **changes)
            assert len(stub.requests) - before < 12, f"{name}: what has not changed comes from the cache"
