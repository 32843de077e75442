"""YOLO label files: every fault by its rule, counted in one pass."""

from pathlib import Path

import numpy as np
import pytest

from raydet.data.validation.faults import Faults
from raydet.exceptions import DataError
from tests.data.formats.yolo.test_load import load, rules, write


@pytest.mark.parametrize(
    ("row", "rule", "shown"),
    [
        ("0 .5 .5 .5", "YOLO-E09", "4 columns"),
        ("0 .5 .5 .5 .5 .9", "YOLO-E09", "prediction's score"),
        ("cat .5 .5 .5 .5", "YOLO-E10", "cat .5"),
        ("0 .5 .5 .5 ½", "YOLO-E10", "½"),
        ("0 0,5 0,5 0,5 0,5", "YOLO-E10", "0,5"),
        ("0 1_0 .5 .5 .5", "YOLO-E10", "1_0"),
        ("0 nan .5 .5 .5", "YOLO-E10", "nan"),
        ("0 .5 .5 .5 inf", "YOLO-E10", "inf"),
        ("0 .1 .1 .2 nan .3 .3", "YOLO-E10", "nan"),
        ("3 .5 .5 .5 .5", "YOLO-E11", "from 0 to 2.*count from 0"),
        ("-1 .5 .5 .5 .5", "YOLO-E11", "-1"),
        ("1.5 .5 .5 .5 .5", "YOLO-E11", "1.5"),
        ("0 40 30 20 10", "YOLO-E12", "look like pixels"),
        ("0 -.5 .5 .5 .5", "YOLO-E12", "from 0 to 1"),
        ("0 1e300 .5 .5 .5", "YOLO-E12", "1e"),
        ("0 .5 .5 -.5 .5", "YOLO-E13", "negative"),
    ],
)
def test_a_faulty_row_is_refused_by_name_or_left_out_and_counted(
    tmp_path: Path, row: str, rule: str, shown: str
) -> None:
    root = write(tmp_path, ["0 .5 .5 .5 .5\n" * 1 + row + "\n1 .2 .2 .2 .2", "", "1 .5 .5 1 1"])
    with pytest.raises(
        DataError, match=rf"(?s)label labels/train/0\.txt:2: .*1 of 4 label rows.*{shown}|{shown}"
    ) as caught:
        load(root)
    assert (caught.value.rule, caught.value.record) == (rule, "label labels/train/0.txt:2")
    index = load(root, on_bad="skip", max_bad=0.5)
    assert len(index.boxes) == 3
    assert rule in rules(index)
    with pytest.raises(DataError, match=r"1 of 4 label rows are faulty, more than data.max_bad=0.1"):
        load(root, on_bad="skip", max_bad=0.1)


def test_all_faults_are_counted_in_one_pass_with_the_first_five(tmp_path: Path) -> None:
    index = load(write(tmp_path, ["0 .5\n" * 7 + "9 .5 .5 .5 .5\n" * 3 + "0 .5 .5 .5 .5"]), on_bad="skip", max_bad=1.0)
    found = {fault.rule: (fault.count, [e.record for e in fault.examples]) for fault in index.faults}
    assert found["YOLO-E09"] == (7, [f"label labels/train/0.txt:{n}" for n in range(1, 6)])
    assert found["YOLO-E11"][0] == 3


def test_what_is_accepted_is_said(tmp_path: Path) -> None:
    polygons = "0 .1 .2 .3 .2 .3 .6 .1 .4\n1 .1 .2 .3 .2 .3 .6"
    rows = [f"0 .5 .5 .5 .5\n0 .5 .5 .5 .5\n1 .5 .5 .5 .5\n0 .5 .5 0 .2\n{polygons}\n0 1.005 .5 .1 .1"]
    index = load(write(tmp_path, rows))
    assert rules(index) == {"YOLO-W14", "YOLO-W15", "YOLO-W16", "YOLO-W25", "YOLO-W22"}
    assert all(fault.examples for fault in index.faults)
    assert np.allclose(index.boxes[2], [8, 12, 16, 24])
    assert len(index.boxes) == 5
    assert (index.boxes_of(0)[0][:, 2] <= 80).all()


def test_rows_of_corners_are_refused_although_each_number_is_a_share(tmp_path: Path) -> None:
    rows = ["0 .2 .2 .9 .9\n1 .5 .1 .9 .4", "0 .1 .6 .3 .8", "2 0 0 .5 .5"]
    with pytest.raises(DataError, match=r"3 of 4 boxes leave their image.*x1 y1 x2 y2|corners") as caught:
        load(write(tmp_path, rows))
    assert caught.value.rule == "YOLO-E22" and caught.value.record == "label labels/train/0.txt:1"


