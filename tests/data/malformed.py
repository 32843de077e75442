"""Malformations of `truth()`: rule, the record that is named (None: the file as a whole), how it is made."""

import math
from collections.abc import Callable
from typing import Any

Edit = Callable[[dict[str, Any]], object]


def annotation(**changes: object) -> Edit:
    return lambda c: c["annotations"][2].update(changes)


def image(**changes: object) -> Edit:
    return lambda c: c["images"][1].update(changes)


def category(**changes: object) -> Edit:
    return lambda c: c["categories"][2].update(changes)


def drop(kind: str, key: str, i: int = 2) -> Edit:
    return lambda c: c[kind][i].pop(key)


def rename(kind: str, key: str, new: str) -> Edit:
    return lambda c: [r.update({new: r.pop(key)}) for r in c[kind]]


def every(kind: str, **changes: object) -> Edit:
    return lambda c: [r.update(changes) for r in c[kind]]


def boxes(change: Callable[[list[float]], list[float]]) -> Edit:
    return lambda c: [a.update(bbox=change(a["bbox"])) for a in c["annotations"]]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


A, M, C, WHOLE = "annotation 102", "image 11", "category 13", None
ROOT = {"id": 0, "name": "pet", "supercategory": "none"}
SWAPPED = {"bbox": [10, 62, 20, 14]}
MALFORMED: list[tuple[str, str | None, Edit]] = [
    ("COCO-E29", "images[1]", lambda c: c["images"].__setitem__(1, 5)),
    ("COCO-E29", "annotations[2]", lambda c: c["annotations"].__setitem__(2, [1, 2])),
    ("COCO-E29", "categories[2]", lambda c: c["categories"].__setitem__(2, "dog")),
    ("COCO-E04", A, annotation(bbox=[1, 2, math.nan, 4])),
    ("COCO-E04", A, annotation(bbox=[1, 2, math.inf, 4])),
    ("COCO-E04", A, annotation(bbox=[1, 2, 10**400, 4])),
    ("COCO-E05", WHOLE, lambda c: c.pop("categories")),
    ("COCO-E05", WHOLE, lambda c: c.update(categories=[])),
    ("COCO-E05", WHOLE, lambda c: c.update(Categories=c.pop("categories"))),
    ("COCO-E03", WHOLE, lambda c: c.update(categories={"1": "cat"})),
    ("COCO-E03", WHOLE, lambda c: c.update(annotations="none")),
    ("COCO-E03", WHOLE, lambda c: c.update(annotations=None)),
    ("COCO-E06", WHOLE, lambda c: c.update(Annotation=c.pop("annotations"))),
    ("COCO-E07", "image 10", image(id=10)),
    ("COCO-E08", "annotation 100", annotation(id=100)),
    ("COCO-W10", C, category(name="cat")),
    ("COCO-W50", C, category(name=" Cat")),
    ("COCO-E11", A, annotation(image_id=77)),
    ("COCO-E12", A, annotation(category_id=77)),
    ("COCO-E14", A, annotation(bbox=[1, 2, 3])),
    ("COCO-E14", A, annotation(bbox=[])),
    ("COCO-E14", A, annotation(bbox=["1", "2", "3", "4"])),
    ("COCO-E14", A, annotation(bbox=[1, 2, [3], 4])),
    ("COCO-E14", A, annotation(bbox=[[1, 2], [3, 4]])),
    ("COCO-E14", A, annotation(bbox=[[1, 2, 3, 4]])),
    ("COCO-E14", A, annotation(bbox=[1, 2, 9, 2, 9, 9, 1, 9])),
    ("COCO-E14", A, annotation(bbox=[1, 2, None, 4])),
    ("COCO-E14", A, annotation(bbox="1 2 3 4")),
    ("COCO-E14", A, annotation(bbox={"x": 1, "y": 2, "width": 3, "height": 4})),
    ("COCO-E14", A, annotation(bbox=[True, 2, 3, 4])),
    ("COCO-W15", A, annotation(bbox=[1, 2, 0, 4])),
    ("COCO-E16", A, annotation(bbox=[1, 2, -3, 4])),
    ("COCO-E17", WHOLE, every("annotations", bbox=[50, 40, 70, 55])),
    ("COCO-E17", WHOLE, every("annotations", **SWAPPED)),
    ("COCO-W17", A, annotation(bbox=[70, 40, 30, 10])),
    ("COCO-E19", A, annotation(bbox=None)),
    ("COCO-E19", A, drop("annotations", "bbox")),
    ("COCO-E19", "annotation 100", rename("annotations", "bbox", "BBox")),
    ("COCO-E19", A, lambda c: c["annotations"][2].update(segmentation=[[c["annotations"][2].pop("bbox")]])),
    ("COCO-W20", A, drop("annotations", "area")),
    ("COCO-W21", A, drop("annotations", "iscrowd")),
    ("COCO-E24", M, image(file_name="../../../etc/passwd")),
    ("COCO-E24", M, image(file_name="..\\..\\secret.jpg")),
    ("COCO-E24", M, image(file_name="a/../../b.jpg")),
    ("COCO-E25", M, image(file_name="/etc/passwd")),
    ("COCO-E25", M, image(file_name="C:\\a.jpg")),
    ("COCO-E25", M, image(file_name="\\\\host\\share\\a.jpg")),
    ("COCO-W27", WHOLE, category(id=13)),
    ("COCO-E28", M, image(file_name="http://169.254.169.254/latest/meta-data/")),
    ("COCO-E28", M, image(file_name="FILE:/etc/passwd")),
    ("COCO-E29", M, image(file_name="a\0.jpg")),
    ("COCO-E29", M, image(file_name="\ud800.jpg")),
    ("COCO-E29", M, image(file_name=None)),
    ("COCO-E29", M, image(file_name="")),
    ("COCO-E29", M, image(file_name=["a.jpg"])),
    ("COCO-E29", "image 10", rename("images", "file_name", "filename")),
    ("COCO-E29", M, image(width="80")),
    ("COCO-E29", M, image(height=0)),
    ("COCO-E29", M, image(height=-60)),
    ("COCO-E29", M, image(height=math.inf)),
    ("COCO-E29", M, image(height=2**40)),
    ("COCO-E29", M, image(width=80.5)),
    ("IMG-E01", M, image(width=None, file_name="gone.jpg")),
    ("COCO-E29", "image abc", image(id="abc")),
    ("COCO-E29", M, image(id="11")),
    ("COCO-E29", "image 11.0", image(id=11.0)),
    ("COCO-E29", f"image {2**63}", image(id=2**63)),
    ("COCO-E29", "images[1]", drop("images", "id", 1)),
    ("COCO-E29", A, annotation(image_id=11.0)),
    ("COCO-E29", A, annotation(image_id="11")),
    ("COCO-E29", A, annotation(image_id="1.jpg")),
    ("COCO-E29", A, drop("annotations", "image_id")),
    ("COCO-E29", "annotation 100", rename("annotations", "image_id", "imageId")),
    ("COCO-E29", A, annotation(category_id=True)),
    ("COCO-E29", A, annotation(category_id="cat")),
    ("COCO-E29", A, annotation(category_id=1.0)),
    ("COCO-E29", "annotations[2]", drop("annotations", "id")),
    ("COCO-E29", A, annotation(area="big")),
    ("COCO-E29", A, annotation(area=-1.0)),
    ("COCO-E29", A, annotation(area=10**400)),
    ("COCO-E29", A, annotation(area=math.nan)),
    ("COCO-E29", A, annotation(iscrowd=2)),
    ("COCO-E29", A, annotation(iscrowd="0")),
    ("COCO-E29", A, annotation(iscrowd=[])),
    ("COCO-E29", A, annotation(bbox=[1, 2, 3, 4], category_id=nested(200))),
    ("COCO-E29", C, category(name=5)),
    ("COCO-E29", C, category(name="\ud800")),
    ("COCO-E31", "category 90", lambda c: c["categories"][1].update(id=90)),
    ("COCO-W32", C, drop("categories", "name")),
    ("COCO-W32", C, category(name="")),
    ("COCO-E34", WHOLE, boxes(lambda b: [b[0] / 80, b[1] / 60, b[2] / 80, b[3] / 60])),
    ("COCO-W35", M, image(file_name="0.jpg")),
    ("COCO-W36", M, image(file_name="0.JPG")),
    ("COCO-W36", M, lambda c: (image(file_name="e\u0301.jpg")(c), c["images"][0].update(file_name="\xe9.jpg"))),
    ("COCO-W37", "annotation 103", lambda c: c["annotations"][3].update(c["annotations"][2], id=103)),
    ("COCO-W39", M, image(file_name="1.jpg ")),
    ("COCO-W41", WHOLE, boxes(lambda b: [*b[:2], 1, 1])),
    ("COCO-W42", A, annotation(bbox=[1, 2, 0.5, 4])),
    ("COCO-W43", A, annotation(segmentation={"counts": "abc", "size": [80, 60]})),
    ("COCO-W43", A, annotation(segmentation={"counts": [1, 2]})),
    ("COCO-W44", "image 11", lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] == 10])),
    ("COCO-W45", C, lambda c: c.update(annotations=[a for a in c["annotations"] if a["category_id"] != 13])),
    ("COCO-W46", A, annotation(area=0)),
    ("COCO-W46", A, annotation(area=4000.0)),
    ("COCO-W47", A, annotation(iscrowd=True)),
    ("COCO-W47", A, annotation(iscrowd=0.0)),
    ("COCO-W48", "annotation 0", annotation(id=0)),
    ("COCO-W52", A, annotation(attributes={"rotation": 37.4})),
    ("COCO-W54", A, annotation(bbox=None, segmentation=[[1, 2, 9, 2, 9, 9], [20, 3, 22, 9, 30, 4]])),
    ("COCO-W54", A, annotation(bbox=[], segmentation=[1, 2, 9, 2, 9, 9])),
    ("COCO-W54", A, annotation(bbox=None, segmentation={"size": [60, 80], "counts": [70, 9, 4721]})),
    ("COCO-E29", A, annotation(attributes={"rotation": "left"})),
    ("COCO-W53", "category 0", lambda c: (every("categories", supercategory="pet")(c), c["categories"].append(ROOT))),
    ("COCO-E49", A, lambda c: (category(name=5)(c), annotation(category_id=13)(c))),
]
