"""The COCO index: what it holds of a sound file, what it accepts and says, what it refuses and names."""

import copy
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet.config import Config, override
from raydet.data.formats.coco.load import load_coco
from raydet.data.validation.faults import Faults
from raydet.exceptions import DataError
from tests.data.makers import load_content as load
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
    assert index.image(2) == tmp_path.resolve() / "train" / "2.jpg"
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
    assert len(load_coco(path, tmp_path)) == 3


def test_missing_fields_are_filled_in_and_said(tmp_path: Path) -> None:
    content = truth()
    for a in content["annotations"]:
        del a["iscrowd"], a["area"]
    del content["images"][1]["width"], content["categories"][0]["name"]
    index = load_coco(write_coco(tmp_path, truth()), tmp_path / "train")
    assert index.warnings == ["3 category ids from 1 to 90: mapped to classes (COCO-W27)"]
    index = load(tmp_path, content)
    assert sorted(w[w.rindex("(COCO-") :] for w in index.warnings) == [
        "(COCO-W20)",
        "(COCO-W21)",
        "(COCO-W23)",
        "(COCO-W27)",
        "(COCO-W32)",
    ]
    assert index.areas[0] == 30 * 20.5
    assert index.sizes[1].tolist() == [60, 80]
    assert index.class_names[2] == "90"


def test_boxes_without_extent_are_dropped_and_counted(tmp_path: Path) -> None:
    content = truth()
    content["annotations"][1]["bbox"] = [1, 2, 0, 4]
    index = load(tmp_path, content)
    assert index.ann_ids.tolist() == [100, 102, 103, 104, 105]
    assert any("1 of 6 annotations" in w and "annotation 101" in w for w in index.warnings)


def test_boxes_wholly_outside_are_not_said_to_be_clipped(tmp_path: Path) -> None:
    content = truth(10)
    for i, box in enumerate(([200, 5, 10, 10], [-40, 5, 30, 10], [5, 60, 10, 10], [75, 5, 10, 10])):
        content["annotations"][i]["bbox"] = box
    index = load_coco(write_coco(tmp_path, content), tmp_path / "train")
    counts = {fault.what: fault.count for fault in index.faults if fault.rule == "COCO-W17"}
    assert counts == {"bbox lies wholly outside its image, left out": 3, "bbox leaves its image, clipped": 1}


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
        index.image(0)
    (tmp_path / "linked").symlink_to(tmp_path / "train")
    assert load_coco(index.file, tmp_path / "linked").image(1).name == "1.jpg"


@pytest.mark.parametrize("name", ["sub/ä b#.jpg", "%2e%2e/x.jpg", "a\nb.jpg", "\u2215etc.jpg", "x" * 200 + ".jpg"])
def test_odd_names_stay_below_the_folder(tmp_path: Path, name: str) -> None:
    content = truth()
    content["images"][0]["file_name"] = name
    path = load(tmp_path, content).image(0)
    assert path == tmp_path.resolve() / "train" / name


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


@pytest.mark.slow
def test_ten_thousand_annotations_are_read_in_two_seconds(tmp_path: Path) -> None:

    content = truth(5000)
    content["annotations"][9_000]["bbox"][3] = -1
    began = time.process_time()
    with pytest.raises(DataError, match="annotation 9100"):
        load(tmp_path, copy.deepcopy(content))
    assert time.process_time() - began < 2


def faulty(images: int, count: int) -> dict[str, Any]:
    content = truth(images)
    for a in content["annotations"][:count]:
        a["bbox"] = [1, 2, 3]
    return content


def test_skipping_leaves_out_faulty_records_and_counts_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotation 100: .*; 2 of 400 annotations: 100, 101 \(COCO-E14\)") as caught:
        load(tmp_path, faulty(200, 2))
    assert isinstance(caught.value.faults, Faults)
    index = load(tmp_path, faulty(200, 2), on_bad="skip")
    assert index.ann_ids.tolist() == list(range(102, 500))
    assert len(index.boxes_of(0)[0]) == 0
    assert any(w.startswith("2 of 400 annotations: bbox must be four numbers; annotation 100") for w in index.warnings)
    assert [(fault.rule, fault.count) for fault in index.faults.errors] == [("COCO-E14", 2)]


def test_skipping_ends_above_the_share_of_faulty_records(tmp_path: Path) -> None:
    assert len(load(tmp_path, faulty(200, 4), on_bad="skip")) == 200
    with pytest.raises(DataError, match=r"5 of 400 annotations are faulty, more than data.max_bad=0.01; .*COCO-E14"):
        load(tmp_path, faulty(200, 5), on_bad="skip")
    assert len(load(tmp_path, faulty(200, 5), on_bad="skip", max_bad=0.02)) == 200


def test_faulty_images_are_left_out_with_their_boxes(tmp_path: Path) -> None:
    content = truth(200)
    content["images"][1]["file_name"] = "/etc/passwd"
    index = load(tmp_path, content, on_bad="skip")
    assert (len(index), index.names[1], index.ids[1]) == (199, "2.jpg", 12)
    assert index.ann_ids.tolist() == [100, 101, *range(104, 500)]
    assert index.boxes_of(1)[0].tolist() == load(tmp_path, truth(200)).boxes_of(2)[0].tolist()


