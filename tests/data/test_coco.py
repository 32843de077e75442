"""The COCO index: what it holds of a sound file, what it accepts and says, what it refuses and names."""

import copy
import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from raydet.config import Config, override
from raydet.data import columns
from raydet.data.coco import CocoIndex
from raydet.data.errors import DataError
from tests.data.makers import load_coco as load
from tests.data.makers import truth, write_coco


def test_index_holds_the_file_in_columns_and_maps_categories_by_id(tmp_path: Path) -> None:
    index = load(tmp_path, truth())
    assert index.class_names == ["cat", "dog", "bus"]
    assert index.category_ids.tolist() == [1, 13, 90]
    assert (len(index), index.num_classes) == (3, 3)
    assert index.ids.tolist() == [10, 11, 12]
    assert index.sizes.tolist() == [[60, 80]] * 3
    boxes_K4, labels_K, crowd_K = index.boxes_of(1)
    assert boxes_K4.tolist() == [[5, 5, 35, 25.5], [15, 5, 46, 25.5]]
    assert labels_K.tolist() == [1, 2]
    assert not crowd_K.any()
    assert index.picture(2) == tmp_path.resolve() / "train" / "2.jpg"
    assert [type(getattr(index, n)) for n in ("ids", "boxes", "labels", "crowd")] == [np.ndarray] * 4


def test_annotations_in_any_order_are_grouped_by_image(tmp_path: Path) -> None:
    mixed = truth()
    mixed["annotations"] = [mixed["annotations"][i] for i in (5, 0, 3, 2, 1, 4)]
    index = load(tmp_path, mixed)
    assert index.ann_ids.tolist() == [100, 101, 103, 102, 105, 104]
    assert index.first.tolist() == [0, 2, 4, 6]


def test_raw_class_ids_keep_gaps_as_nameless_classes(tmp_path: Path) -> None:
    index = load(tmp_path, truth(), class_ids="raw")
    assert index.num_classes == 90
    assert (index.class_names[0], index.class_names[1], index.class_names[89]) == ("cat", "", "bus")
    assert index.boxes_of(0)[1].tolist() == [0, 12]
    assert index.category_ids[12] == 13


def test_raw_class_ids_refuse_zero(tmp_path: Path) -> None:
    content = truth()
    content["categories"][1]["id"] = 0
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 1]
    assert load(tmp_path, content).num_classes == 3
    with pytest.raises(DataError, match="COCO-E27"):
        load(tmp_path, content, class_ids="raw")


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(truth()).encode())
    assert len(CocoIndex.load(path, tmp_path)) == 3


def test_missing_fields_are_filled_in_and_said(tmp_path: Path) -> None:
    content = truth()
    for a in content["annotations"]:
        del a["iscrowd"], a["area"]
    del content["images"][1]["width"], content["categories"][0]["name"]
    index = CocoIndex.load(write_coco(tmp_path, truth()), tmp_path / "train")
    assert index.warnings == ["3 category ids from 1 to 90: mapped to classes (COCO-W27)"]
    index = load(tmp_path, content)
    assert [w[w.index("(COCO-") :] for w in index.warnings] == [
        "(COCO-W23)",
        "(COCO-W32)",
        "(COCO-W27)",
        "(COCO-W20)",
        "(COCO-W21)",
    ]
    assert index.areas[0] == 30 * 20.5
    assert index.sizes[1].tolist() == [60, 80]
    assert index.class_names[2] == "90"


def test_boxes_without_extent_are_dropped_and_counted(tmp_path: Path) -> None:
    content = truth()
    content["annotations"][1]["bbox"] = [1, 2, 0, 4]
    index = load(tmp_path, content)
    assert index.ann_ids.tolist() == [100, 102, 103, 104, 105]
    assert any("1 of 6 boxes" in w and "annotation 101" in w for w in index.warnings)


def test_boxes_beyond_the_image_are_clipped_and_said(tmp_path: Path) -> None:
    content = truth()
    content["annotations"][0]["bbox"] = [70, -5, 30, 20]
    index = load(tmp_path, content)
    assert index.boxes_of(0)[0][0].tolist() == [70, 0, 80, 15]
    assert index.boxes[0].tolist() == [70, -5, 30, 20]
    assert any("COCO-W17" in w for w in index.warnings)
    content["annotations"][0]["bbox"] = [90, 0, 30, 20]
    assert len(load(tmp_path, content).boxes_of(0)[0]) == 1


def test_two_categories_of_one_name_stay_apart_and_are_said(tmp_path: Path) -> None:
    content = truth()
    content["categories"][0]["name"] = "cat"
    index = load(tmp_path, content)
    assert index.num_classes == 3
    assert any("COCO-W10" in w for w in index.warnings)


