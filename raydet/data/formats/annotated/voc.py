"""Pascal VOC: one XML file an image, as LabelImg, CVAT and Roboflow write it. Coordinates are taken as written.

Format: VOCdevkit's documentation. Given up: parts of objects, segmentation masks, poses. `difficult` objects are what
VOC's evaluation does not score: they become crowds, which are neither trained on nor scored.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from raydet.data.formats.annotated.records import (
    BOXES,
    AnnotatedImage,
    bounds,
    foreign,
    number,
    numbers,
    points,
    reader,
    size,
    turned,
)
from raydet.data.formats.annotated.xml_stream import parse_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@reader
def read_voc(file: str, data: bytes) -> Iterator[AnnotatedImage]:
    """Yield the image that an XML file is about."""
    root = parse_xml(data)
    if root.tag != "annotation":
        hint = "Set data.format=cvat." if root.tag == "annotations" else None
        yield foreign(file, "ANN-E03", f"the root is <{root.tag[:40]}>, not <annotation>", hint)
        return
    stem = file.rpartition("/")[2].rpartition(".")[0]
    image = AnnotatedImage(file, f"file {file}", name=_text(root, "filename") or stem)
    image.hw = size(_text(root, "size/height"), _text(root, "size/width"))
    for i, element in enumerate(root.iterfind("object"), 1):
        _add_object(image, element, f"object {i} of {file}")
    yield image


def _add_object(image: AnnotatedImage, element: Element, place: str) -> None:
    difficult = number(_text(element, "difficult")) == 1
    box = _box(image, element, place)
    if box is None:
        what = "an object has no bndbox of four numbers (xmin, ymin, xmax, ymax)"
        image.note("ANN-E03", what, BOXES, place, _written(element.find("bndbox")))
        return
    if difficult:
        what = "a difficult object: neither trained on nor scored, as in VOC's evaluation"
        image.note("VOC-W01", what, BOXES, place)
    image.add(box, _text(element, "name"), place, crowd=difficult)


def _box(image: AnnotatedImage, element: Element, place: str) -> tuple[float, float, float, float] | None:
    corners = element.find("bndbox")
    if corners is not None:
        values = numbers([corners.findtext(name) for name in _CORNERS])
        return None if values is None else (values[0], values[1], values[2], values[3])
    rotated = element.find("robndbox")  # of roLabelImg: the angle is in radians
    if rotated is not None:
        values = numbers(_text(rotated, name) for name in ("cx", "cy", "w", "h", "angle"))
        if values is None:
            return None
        cx, cy, w, h, angle = values
        degrees = angle * 180 / 3.141592653589793
        image.turn_box(place, degrees)
        return turned((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), degrees)
    polygon = element.find("polygon")  # of Roboflow: x1, y1, x2, y2, ...; of LabelMe's old tool: pt/x, pt/y
    if polygon is None:
        return None
    image.bound_shape("polygon", place)
    pairs = [[_text(pt, "x"), _text(pt, "y")] for pt in polygon.iterfind("pt")]
    if not pairs:
        count = sum(child.tag.startswith("x") for child in polygon)
        pairs = [[_text(polygon, f"x{i}"), _text(polygon, f"y{i}")] for i in range(1, count + 1)]
    outline = points(pairs)
    return None if outline is None else bounds(outline)


def _text(element: Element, path: str) -> str | None:
    found = element.findtext(path)
    return None if found is None else found.strip()


def _written(element: Element | None) -> str | None:
    return None if element is None else " ".join(f"{child.tag}={(child.text or '').strip()}" for child in element)
