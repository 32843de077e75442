"""LabelMe: one JSON file an image, with shapes. The copy of the image within (imageData) is never looked at.

Format: github.com/wkentaro/labelme. Given up: flags, groups, masks as pixels (their corners are taken).
"""

import math
from collections.abc import Iterator
from typing import Any

from raydet.data.formats.annotated.json_file import parse_json
from raydet.data.formats.annotated.records import BOXES, AnnotatedImage, Box, bounds, foreign, points, reader, size

_NO_AREA = ("point", "points", "line", "linestrip")


@reader
def read_labelme(file: str, data: bytes) -> Iterator[AnnotatedImage]:
    """Yield the image that a JSON file is about."""
    held = parse_json(data)
    if not isinstance(held, dict) or not isinstance(held.get("shapes"), list):
        hint = "Move files that are no annotations out of the data set's folder."
        yield foreign(file, "ANN-E03", 'expected an object with a list of "shapes"', hint)
        return
    stem = file.rpartition("/")[2].rpartition(".")[0]
    name = held.get("imagePath")
    image = AnnotatedImage(file, f"file {file}", name if isinstance(name, str) and name else stem)
    image.hw = size(held.get("imageHeight"), held.get("imageWidth"))
    for i, shape in enumerate(held["shapes"], 1):
        _add_shape(image, shape, f"shape {i} of {file}")
    yield image


def _add_shape(image: AnnotatedImage, shape: Any, place: str) -> None:
    kind = (shape.get("shape_type") or "polygon") if isinstance(shape, dict) else None
    if kind in _NO_AREA:
        image.skip_shape(str(kind), place)
        return
    outline = points(shape.get("points")) if isinstance(shape, dict) else None
    box = None if outline is None else _box(str(kind), outline)
    if box is None:
        image.note("ANN-E03", "a shape has no points that make a box", BOXES, place, str(shape)[:200])
        return
    if kind != "rectangle":
        image.bound_shape(str(kind), place)
    elif len(outline or ()) == 4 and not _upright(outline or []):
        image.turn_box(place, math.degrees(float(shape.get("direction") or 0.0)))
    image.add(box, shape.get("label"), place)


def _box(kind: str, outline: list[tuple[float, float]]) -> Box | None:
    if kind == "circle":  # its centre, and a point on it
        if len(outline) != 2:
            return None
        (cx, cy), radius = outline[0], math.dist(*outline)
        return cx - radius, cy - radius, cx + radius, cy + radius
    least = 3 if kind == "polygon" else 2
    return bounds(outline) if len(outline) >= least else None


def _upright(corners: list[tuple[float, float]]) -> bool:
    return len({x for x, _ in corners}) == 2 and len({y for _, y in corners}) == 2
