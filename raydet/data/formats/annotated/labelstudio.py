"""Label Studio's JSON and JSON-MIN exports: one file, a list of tasks, regions in percent of the image.

Format: labelstud.io/guide/export. Given up: brushes, key points, choices, predictions; of several annotations of one
task the first is taken, and a task that nobody annotated is left out.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from raydet.data.formats.annotated.json_file import parse_json
from raydet.data.formats.annotated.records import (
    BOXES,
    IMAGES,
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
from raydet.data.images.decode import EXTENSIONS

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


@reader
def read_labelstudio(file: str, data: bytes) -> Iterator[AnnotatedImage]:
    """Yield every annotated image of a JSON file."""
    held = parse_json(data)
    if not isinstance(held, list):
        yield foreign(file, "ANN-E03", "expected a list of tasks")
        return
    seen: dict[str, AnnotatedImage] = {}
    for i, task in enumerate(held):
        image = _task(file, f"task {i} of {file}", task)
        first = seen.setdefault(image.name, image) if not image.broken else image
        if first is image:
            yield image
        else:  # JSON-MIN has an entry for each annotation
            first.note("ANN-W13", "an image is annotated several times: the first is taken", IMAGES)


def _task(file: str, record: str, task: Any) -> AnnotatedImage:
    whole = isinstance(task, dict) and isinstance(task.get("data"), dict)
    name = _image_name(task["data"] if whole else task)
    if name is None:
        return broken(file, "ANN-E03", "the task names no image file", record=record)
    image = AnnotatedImage(file, f"{record}, {name}", name)
    image.also = posixpath.join(posixpath.dirname(name), _UPLOAD.sub("", posixpath.basename(name)))
    regions = _annotation(image, task) if whole else _short_regions(task)
    for k, (value, labels) in enumerate(_grouped(regions), 1):
        place = f"region {k} of {record}"
        if value.get("image_rotation") not in (None, 0):
            image.broken = True
            hint = "Rotate the image file itself, and annotate it as it then is."
            what = "the image was rotated in Label Studio, so its boxes are for another image"
            image.note("ANN-E03", what, IMAGES, place, hint=hint)
            break
        _add_region(image, value, labels, place)
    return image


def _image_name(values: Any) -> str | None:
    """The name of the file that a task's data are about."""
    texts = {k: v for k, v in values.items() if isinstance(v, str)} if isinstance(values, dict) else {}
    for key in sorted(texts, key=lambda key: key != "image"):
        url = urlsplit(texts[key]) if len(texts[key]) < 4096 else None
        local = parse_qs(url.query).get("d") if url is not None else None
        name = local[0] if local else texts[key].partition("?")[0]
        if name.lower().endswith(EXTENSIONS) or (key == "image" and not name.startswith("data:") and name):
            return name
    return None


def _annotation(image: AnnotatedImage, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of the first annotation that was not cancelled."""
    listed = task.get("annotations", task.get("completions"))
    held = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    kept = [one for one in held if not one.get("was_cancelled") and isinstance(one.get("result"), list)]
    if not kept:
        image.broken = True
        image.note("ANN-W14", "a task without an annotation: the image is left out", IMAGES)
        return []
    if len(kept) > 1:
        image.note("ANN-W13", "an image is annotated several times: the first is taken", IMAGES)
    found = []
    for one in kept[0]["result"]:
        if isinstance(one, dict) and isinstance(one.get("value"), dict):
            found.append({**one, **one["value"]})
    return found


def _short_regions(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of an entry of JSON-MIN, whatever the labels' control is called."""
    lists = [value for value in entry.values() if isinstance(value, list)]
    return [one for values in lists for one in values if isinstance(one, dict)]


def _grouped(regions: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Each region that has a shape, with its labels, which may stand in another entry of the same id."""
    groups: dict[object, list[dict[str, Any]]] = {}
    for i, region in enumerate(regions):
        name = region.get("id")
        groups.setdefault(name if isinstance(name, str) else i, []).append(region)
    for group in groups.values():
        shaped = [one for one in group if "x" in one or "points" in one or "rle" in one]
        if shaped:
            labels = [v for one in group for k, v in one.items() if k.endswith("labels") and isinstance(v, list)]
            yield shaped[0], list(dict.fromkeys(str(label) for held in labels for label in held))


def _add_region(image: AnnotatedImage, region: dict[str, Any], labels: list[str], place: str) -> None:
    kind = str(region.get("type") or next((k for k in region if k.endswith("labels")), "region")).removesuffix("labels")
    if "rle" in region or ("width" in region and "height" not in region):
        image.skip_shape(kind, place)
        return
    hw = size(region.get("original_height"), region.get("original_width"))
    box = None if hw is None else _box(image, region, hw, kind, place)
    if hw is None or box is None:
        what = "a region lacks original_width, original_height or numbers of its shape"
        image.note("ANN-E03", what, BOXES, place, str(region)[:200])
        return
    image.hw = hw
    for label in labels or [""]:
        image.add(box, label, place)


def _box(image: AnnotatedImage, region: dict[str, Any], hw: tuple[int, int], kind: str, place: str) -> Box | None:
    """The region's box in pixels."""
    sy, sx = hw[0] / 100, hw[1] / 100
    degrees = number(region.get("rotation", 0))
    if degrees is None:
        return None
    if "points" in region:
        outline = points(region["points"])
        image.bound_shape(kind, place)
        return None if outline is None else bounds([(x * sx, y * sy) for x, y in outline])
    if "radiusX" in region:
        round_ = numbers(region.get(key) for key in ("x", "y", "radiusX", "radiusY"))
        image.bound_shape(kind, place)
        return (
            None if round_ is None else ellipse(round_[0] * sx, round_[1] * sy, round_[2] * sx, round_[3] * sy, degrees)
        )
    sides = numbers(region.get(key) for key in ("x", "y", "width", "height"))
    if sides is None:
        return None
    x, y, w, h = sides[0] * sx, sides[1] * sy, sides[2] * sx, sides[3] * sy
    if degrees % 360 == 0:
        return x, y, x + w, y + h
    image.turn_box(place, degrees)
    return turned((x, y, x + w, y + h), degrees, about=(x, y))
