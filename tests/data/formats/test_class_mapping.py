"""A split's classes become those of the training split, or of a model, by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.data.formats.class_mapping import with_classes
from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.image_folder import load_folder
from raydet.data.formats.index import ClassificationIndex, DetectionIndex, Index
from raydet.exceptions import DataError
from tests.data.formats.test_image_folder import tree
from tests.data.makers import truth, write_coco


def coco(folder: Path, names: dict[int, str], **options: Any) -> DetectionIndex:
    """The index of `truth()` with these categories; annotations of others are left out."""
    content = truth()
    content["categories"] = [{"id": i, "name": name} for i, name in names.items()]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in names]
    return load_coco(write_coco(folder, content, images=False), folder, **options)


def as_train(index: Index, train: Index, **options: Any) -> Index:
    return with_classes(index, train.class_names, train.category_ids, **options)


def rules(index: Index) -> dict[str, int]:
    return {fault.rule: fault.count for fault in index.faults}


def test_equal_classes_leave_the_index_as_it_is(tmp_path: Path) -> None:
    train = coco(tmp_path, {1: "cat", 13: "dog", 90: "bus"})
    assert as_train(train, train) is train


def test_boxes_keep_their_names_whatever_ids_a_split_has(tmp_path: Path) -> None:
    train = coco(tmp_path / "train", {1: "cat", 13: "dog", 90: "bus"})
    other = coco(tmp_path / "val", {1: "dog", 13: "bus", 90: "cat"})
    mapped = as_train(other, train)
    assert mapped.class_names == train.class_names and mapped.category_ids.tolist() == [1, 13, 90]
    assert [mapped.class_names[c] for c in mapped.labels] == [other.class_names[c] for c in other.labels]
    assert rules(mapped)["DIR-W09"] == 1 and "by name" in "".join(mapped.warnings)


def test_a_split_with_fewer_classes_has_all_of_them(tmp_path: Path) -> None:
    train = coco(tmp_path / "train", {1: "cat", 13: "dog", 90: "bus"})
    few = coco(tmp_path / "val", {13: "dog"})
    mapped = as_train(few, train)
    assert isinstance(mapped, DetectionIndex) and set(mapped.labels.tolist()) == {1} and mapped.num_classes == 3
    assert np.array_equal(mapped.boxes, few.boxes) and np.array_equal(mapped.first, few.first)


def test_classes_that_training_lacks_are_refused_by_name_or_left_out_and_counted(tmp_path: Path) -> None:
    train, other = coco(tmp_path / "train", {1: "cat", 90: "bus"}), coco(tmp_path / "val", {1: "cat", 13: "hound"})
    with pytest.raises(
        DataError, match=r"classes that the training split lacks: class 13 'hound' \(2 boxes\)"
    ) as caught:
        as_train(other, train)
    assert caught.value.rule == "DIR-E04" and "on_bad=skip" in str(caught.value)
    mapped = as_train(other, train, skip=True)
    assert isinstance(mapped, DetectionIndex) and rules(mapped)["DIR-W10"] == 2
    kept = other.labels == 0
    assert np.array_equal(mapped.boxes, other.boxes[kept]) and len(mapped) == len(other)
    for row in range(len(other)):
        mine = slice(other.first[row], other.first[row + 1])
        assert np.array_equal(mapped.boxes[mapped.first[row] : mapped.first[row + 1]], other.boxes[mine][kept[mine]])


def test_names_that_are_used_twice_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    train = coco(tmp_path / "train", {1: "cat", 13: "cat", 90: "bus"})
    assert set(as_train(coco(tmp_path / "val", {13: "cat"}), train).labels.tolist()) == {1}
    with pytest.raises(DataError, match="class 1 'bus'"):
        as_train(coco(tmp_path / "other", {1: "bus"}), train)


def test_gaps_of_raw_ids_are_no_classes(tmp_path: Path) -> None:
    train = coco(tmp_path / "train", {1: "cat", 13: "dog", 90: "bus"}, class_ids="raw")
    mapped = as_train(coco(tmp_path / "val", {1: "dog"}, class_ids="raw"), train)
    assert mapped.num_classes == 90 and set(mapped.labels.tolist()) == {12}


def test_folders_are_classes_by_name(tmp_path: Path) -> None:
    train = load_folder(tree(tmp_path / "train", "a/1.jpg", "b/1.jpg", "c/1.jpg"))
    assert as_train(load_folder(tree(tmp_path / "val", "b/1.jpg", "c/1.jpg")), train).labels.tolist() == [1, 2]
    more = load_folder(tree(tmp_path / "more", "b/1.jpg", "d/1.jpg", "d/2.jpg"))
    with pytest.raises(DataError, match=r"lacks: class d \(2 images\)"):
        as_train(more, train)
    left = as_train(more, train, skip=True)
    assert isinstance(left, ClassificationIndex) and left.names.tolist() == ["b/1.jpg"] and left.labels.tolist() == [1]
    assert left.class_names == ["a", "b", "c"] and rules(left)["DIR-W10"] == 2