@pytest.mark.parametrize(("row", "leaves"), [("0 .9 .5 .3 .2", 1), ("0 .5 .05 .2 .2", 1), ("0 .9 .9 .2 .2", 0)])
def test_a_box_that_leaves_its_image_is_counted(tmp_path: Path, row: str, leaves: int) -> None:
    index = load(write(tmp_path, [row + "\n0 .5 .5 .5 .5" * 9]))
    assert {f.rule: f.count for f in index.faults}.get("YOLO-W22", 0) == leaves


def test_unreadable_images_and_labels_are_faults_of_their_own(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "images/train/2.jpg").write_text("<html>")
    (root / "labels/train/3.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(DataError, match=r"2\.jpg.*web page") as caught:
        load(root)
    assert caught.value.rule == "IMG-E03"
    index = load(root, on_bad="skip", max_bad=0.5)
    assert index.names.tolist() == [f"images/train/{i}.jpg" for i in (0, 1)]
    assert {"IMG-E03", "YOLO-E20"} <= rules(index)
    assert index.labels.tolist() == [0, 2]


def test_a_image_whose_labels_cannot_be_read_is_left_out_with_them(tmp_path: Path) -> None:
    """Kept without its boxes, all that is found in it would count as false."""
    write(tmp_path)
    whole = load(tmp_path)
    label = next(iter(sorted((tmp_path / "labels").rglob("*.txt"))))
    label.write_bytes(b"0 .5 .5 .1 .1\n\xff\xfe")
    with pytest.raises(DataError, match="YOLO-E20"):
        load(tmp_path)
    left = load(tmp_path, on_bad="skip", max_bad=1.0)
    gone = set(whole.names.tolist()) - set(left.names.tolist())
    assert [Path(name).stem for name in gone] == [label.stem]
    assert len(left.sizes) == len(left.names) == len(left.ids) == len(left.first) - 1 == len(whole) - 1
    assert left.first[-1] == len(left.boxes) < len(whole.boxes)


def test_a_row_of_key_points_gives_its_box(tmp_path: Path, subtests: pytest.Subtests) -> None:
    plain = load(write(tmp_path / "plain", ["0 .5 .4 .2 .3\n1 .2 .2 .1 .1"]))
    yaml = "train: images/train\nkpt_shape: [{}]\nnames: [a, b, c]"
    for shape, tail in (("2, 2", " .5 .4 .1 .9"), ("2, 3", " .5 .4 2 .1 .9 0"), ("1, 3", " .5 .4 1")):
        with subtests.test(shape):
            rows = [f"0 .5 .4 .2 .3{tail}\n1 .2 .2 .1 .1"]  # the second has no key points
            index = load(write(tmp_path / shape, rows, yaml=yaml.format(shape)))
            assert np.array_equal(index.boxes, plain.boxes) and "YOLO-W24" in rules(index)
    with pytest.raises(DataError, match=r"5 columns, or 9: a box and key points"):
        load(write(tmp_path / "polygon", ["0 .1 .2 .3 .2 .3 .6"], yaml=yaml.format("2, 2")))
    with pytest.raises(DataError, match=r"kpt_shape must be \[key points, 2 or 3\], got \[17\]"):
        load(write(tmp_path / "shape", ["0 .5 .4 .2 .3"], yaml=yaml.format("17")))


def test_key_points_without_kpt_shape_are_not_taken_for_polygons(tmp_path: Path) -> None:
    pose = "0 .5 .5 .5 .5 .4 .4 2 .6 .6 1"
    with pytest.raises(DataError, match=r"key points.*YOLO-E09") as caught:
        load(write(tmp_path / "odd", [pose, pose]))
    assert caught.value.rule == "YOLO-E09" and "kpt_shape" in str(caught.value)
    with pytest.raises(DataError, match=r"kpt_shape: \[17, 3\]"):
        load(write(tmp_path / "even", ["0 .5 .5 .5 .5" + " .5 .5 2" * 17]))


def test_rows_that_are_all_faulty_show_their_own_faults(tmp_path: Path) -> None:
    root = write(tmp_path, ["red .5 .5 .1 .1", "0 .5,.5 .1 .1", "0 64 64 20 20", "0 .1 .1"])
    for options in ({}, {"on_bad": "skip", "max_bad": 1.0}):
        with pytest.raises(DataError, match=r"label labels/train/0\.txt:1.*2 of 4 label rows.*YOLO-E10") as caught:
            load(root, **options)
        faults = caught.value.faults
        assert isinstance(faults, Faults)
        assert {"YOLO-E19", "YOLO-E10", "YOLO-E12", "YOLO-E09"} <= {fault.rule for fault in faults}
