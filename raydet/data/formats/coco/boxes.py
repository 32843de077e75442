"""The fields of COCO annotations that describe a box: bbox, area, iscrowd, and the size a run-length code is for."""

import math
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Floats
from raydet.data.formats.coco.json_table import JsonTable, of_kinds
from raydet.data.formats.coco.outlines import bounds

_FOUR = "bbox must be four numbers"
_CORNERS = {2: "[[x1, y1], [x2, y2]]", 5: "with an angle or a score", 8: "a polygon's four corners"}


def boxes(table: JsonTable) -> Floats:
    """Each annotation's bbox as x, y, width, height; zeros where it is refused."""
    lists = table.values("bbox")
    plain = of_kinds({list}, lists) and set(map(len, lists)) <= {4}
    if not plain or not of_kinds({int, float}, chain.from_iterable(lists)):
        lists = _four_numbers(table, lists)
    try:
        xywh = np.array(list(chain.from_iterable(lists)), np.float64).reshape(-1, 4)
    except OverflowError:  # a whole number beyond the largest float
        xywh = np.array([[_finite(v) for v in box] for box in lists], np.float64).reshape(-1, 4)
    infinite = np.flatnonzero(~np.isfinite(xywh).all(axis=1))
    table.refuse("COCO-E04", "bbox must be finite", infinite, table.shown(lists))
    xywh[infinite] = 0
    negative = np.flatnonzero((xywh[:, 2:] < 0).any(axis=1))
    hint = "bbox is [x, y, width, height]."
    table.refuse("COCO-E16", "bbox has a negative width or height", negative, table.shown(lists), hint)
    xywh[negative] = 0
    return _upright(table, xywh)


def _upright(table: JsonTable, xywh: Floats) -> Floats:
    """The boxes, and around those that CVAT has turned (attributes.rotation, in degrees) the upright ones."""
    attributes = table.values("attributes")
    if of_kinds({type(None)}, attributes):
        return xywh
    angles = [a.get("rotation") if type(a) is dict else None for a in attributes]
    wrong = [i for i, v in enumerate(angles) if v is not None and not _is_angle(v)]
    table.refuse("COCO-E29", "attributes.rotation must be an angle in degrees", wrong, table.shown(angles))
    turn = np.radians(np.array([v if _is_angle(v) else 0.0 for v in angles], np.float64))
    turned = np.flatnonzero(np.sin(turn).round(9) != 0)
    if turned.size:
        cos, sin = np.abs(np.cos(turn[turned])), np.abs(np.sin(turn[turned]))
        centre, (w, h) = xywh[turned, :2] + xywh[turned, 2:] / 2, xywh[turned, 2:].T
        side = np.stack([w * cos + h * sin, w * sin + h * cos], axis=1)
        table.warn("COCO-W52", "the box is rotated: the upright box around it is taken", turned, table.shown(angles))
        xywh[turned] = np.concatenate([centre - side / 2, side], axis=1)
    return xywh


def _is_angle(value: object) -> bool:
    return type(value) in (int, float) and -1e6 < value < 1e6  # type: ignore[operator]


def _four_numbers(table: JsonTable, lists: list[Any]) -> list[list[float]]:
    """The boxes, bounds of outlines where there is none, and zeros for what is not four numbers, which is counted."""
    lists, hint = list(lists), "Compute it as the bounds of the outline."
    missing = [i for i, box in enumerate(lists) if box is None or (box == [] and table.records[i].get("segmentation"))]
    outlined = [i for i in missing if table.records[i].get("segmentation")]
    table.missing("bbox", [i for i in missing if not table.records[i].get("segmentation")], "COCO-E19")
    for i in outlined:
        lists[i] = bounds(table.records[i]["segmentation"])
    what = "bbox is missing, and the segmentation is no polygon and no run-length code of its image"
    table.refuse("COCO-E19", what, [i for i in outlined if lists[i] is None], hint=hint)
    what = "bbox is missing: the bounds of the segmentation are taken"
    table.warn("COCO-W54", what, [i for i in outlined if lists[i] is not None])
    missing = [i for i in missing if lists[i] is None]
    wrong = [i for i, box in enumerate(lists) if box is not None and not _is_box(box)]
    if wrong:
        table.refuse("COCO-E14", _FOUR, wrong, table.shown(lists), _box_hint(lists[wrong[0]]))
    for i in missing + wrong:
        lists[i] = [0.0, 0.0, 0.0, 0.0]
    return lists