def test_a_split_without_annotations_is_refused_or_said_by_its_role(tmp_path: Path) -> None:
    content = truth()
    content["annotations"] = []
    assert any("COCO-W26" in w for w in load(tmp_path, content, role="val").warnings)
    del content["annotations"]
    with pytest.raises(DataError, match="COCO-E06"):
        load(tmp_path, content, role="val")
    index = load(tmp_path, content, role="test")
    assert [len(part) for part in index.boxes_of(0)] == [0, 0, 0]


def test_links_out_of_the_image_folder_are_refused(tmp_path: Path) -> None:
    index = load(tmp_path, truth())
    (tmp_path / "secret.jpg").write_text("x")
    (tmp_path / "train" / "0.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match="COCO-E24"):
        index.picture(0)
    (tmp_path / "linked").symlink_to(tmp_path / "train")
    assert CocoIndex.load(index.file, tmp_path / "linked").picture(1).name == "1.jpg"


@pytest.mark.parametrize("name", ["sub/ä b#.jpg", "%2e%2e/x.jpg", "a\nb.jpg", "\u2215etc.jpg", "x" * 200 + ".jpg"])
def test_odd_names_stay_below_the_folder(tmp_path: Path, name: str) -> None:
    content = truth()
    content["images"][0]["file_name"] = name
    path = load(tmp_path, content).picture(0)
    assert path == tmp_path.resolve() / "train" / name


def test_second_load_comes_from_the_cache_and_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path, truth())
    monkeypatch.setattr("raydet.data.coco.parse", lambda *_: pytest.fail("parsed again"))
    again = CocoIndex.load(first.file, tmp_path / "train")
    assert all(np.array_equal(getattr(first, n), getattr(again, n)) for n in ("ids", "boxes", "labels", "first"))
    assert (again.names.tolist(), again.warnings) == (first.names.tolist(), first.warnings)


def test_changed_file_and_damaged_cache_are_read_anew(tmp_path: Path, own_cache: Path) -> None:
    load(tmp_path, truth())
    assert len(load(tmp_path, truth(4))) == 4
    for held in (own_cache / "index").iterdir():
        held.write_bytes(held.read_bytes()[:200])
    assert len(load(tmp_path, truth(4))) == 4


def test_edit_at_the_end_of_a_long_file_is_noticed_even_with_the_same_size_and_time(tmp_path: Path) -> None:
    content = truth(2000)
    first = load(tmp_path, content)
    before = Path(first.file).stat()
    Path(first.file).write_text(Path(first.file).read_text().replace('"dog"', '"cow"'))
    os.utime(first.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Path(first.file).stat().st_size == before.st_size > 1 << 17
    assert CocoIndex.load(first.file, tmp_path).class_names == ["cat", "cow", "bus"]


def test_nothing_is_written_beside_the_data_and_an_unwritable_cache_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RAYDET_CACHE", str(blocked))
    load(tmp_path, truth())
    assert sorted(os.listdir(tmp_path)) == ["annotations", "file", "train"]
    assert os.listdir(tmp_path / "annotations") == ["instances_train.json"]


def test_failed_cache_write_leaves_no_file(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns.np, "savez", full)
    columns.save_columns("key", {})
    assert list((own_cache / "index").iterdir()) == []


def test_train_rows_leave_out_small_empty_and_crowd_only_images(tmp_path: Path) -> None:
    content = truth(6)
    content["images"][0].update(width=31)
    for a in content["annotations"]:
        if a["image_id"] == 11:
            a["iscrowd"] = 1
        if a["image_id"] == 12:
            a["bbox"][2] = 0.5
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 13]
    index = load(tmp_path, content)
    assert index.train_rows(Config()).tolist() == [4, 5]
    assert index.train_rows(override(Config(), {"data.min_box": 0.0})).tolist() == [2, 4, 5]
    assert index.train_rows(override(Config(), {"data.skip_empty": False})).tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(DataError, match="COCO-E33"):
        index.train_rows(override(Config(), {"data.min_box": 50.0}))


def test_index_is_small_and_travels_to_processes(tmp_path: Path) -> None:
    index = load(tmp_path, truth())
    again = pickle.loads(pickle.dumps(index))
    assert again.names[2] == "2.jpg"
    with pytest.raises(IndexError):
        index.names[3]


def test_ten_thousand_annotations_are_read_in_two_seconds(tmp_path: Path) -> None:

    content = truth(5000)
    content["annotations"][9_000]["bbox"][3] = -1
    began = time.perf_counter()
    with pytest.raises(DataError, match="annotation 9100"):
        load(tmp_path, copy.deepcopy(content))
    assert time.perf_counter() - began < 2
