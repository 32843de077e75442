"""CreateML: one JSON file, a list of images with boxes given by their centres, as Apple and Roboflow write it.

Format: developer.apple.com, "Building an object detector data source".
"""

from collections.abc import Iterator
from typing import Any

from raydet.data.formats.annotated.json_file import parse_json
from raydet.data.formats.annotated.records import BOXES, AnnotatedImage, broken, foreign, numbers, reader

_SIDES = ("x", "y", "width", "height")


@reader
def read_createml(file: str, data: bytes) -> Iterator[AnnotatedImage]:
    """Yield every image of a JSON file."""
    held = parse_json(data)
    if not isinstance(held, list):
        yield foreign(file, "ANN-E03", "expected a list of images")
        return
    for i, entry in enumerate(held):
        yield _image(file, i, entry)


def _image(file: str, i: int, entry: Any) -> AnnotatedImage:
    record = f"entry {i} of {file}"
    name = _either(entry, "image", "imagefilename")
    listed = _either(entry, "annotations", "annotation")
    if not isinstance(name, str) or not isinstance(listed, list):
        what = 'expected "image", a name, and "annotations", a list'
        return broken(file, "ANN-E03", what, record=record)
    image = AnnotatedImage(file, f"{record}, {name}", name)
    for k, one in enumerate(listed, 1):
        place = f"annotation {k} of {record}"
        at = one.get("coordinates") if isinstance(one, dict) else None
        values = numbers(at.get(side) for side in _SIDES) if isinstance(at, dict) else None
        if values is None:
            image.note("ANN-E03", "coordinates must hold the numbers x, y, width, height", BOXES, place, str(at))
            continue
        x, y, w, h = values
        image.add((x - w / 2, y - h / 2, x + w / 2, y + h / 2), one.get("label"), place)
    return image


def _either(entry: Any, *keys: str) -> Any:
    return next((entry[key] for key in keys if key in entry), None) if isinstance(entry, dict) else None
