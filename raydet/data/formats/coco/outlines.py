"""Bounds of the outlines that COCO annotations have: polygons, and run-length codes as lists or pycocotools' text.

pycocotools' own reader of that text looks past its end where the last character asks for more, so it is not given what
strangers wrote.
"""

from itertools import accumulate
from typing import Any

_MOST_NUMBERS = 10**7


def bounds(outline: object) -> list[float] | None:
    """Return x, y, width and height of an outline; None of anything that is none, or is empty.

    Args:
        outline: one or several polygons, written as [x, y, x, y, ...] or [[x, y], ...]; or a run-length code.
    """
    return _of_runs(outline) if type(outline) is dict else _of_polygons(outline)


def _of_polygons(outline: object) -> list[float] | None:
    values: list[Any] = []
    stack: list[Any] = [outline]
    while stack:
        part = stack.pop()
        if type(part) is not list:
            return None
        numbers = part and all(type(v) in (int, float) and abs(v) < 1e9 for v in part)  # NaN is not below anything
        if numbers and len(part) % 2 == 0:
            values += part
        elif numbers or not part or len(values) > _MOST_NUMBERS:
            return None
        else:
            stack += part
    if len(values) < 6:
        return None
    x1, y1 = min(values[::2]), min(values[1::2])
    return [x1, y1, max(values[::2]) - x1, max(values[1::2]) - y1]


def _of_runs(code: dict[str, Any]) -> list[float] | None:
    """The bounds of a code's ones; it counts zeros and ones in turn, down one column after the other."""
    counts = code.get("counts")
    size, runs = _numbers(code.get("size")), _numbers(_unpacked(counts) if isinstance(counts, str) else counts)
    if len(size) != 2 or not runs or sum(runs) != size[0] * size[1]:
        return None
    height, ends = size[0], list(accumulate(runs))
    spans = [(start, end) for start, end in zip(ends[::2], ends[1::2], strict=False) if end > start]
    if not spans:
        return None
    x1, x2 = spans[0][0] // height, (spans[-1][1] - 1) // height + 1
    whole = any(start // height != (end - 1) // height for start, end in spans)  # goes round a column's end
    y1 = 0 if whole else min(start % height for start, _ in spans)
    y2 = height if whole else max((end - 1) % height for _, end in spans) + 1
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def _numbers(values: object) -> list[int]:
    """The values, if they are a list of whole numbers from 0; else none."""
    return values if type(values) is list and all(type(v) is int and 0 <= v < 2**31 for v in values) else []


def _unpacked(text: str) -> list[int]:
    """The counts in pycocotools' text: five bits a character; from the fourth on differences to the one before last."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            if shift > 60:
                return []
            continue
        value -= (1 << shift) if bits & 0x10 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
