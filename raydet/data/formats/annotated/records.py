"""What the readers of VOC, LabelMe, CVAT, Label Studio, CreateML and CSV give: an image with its boxes, as written."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from raydet.data.formats.split_names import Split
from raydet.exceptions import DataError

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
BOXES, IMAGES = "boxes", "images"
"""What faults are counted in."""


@dataclass(frozen=True, slots=True)
class Note:
    """A fault that a reader met in one image's annotations."""

    rule: str
    what: str
    kind: str
    record: str
    value: str | None
    hint: str | None


@dataclass(slots=True)
class AnnotatedImage:
    """The annotations of one image, before anything about them is checked."""

    file: str
    """The annotation file, in the data set's tree."""
    record: str
    """What to call the image's annotations in messages."""
    name: str = ""
    """The image's name as written."""
    also: str = ""
    """Another name for it, tried where the first finds no image."""
    hw: tuple[int, int] | None = None
    """Height and width as written."""
    split: Split | None = None
    """The split that the annotations name; None: the folders may."""
    shares: bool = False
    """Whether boxes are shares of width and height instead of pixels."""
    broken: bool = False
    """Whether the annotations cannot be used; notes say why."""
    foreign: bool = False
    """Whether the file is of another kind altogether; beside files of the right kind it is left out."""
    boxes: list[Box] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """What to call each box in messages."""
    notes: list[Note] = field(default_factory=list)

    def add(self, box: Box, name: object, place: str, crowd: bool = False) -> None:
        """Take a box; one whose class has no name is noted instead."""
        if not isinstance(name, str) or not name.strip():
            self.note("ANN-E03", "a box has no class", BOXES, place, None if name is None else str(name))
            return
        self.boxes.append(box)
        self.classes.append(name.strip())
        self.crowd.append(crowd)
        self.places.append(place)

    def note(
        self, rule: str, what: str, kind: str, place: str = "", value: str | None = None, hint: str | None = None
    ) -> None:
        """Note a fault of the image, or of a box of it."""
        self.notes.append(Note(rule, what, kind, place or self.record, value, hint))

    def skip_shape(self, shape: str, place: str) -> None:
        """Note a shape that stands for no box."""
        self.note("ANN-W10", f"a {shape} has no box: left out", BOXES, place)

    def bound_shape(self, shape: str, place: str) -> None:
        """Note a shape of which the box around it is taken."""
        self.note("ANN-W11", f"a {shape}: the box around it is taken", BOXES, place)

    def turn_box(self, place: str, degrees: float) -> None:
        """Note a rotated box of which the upright one around it is taken."""
        what = "a rotated box: the upright box around it is taken"
        self.note("ANN-W12", what, BOXES, place, f"{degrees:g} degrees")


def broken(file: str, rule: str, what: str, hint: str | None = None, record: str = "") -> AnnotatedImage:
    """Return what stands for annotations that cannot be read."""
    image = AnnotatedImage(file, record or f"file {file}", broken=True)
    image.note(rule, "annotations cannot be read", IMAGES, value=what, hint=hint)
    return image


def foreign(file: str, rule: str, what: str, hint: str | None = None) -> AnnotatedImage:
    """Return what stands for a file that is no annotation file of the format."""
    image = broken(file, rule, what, hint)
    image.foreign = True
    return image


_Rest = ParamSpec("_Rest")
_Read = Callable[Concatenate[str, _Rest], Iterator[AnnotatedImage]]


def reader(read: _Read[_Rest]) -> _Read[_Rest]:
    """Return a reader of a file that yields what stands for it, where `read` raises DataError."""

    @wraps(read)
    def whole(file: str, /, *rest: _Rest.args, **more: _Rest.kwargs) -> Iterator[AnnotatedImage]:
        try:
            yield from read(file, *rest, **more)
        except DataError as error:
            yield broken(file, error.rule, error.what, error.hint)

    return whole


def number(value: object) -> float | None:
    """Return a number, or a text that is one, as a float; None for anything else. NaN and infinities are numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return None if type(value) is str and "_" in value else float(value)  # Python reads 1_0 as 10
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def numbers(values: Iterable[object]) -> list[float] | None:
    """Return all values as numbers; None if one is none."""
    found = []
    for value in values:
        one = number(value)
        if one is None:
            return None
        found.append(one)
    return found


def size(height: object, width: object) -> tuple[int, int] | None:
    """Return a written size; None for one that is missing, or 0 as some tools write where they do not know it."""
    h, w = number(height), number(width)
    if h is None or w is None or not (0 < h < 2**31 and 0 < w < 2**31):
        return None
    return int(h), int(w)


def points(value: Any) -> list[tuple[float, float]] | None:
    """Return a list of pairs of numbers as points; None for anything else, or for none."""
    if not isinstance(value, list) or not value:
        return None
    found = [numbers(point) for point in value if isinstance(point, (list, tuple)) and len(point) == 2]
    pairs = [(pair[0], pair[1]) for pair in found if pair is not None]
    return pairs if len(pairs) == len(value) else None


def bounds(outline: Sequence[tuple[float, float]]) -> Box:
    """Return the box around points; NaN where a point is not finite, for min and max pass over some NaN."""
    if not all(math.isfinite(value) for point in outline for value in point):
        return (math.nan,) * 4
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    return min(xs), min(ys), max(xs), max(ys)


def turned(box: Box, degrees: float, about: tuple[float, float] | None = None) -> Box:
    """Return the upright box around one that is rotated clockwise, as seen, about a point (None: its centre)."""
    x1, y1, x2, y2 = box
    cx, cy = about or ((x1 + x2) / 2, (y1 + y2) / 2)
    if not math.isfinite(degrees):
        return (math.nan,) * 4
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - cx, y - cy) for x in (x1, x2) for y in (y1, y2)]
    return bounds([(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners])


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Box:
    """Return the box around an ellipse with radii rx and ry, rotated about its centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    w, h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - w, cy - h, cx + w, cy + h
