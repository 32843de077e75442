"""CVAT for images 1.1: one XML file for many images, with boxes, polygons and other shapes.

Format: docs.cvat.ai, "CVAT for image". Given up: attributes, skeletons, masks; CVAT for video (tracks over frames that
have no names) is refused with the remedy.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from raydet.data.formats.annotated.records import (
    BOXES,
    AnnotatedImage,
    Box,
    bounds,
    broken,
    ellipse,
    foreign,
    number,
    numbers,
    points,
    reader,
    size,
    turned,
)
from raydet.data.formats.annotated.xml_stream import stream_xml
from raydet.data.formats.split_names import split_of

_BOX = ("xtl", "ytl", "xbr", "ybr")
_ELLIPSE = ("cx", "cy", "rx", "ry")
_NO_SHAPE = ("tag", "attribute")


@reader
def read_cvat(file: str, path: Path) -> Iterator[AnnotatedImage]:
    """Yield every image of an XML file."""
    elements = stream_xml(path, ("image", "track"))
    root = next(elements).tag
    if root != "annotations":
        hint = "Set data.format=voc." if root == "annotation" else None
        yield foreign(file, "ANN-E03", f"the root is <{root[:40]}>, not <annotations>", hint)
        return
    for element in elements:
        if element.tag == "track":
            hint = "Export it as CVAT for images 1.1, with the images."
            yield broken(file, "CVAT-E01", "holds tracks: it is CVAT for video, whose frames have no names", hint)
            return
        yield _image(file, element)


def _image(file: str, element: Element) -> AnnotatedImage:
    name, given = element.get("name", ""), element.get
    image = AnnotatedImage(file, f"image {name}", name)
    image.hw = size(given("height"), given("width"))
    image.split = split_of(given("subset", ""))
    for i, shape in enumerate(element, 1):
        place = f"shape {i} of {name} in {file}"
        if shape.tag in _NO_SHAPE:
            continue
        if shape.tag not in ("box", "polygon", "ellipse"):
            image.skip_shape(shape.tag, place)
            continue
        box = _box(image, shape, place)
        if box is None:
            what = f"a {shape.tag} lacks coordinates that are numbers"
            image.note("ANN-E03", what, BOXES, place, str(dict(shape.attrib)))
        else:
            image.add(box, shape.get("label"), place)
    return image


def _box(image: AnnotatedImage, shape: Element, place: str) -> Box | None:
    if shape.tag == "polygon":
        outline = points([pair.split(",") for pair in shape.get("points", "").split(";")])
        image.bound_shape("polygon", place)
        return None if outline is None else bounds(outline)
    values = numbers(shape.get(name) for name in (_BOX if shape.tag == "box" else _ELLIPSE))
    degrees = number(shape.get("rotation", "0"))
    if values is None or degrees is None or not math.isfinite(degrees):
        return None
    if shape.tag == "ellipse":
        image.bound_shape("ellipse", place)
        return ellipse(values[0], values[1], values[2], values[3], degrees)
    box = (values[0], values[1], values[2], values[3])
    if degrees % 360 == 0:
        return box
    image.turn_box(place, degrees)
    return turned(box, degrees)