def _is_box(box: object) -> bool:
    return type(box) is list and len(box) == 4 and all(type(v) in (int, float) for v in box)


def _box_hint(box: object) -> str:
    form = "bbox is a list [x, y, width, height]"
    if isinstance(box, list):
        if all(isinstance(v, str) for v in box) and box:
            return f'{form} of numbers, not of text: 1.5, not "1.5".'
        like = _CORNERS.get(len(box))
        return f"{form}; this looks like {like}." if like else f"{form}."
    return f"{form}, not {'text' if isinstance(box, str) else 'an object' if isinstance(box, dict) else 'one value'}."


def _finite(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def areas(table: JsonTable, xywh: Floats) -> Floats:
    """Each annotation's area (of its outline, in COCO); width x height where it is missing."""
    values = table.values("area")
    if not of_kinds({int, float}, values):
        wrong = [i for i, v in enumerate(values) if v is not None and type(v) not in (int, float)]
        hint = "Write it without quotation marks." if wrong and isinstance(values[wrong[0]], str) else None
        table.refuse("COCO-E29", "area must be a number", wrong, table.shown(values), hint)
        missing = [i for i, v in enumerate(values) if v is None]
        table.warn("COCO-W20", "area is missing, width x height taken", missing)
        sides = (xywh[:, 2] * xywh[:, 3]).tolist()
        values = [sides[i] if type(v) not in (int, float) else v for i, v in enumerate(values)]
    try:
        area = np.array(values, np.float64)
    except OverflowError:
        area = np.array([_finite(v) for v in values], np.float64)
    wrong_area = ~((area >= 0) & np.isfinite(area))
    table.refuse("COCO-E29", "area must be a number >= 0", wrong_area, table.shown(values))
    return area


def crowds(table: JsonTable) -> npt.NDArray[np.bool_]:
    """Which annotations outline a crowd; where iscrowd is missing: none."""
    values = table.values("iscrowd")
    if of_kinds({int}, values) and set(values) <= {0, 1}:
        return np.array(values, bool)
    wrong = [i for i, v in enumerate(values) if not _is_flag(v)]
    table.refuse("COCO-E29", "iscrowd must be 0 or 1", wrong, table.shown(values))
    missing = [i for i, v in enumerate(values) if v is None]
    table.warn("COCO-W21", "iscrowd is missing, 0 taken", missing)
    odd = [i for i, v in enumerate(values) if type(v) in (bool, float) and v in (0, 1)]
    table.warn("COCO-W47", "iscrowd is not written as 0 or 1, taken as such", odd, table.shown(values))
    return np.array([bool(v) if _is_flag(v) else False for v in values], bool)


def _is_flag(value: object) -> bool:
    return value is None or (type(value) in (int, bool, float) and value in (0, 1))


def outline_sizes(table: JsonTable) -> npt.NDArray[np.int32]:
    """Height and width that a run-length code is for; -1 where there is none."""
    values = table.values("segmentation")
    sizes = np.full((len(values), 2), -1, np.int32)
    if dict in set(map(type, values)):
        for i, outline in enumerate(values):
            if type(outline) is dict:
                size: Any = outline.get("size")
                sizes[i] = size if _is_size(size) else 0
    return sizes


def _is_size(size: object) -> bool:
    return type(size) is list and len(size) == 2 and all(type(v) is int and 0 <= v < 2**31 for v in size)
