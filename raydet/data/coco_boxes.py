"""The fields of COCO annotations that describe a box: bbox, area, iscrowd."""

from itertools import chain

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Floats
from raydet.data.records import Table


def boxes(table: Table) -> Floats:
    """Each annotation's bbox as finite x, y, width, height with no negative extent."""
    lists = table.values("bbox")
    for i in Table.other_than({list}, lists):
        if lists[i] is None:
            raise table.fault(i, "bbox is missing", "COCO-E19")
        raise table.fault(i, f"bbox must be four numbers, got {lists[i]!r}", "COCO-E14")
    if set(map(len, lists)) - {4}:
        i = next(i for i, box in enumerate(lists) if len(box) != 4)
        raise table.fault(i, f"bbox must be four numbers, got {lists[i]!r}", "COCO-E14")
    for i in Table.other_than({int, float}, list(chain.from_iterable(lists))):
        raise table.fault(i // 4, f"bbox must be four numbers, got {lists[i // 4]!r}", "COCO-E14")
    xywh = _as_floats(table, lists)
    for i in np.flatnonzero(~np.isfinite(xywh).all(axis=1)).tolist():
        raise table.fault(i, f"bbox must be finite, got {lists[i]!r}", "COCO-E04")
    for i in np.flatnonzero((xywh[:, 2:] < 0).any(axis=1)).tolist():
        hint = "bbox is [x, y, width, height]."
        raise table.fault(i, f"bbox has a negative width or height: {lists[i]!r}", "COCO-E16", hint)
    return xywh


def _as_floats(table: Table, lists: list[list[float]]) -> Floats:
    try:
        return np.array(lists, np.float64).reshape(-1, 4)
    except OverflowError:  # a whole number beyond the largest float
        i = next(i for i, box in enumerate(lists) if max(map(abs, box)) > 1e300)
        raise table.fault(i, "bbox must be finite, got a number beyond all pictures", "COCO-E04") from None


def areas(table: Table, xywh: Floats, warnings: list[str]) -> Floats:
    """Each annotation's area (of its outline, in COCO); width x height where it is missing."""
    values = table.values("area")
    for i in Table.other_than({int, float, type(None)}, values):
        raise table.fault(i, f"area must be a number, got {values[i]!r}", "COCO-E29")
    missing = values.count(None)
    area = np.array([np.nan if v is None else min(v, 1e300) for v in values], np.float64)
    absent = np.array([v is None for v in values], bool)
    for i in np.flatnonzero(~absent & ~((area >= 0) & np.isfinite(area))).tolist():
        raise table.fault(i, f"area must be a number >= 0, got {values[i]!r}", "COCO-E29")
    if missing:
        warnings.append(f"{missing} of {len(values)} annotations without area: width x height taken (COCO-W20)")
    return np.where(absent, xywh[:, 2] * xywh[:, 3], area)


def crowds(table: Table, warnings: list[str]) -> npt.NDArray[np.bool_]:
    """Which annotations outline a crowd; where iscrowd is missing: none."""
    values = table.values("iscrowd")
    for i in (i for i, v in enumerate(values) if v not in (0, 1, None)):
        raise table.fault(i, f"iscrowd must be 0 or 1, got {values[i]!r}", "COCO-E29")
    missing = values.count(None)
    if missing:
        warnings.append(f"{missing} of {len(values)} annotations without iscrowd: 0 taken (COCO-W21)")
    return np.array([bool(v) for v in values], bool)


def without_extent(table: Table, xywh: Floats, warnings: list[str]) -> npt.NDArray[np.bool_]:
    """Which boxes have no width or no height (COCO's own training set has one)."""
    empty: npt.NDArray[np.bool_] = (xywh[:, 2:] == 0).any(axis=1)
    if empty.any():
        first = table.records[int(np.argmax(empty))]["id"]
        count = f"{int(empty.sum())} of {len(xywh)}"
        warnings.append(f"{count} boxes without width or height: dropped, the first is annotation {first} (COCO-W15)")
    return empty
