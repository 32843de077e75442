"""Malformed annotation files: each is refused by its rule, and the record named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydet.data.coco import CocoIndex
from raydet.data.errors import DataError
from tests.data.makers import load_coco as load
from tests.data.makers import truth

Edit = Callable[[dict[str, Any]], object]


def annotation(**changes: object) -> Edit:
    return lambda c: c["annotations"][2].update(changes)


def image(**changes: object) -> Edit:
    return lambda c: c["images"][1].update(changes)


def drop(kind: str, key: str) -> Edit:
    return lambda c: c[kind][2].pop(key)


REFUSED: list[tuple[str, str, Edit]] = [
    ("COCO-E03", "images", lambda c: c.pop("images")),
    ("COCO-E03", "got str", lambda c: c.update(images="x")),
    ("COCO-E29", r"images\[1\]", lambda c: c["images"].__setitem__(1, 5)),
    ("COCO-E04", "annotation 102: ", annotation(bbox=[1, 2, float("nan"), 4])),
    ("COCO-E04", "annotation 102: ", annotation(bbox=[1, 2, 10**400, 4])),
    ("COCO-E05", "missing", lambda c: c.pop("categories")),
    ("COCO-E05", "empty", lambda c: c.update(categories=[])),
    ("COCO-E06", "annotations", lambda c: c.pop("annotations")),
    ("COCO-E07", r"10 is used twice \(0.jpg, 1.jpg\)", image(id=10)),
    ("COCO-E08", "annotation 100: id 100 is used twice", annotation(id=100)),
    ("COCO-E11", r"1 of 6 annotations .* 102 \(image_id 77\)", annotation(image_id=77)),
    ("COCO-E12", r"1 of 6 annotations .* 102 \(category_id 77\)", annotation(category_id=77)),
    ("COCO-E14", "annotation 102: ", annotation(bbox=[1, 2, 3])),
    ("COCO-E14", "annotation 102: ", annotation(bbox=["1", 2, 3, 4])),
    ("COCO-E14", "annotation 102: ", annotation(bbox=[1, 2, [3], 4])),
    ("COCO-E14", "annotation 102: ", annotation(bbox=[1, 2, None, 4])),
    ("COCO-E14", "annotation 102: ", annotation(bbox="1 2 3 4")),
    ("COCO-E14", "annotation 102: ", annotation(bbox=[True, 2, 3, 4])),
    ("COCO-E16", "annotation 102: ", annotation(bbox=[1, 2, -3, 4])),
    ("COCO-E17", r"\[x1, y1, x2, y2\]", lambda c: [a.update(bbox=[50, 40, 70, 55]) for a in c["annotations"]]),
    ("COCO-E19", "annotation 102: ", annotation(bbox=None)),
    ("COCO-E19", "annotation 102: ", drop("annotations", "bbox")),
    ("COCO-E24", "image 11: ", image(file_name="../../../etc/passwd")),
    ("COCO-E24", "image 11: ", image(file_name="..\\..\\secret.jpg")),
    ("COCO-E24", "image 11: ", image(file_name="a/../../b.jpg")),
    ("COCO-E25", "image 11: ", image(file_name="/etc/passwd")),
    ("COCO-E25", "image 11: ", image(file_name="C:\\a.jpg")),
    ("COCO-E25", "image 11: ", image(file_name="\\\\host\\share\\a.jpg")),
    ("COCO-E26", "nothing can be learnt", lambda c: c.update(annotations=[])),
    ("COCO-E28", "image 11: ", image(file_name="http://169.254.169.254/latest/meta-data/")),
    ("COCO-E28", "image 11: ", image(file_name="FILE:/etc/passwd")),
    ("COCO-E29", "image 11: ", image(file_name="a\0.jpg")),
    ("COCO-E29", "image 11: ", image(file_name="\ud800.jpg")),
    ("COCO-E29", "image 11: ", image(file_name=None)),
    ("COCO-E29", "image 11: ", image(file_name="")),
    ("COCO-E29", "image 11: ", image(width="80")),
    ("COCO-E29", "image 11: ", image(height=0)),
    ("COCO-E29", "image 11: ", image(height=float("inf"))),
    ("COCO-E29", "image 11: ", image(width=80.5)),
    ("COCO-E29", "image abc: ", image(id="abc")),
    ("COCO-E29", "64 bits", image(id=2**63)),
    ("COCO-E29", r"images\[2\]: id", drop("images", "id")),
    ("COCO-E29", "annotation 102: image_id", annotation(image_id=11.0)),
    ("COCO-E29", "annotation 102: image_id", drop("annotations", "image_id")),
    ("COCO-E29", "annotation 102: category_id", annotation(category_id=True)),
    ("COCO-E29", "annotation 102: area", annotation(area="big")),
    ("COCO-E29", "annotation 102: area", annotation(area=-1.0)),
    ("COCO-E29", "annotation 102: iscrowd", annotation(iscrowd=2)),
    ("COCO-E29", "category 13: name", lambda c: c["categories"][2].update(name=5)),
    ("COCO-E31", r"\(bus, cat\)", lambda c: c["categories"][1].update(id=90)),
]


@pytest.mark.parametrize(("rule", "message", "edit"), REFUSED, ids=[f"{r}-{i}" for i, (r, _, _) in enumerate(REFUSED)])
def test_malformed_file_is_refused_by_rule_and_record(tmp_path: Path, rule: str, message: str, edit: Edit) -> None:
    content = truth()
    edit(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, content)
    assert caught.value.rule == rule
    assert "instances_train.json" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(truth())[:-40], "byte .* the file is cut"),
        ('{"images": [], "annot', "the file is cut"),
        ("", "the file is cut"),
        ('{"images": }', "byte 11 of 12"),
        ("[" * 100_000, "not usable JSON|the file is cut"),
        ('{"images": ' + "9" * 5000 + "}", "not usable JSON"),
    ],
    ids=["cut", "cut-in-text", "empty", "syntax", "deep", "huge-number"],
)
def test_broken_json_names_the_byte(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        CocoIndex.load(path, tmp_path)
    assert caught.value.rule == "COCO-E01"


def test_top_level_list_other_encodings_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for data, rule in ((b"[1]", "COCO-E03"), (b'{"a": "\xff"}', "COCO-E01"), ('{"a": 1}'.encode("utf-16"), "COCO-E01")):
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            CocoIndex.load(path, tmp_path)
        assert caught.value.rule == rule
    for missing in (tmp_path / "b.json", tmp_path):
        with pytest.raises(DataError) as caught:
            CocoIndex.load(missing, tmp_path)
        assert caught.value.rule == "DIR-E01"