def test_faults_of_the_whole_file_end_even_when_skipping(tmp_path: Path) -> None:
    content = truth()
    content["categories"] = []
    with pytest.raises(DataError, match="COCO-E05"):
        load(tmp_path, content, on_bad="skip", max_bad=1.0)
    for kind in ("images", "categories"):
        content = truth()
        for record in content[kind]:
            del record["id"]
        with pytest.raises(DataError, match=rf"{kind}\[0\]: id is missing.*COCO-E29\)\nAlso .*COCO-E55"):
            load(tmp_path, content, on_bad="skip", max_bad=1.0)
    with pytest.raises(DataError, match="COCO-E26") as caught:
        load(tmp_path, faulty(2, 4), on_bad="skip", max_bad=1.0)
    assert isinstance(caught.value.faults, Faults)
    assert {fault.rule for fault in caught.value.faults.errors} == {"COCO-E26", "COCO-E14"}


def test_real_cocos_oddities_are_warnings_only(tmp_path: Path) -> None:
    content = truth(100)
    content["annotations"][3]["bbox"] = [5.0, 6.0, 12.5, 0.0]  # as annotation 2206849 of train2017
    content["annotations"][5]["bbox"] = [50.3, 40.2, 30.21, 20.4]
    content["annotations"][7].update(iscrowd=1, segmentation={"counts": [1, 2], "size": [60, 80]})
    index = load(tmp_path, content)
    assert not index.faults.errors
    assert [fault.rule for fault in index.faults] == ["COCO-W27", "COCO-W15"]


@pytest.mark.soak
def test_a_million_annotations_are_audited_within_sixty_seconds_and_memory(tmp_path: Path) -> None:
    content = truth(1)
    one = json.dumps(content["annotations"][0])
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(content["images"])}, "categories": {json.dumps(content["categories"])},')
        file.write('"annotations": [')
        for i in range(1_000_000):
            broken = one.replace("[5.0,", "[", 1) if i % 10 == 0 else one
            file.write(", " * (i > 0) + broken.replace('"id": 100', f'"id": {i + 1}'))
        file.write("]}")
    code = (
        "import sys, time; from pathlib import Path; from raydet.data.formats.coco.reader import parse;"
        "from raydet.data.storage.files import Folder; began = time.process_time();"
        "faults = parse(Path(sys.argv[1]), [Folder(Path('/'))])[2]; cpu_s = time.process_time() - began;"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0];"  # ru_maxrss is the parent's too
        "print(cpu_s, peak, faults.errors[0].count)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    cpu_s, kilobytes, count = (float(word) for word in done.stdout.split())
    assert count == 100_000
    assert cpu_s < 60
    assert kilobytes * 1024 < 3 * path.stat().st_size + (150 << 20)  # the interpreter and numpy


def test_a_rotated_box_becomes_the_upright_one_around_it(tmp_path: Path) -> None:
    content = truth()
    for annotation, angle in zip(content["annotations"], (90, 45.0, 180, 0, -30, None), strict=True):
        annotation |= {"bbox": [30, 20, 20, 10], "attributes": {"occluded": False, "rotation": angle}}
    index = load(tmp_path, content)
    wide = [30 / 2**0.5] * 2
    tilted = [20 * np.cos(np.pi / 6) + 5, 10 + 10 * np.cos(np.pi / 6)]
    sides = np.array([[10, 20], wide, [20, 10], [20, 10], tilted, [20, 10]])
    assert np.allclose(index.boxes[:, 2:], sides) and np.allclose(index.boxes[:, :2] + sides / 2, [40, 25])
    assert {fault.rule: fault.count for fault in index.faults}["COCO-W52"] == 3


def test_polygons_without_a_box_give_their_bounds(tmp_path: Path) -> None:
    content = truth()
    outlines = ([[5, 6, 25, 6, 20, 30]], [[1, 2, 9, 2, 9, 9], [20, 3, 22, 9, 30, 4]], [[[3, 4], [9, 4], [5, 40.5]]])
    for annotation, outline in zip(content["annotations"], outlines, strict=False):
        annotation["segmentation"] = outline
        del annotation["bbox"]
    index = load(tmp_path, content)
    assert index.boxes[:3].tolist() == [[5, 6, 20, 24], [1, 2, 29, 7], [3, 4, 6, 36.5]]


def test_a_root_category_is_left_out_and_a_class_never(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """As Roboflow writes it: the only one without a parent, the parent of all others, without an annotation."""
    named = [{"id": i, "name": name, "supercategory": "pets"} for i, name in ((1, "cat"), (13, "dog"), (90, "bus"))]
    root = {"id": 0, "name": "pets", "supercategory": "none"}
    cases = {
        "root": ([root, *named], 1, 3),
        "annotated": ([root, *named], 0, 4),
        "not of all": ([root, *named[:2], named[2] | {"supercategory": "cars"}], 1, 4),
        "two without a parent": ([root, *named, {"id": 5, "name": "x", "supercategory": "none"}], 1, 5),
        "its own parent": ([root | {"supercategory": "pets"}, *named], 1, 4),
    }
    for name, (categories, first, count) in cases.items():
        with subtests.test(name):
            content = truth()
            content["categories"] = categories
            content["annotations"][0]["category_id"] = first
            index = load(tmp_path / name, content)
            assert (index.num_classes, "COCO-W53" in {f.rule for f in index.faults}) == (count, count == 3)
            assert [index.class_names[c] for c in index.labels[:1]] == ["cat" if first else "pets"]
