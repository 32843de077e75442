"""Boxes in CSV files: keras-retinanet's (no header), Open Images' (shares of the image), and others with a header.

Formats: github.com/fizyr/keras-retinanet; storage.googleapis.com/openimages; Roboflow's "Tensorflow Object Detection".
"""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from raydet.data.formats.annotated.records import BOXES, AnnotatedImage, broken, foreign, number, numbers, size

_COLUMNS = {
    "image": ("filename", "imageid", "image", "imagename", "imagepath", "path", "file", "filepath"),
    "class": ("class", "labelname", "label", "classname", "category", "name"),
    "x1": ("xmin", "x1", "left"),
    "y1": ("ymin", "y1", "top"),
    "x2": ("xmax", "x2", "right"),
    "y2": ("ymax", "y2", "bottom"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "group": ("isgroupof",),
}
"""What is wanted -> what columns that hold it are called, in small letters without separators."""
_NEEDED = ("image", "class", "x1", "y1", "x2", "y2")
_CORNERS = ("x1", "y1", "x2", "y2")
FORM = "path, x1, y1, x2, y2, class without a header, or a header such as filename, class, xmin, ymin, xmax, ymax"


def columns_of(first: Sequence[str]) -> dict[str, int] | None:
    """Return where each meaning stands, by the first row of a CSV file; None if it is no table of boxes."""
    plain = ["".join(c for c in cell.lower() if c.isalnum()) for cell in first]
    found = {
        meaning: plain.index(name)
        for meaning, names in _COLUMNS.items()
        for name in [next((name for name in names if name in plain), None)]
        if name is not None
    }
    if all(meaning in found for meaning in _NEEDED):
        return found
    boxed = len(first) == 6 and first[0].strip() and (_blank(first[1:5]) or numbers(first[1:5]) is not None)
    return {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5} if boxed else None


def read_csv(
    file: str, data: bytes, class_of: Mapping[str, str], classes: Collection[str] = ()
) -> Iterator[AnnotatedImage]:
    """Yield every image of a CSV file.

    Args:
        class_of: what labels stand for, where a file of descriptions says so.
        classes: all that there are, where a file of classes says so.
    """
    try:
        rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        yield from _images(file, rows, class_of, classes)
    except UnicodeDecodeError as error:
        yield broken(file, "ANN-E02", f"is not UTF-8 text at byte {error.start}")
    except csv.Error as error:
        yield broken(file, "ANN-E02", f"is not CSV: {error}")


def _images(
    file: str, rows: Iterable[list[str]], class_of: Mapping[str, str], classes: Collection[str]
) -> list[AnnotatedImage]:
    """Every image of a table, in the order of their first rows."""
    lines: Iterator[tuple[int, list[str]]]
    lines = ((number, row) for number, row in enumerate(rows, 1) if any(cell.strip() for cell in row))
    number_of_first, first = next(lines, (1, []))
    columns = columns_of(first)
    if columns is None:
        what = f"the first row is no table of boxes: {', '.join(first)[:100] or 'empty'}"
        hint = "Separate the columns by commas." if len(first) == 1 else f"Wanted: {FORM}."
        return [foreign(file, "CSV-E01", what, hint)]
    corners = [first[columns[corner]] for corner in _CORNERS]
    if _blank(corners) or numbers(corners) is not None:  # no header
        lines = chain([(number_of_first, first)], lines)
        shares = False
    else:
        shares = first[columns["image"]].strip().lower() == "imageid"
    images: dict[str, AnnotatedImage] = {}
    for line, row in lines:
        place = f"{file}:{line}"
        if max(columns.values()) >= len(row) or not row[columns["image"]].strip():
            one = broken(file, "CSV-E02", f"{len(row)} columns: {', '.join(row)[:100]}", record=place)
            images[f"\0{line}"] = one
            continue
        cells = {meaning: row[at].strip() for meaning, at in columns.items()}
        cells["class"] = class_of.get(cells["class"], cells["class"])
        image = images.get(cells["image"])
        if image is None:
            image = AnnotatedImage(file, f"image {cells['image']} in {file}", cells["image"], shares=shares)
            image.hw = size(cells.get("height"), cells.get("width"))
            images[cells["image"]] = image
        if classes and cells["class"] and cells["class"] not in classes:
            image.note("CSV-E04", "a class that the file of classes does not have", BOXES, place, cells["class"])
        else:
            _add_row(image, cells, place)
    return list(images.values())


def _add_row(image: AnnotatedImage, cells: dict[str, str], place: str) -> None:
    written = [cells[corner] for corner in _CORNERS]
    if _blank(written):
        if cells["class"]:
            image.note("ANN-E03", "a row has a class and no box", BOXES, place, cells["class"])
        return
    box = numbers(written)
    if box is None:
        image.note("ANN-E03", "a box is not four numbers", BOXES, place, ", ".join(written))
        return
    crowd = number(cells.get("group", "0")) == 1
    if crowd:
        image.note("CSV-W03", "a group (IsGroupOf): neither trained on nor scored", BOXES, place)
    image.add((box[0], box[1], box[2], box[3]), cells["class"], place, crowd)


def read_classes(data: bytes) -> tuple[list[str], dict[str, str]]:
    """Return the classes in order of their ids (name, id), and what labels stand for (label, description)."""
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if len(row) == 2]
    except (UnicodeDecodeError, csv.Error):
        return [], {}
    ids = {row[0].strip(): number(row[1]) for row in rows}
    if rows and all(value is not None for value in ids.values()):
        return sorted(ids, key=lambda name: ids[name] or 0.0), {}
    return [], {row[0].strip(): row[1].strip() for row in rows if row[0].strip().startswith("/")}


def _blank(cells: Sequence[str]) -> bool:
    return not any(cell.strip() for cell in cells)
