"""A COCO annotation file, read once into packed columns; what is wrong with it is named by record and rule.

Peak memory stays near the size of boxes and names: polygons, most of a COCO file, are thrown away while parsing.
"""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.coco_boxes import areas, boxes, crowds, without_extent
from raydet.data.columns import Columns, Floats, Ints, Texts
from raydet.data.decode import read_size
from raydet.data.errors import DataError
from raydet.data.files import Files
from raydet.data.records import Table

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
"""File names, nearly all there are, that need no closer look."""
_MAX_LEAVING = 0.2
"""Share of boxes that may leave their image before the file is taken for xyxy (COCO itself: under 0.001)."""


def parse(path: Path, files: Files) -> tuple[Columns, bool]:
    """Return the file's columns, and whether they depend on the file alone (no picture's header was needed).

    Raises:
        DataError: the file is malformed; names the record and the rule.
    """
    with _no_collection():
        return _parse(path, files)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the collector, which walks all new records again and again (118k images: 11.5 s, not 17.3)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse(path: Path, files: Files) -> tuple[Columns, bool]:
    top = _top_level(path)
    warnings: list[str] = []
    images, categories = Table(path, "images", top["images"]), Table(path, "categories", top["categories"])
    ids = images.unique("id", "COCO-E07", "file_name")
    names = images.values("file_name")
    for i, name in enumerate(names):
        check_name(name, images, i)
    sizes, alone = _sizes(images, names, files, warnings)
    category_ids = categories.unique("id", "COCO-E31", "name")
    class_names = _class_names(categories, category_ids, warnings)
    annotations = Table(path, "annotations", top.get("annotations", []))
    packed_names, packed_classes = Texts.pack(names), Texts.pack(class_names)
    columns: Columns = {
        "ids": ids,
        "name_bytes": packed_names.bytes,
        "name_first": packed_names.first,
        "sizes": sizes,
        "category_ids": category_ids,
        "class_bytes": packed_classes.bytes,
        "class_first": packed_classes.first,
        "has_annotations": np.array("annotations" in top),
        **_annotation_columns(annotations, ids, sizes, category_ids, warnings),
    }
    packed_warnings = Texts.pack(warnings)
    return columns | {"warning_bytes": packed_warnings.bytes, "warning_first": packed_warnings.first}, alone


def _top_level(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        top = json.loads(text, object_hook=_without_polygons)
    except json.JSONDecodeError as error:
        byte, total = len(text[: error.pos].encode("utf-8", "surrogatepass")), path.stat().st_size
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        what = f"is not JSON at byte {byte} of {total}: " + ("the file is cut" if cut else error.msg)
        hint = "Copy or download it again." if cut else None
        raise DataError(what, file=path, rule="COCO-E01", hint=hint) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise DataError(f"is not usable JSON: {error}", file=path, rule="COCO-E01") from None
    if not isinstance(top, dict) or "images" not in top:
        got = f"an object with {', '.join(map(str, list(top)[:8])) or 'no keys'}" if isinstance(top, dict) else "a list"
        what = f"expected an object with images, annotations and categories, got {got}"
        raise DataError(what, file=path, rule="COCO-E03")
    if not top.get("categories"):
        what = f'"categories" is {"empty" if "categories" in top else "missing"}'
        raise DataError(what, file=path, rule="COCO-E05", hint='Add [{"id": 1, "name": "..."}, ...].')
    if not top["images"]:
        raise DataError('"images" is empty', file=path, rule="COCO-E03")
    return top


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # a byte order mark, as Windows editors write it, is no fault
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text at byte {error.start}", file=path, rule="COCO-E01") from None
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, rule="DIR-E01") from None


def _without_polygons(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record


def check_name(name: object, images: Table, i: int) -> None:
    """Refuse a file name that is no plain path below the image folder, before anything is opened by it."""
    if type(name) is str and _PLAIN.fullmatch(name) and ".." not in name:
        return
    if not isinstance(name, str) or not name or "\0" in name or not _encodable(name):
        raise images.fault(i, f"file_name must be a file's name, got {name!r}", "COCO-E29")
    if "://" in name or name.lower().startswith(("http:", "https:", "file:", "data:")):
        raise images.fault(i, f"file_name is a URL: {name}", "COCO-E28", "Download the pictures; raydet fetches none.")
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root:
        hint = "Write the names relative to the image folder, and set data.train_images / val_images to it."
        raise images.fault(i, f"file_name is absolute: {name}", "COCO-E25", hint)
    if ".." in windows.parts or ".." in PurePosixPath(name).parts:  # the Windows reading splits at both separators
        hint = "Set data.train_images / val_images to a folder that holds all the pictures."
        raise images.fault(i, f"file_name leaves the image folder: {name}", "COCO-E24", hint)


def _encodable(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _sizes(images: Table, names: list[str], files: Files, warnings: list[str]) -> tuple[npt.NDArray[np.int32], bool]:
    heights, widths = images.values("height"), images.values("width")
    sizes = np.zeros((len(names), 2), np.int32)
    missing = [i for i, pair in enumerate(zip(heights, widths, strict=True)) if None in pair]
    for column, (key, values) in enumerate((("height", heights), ("width", widths))):
        for i, value in enumerate(values):
            if value is None:
                continue
            if type(value) not in (int, float) or value != value or value % 1 or not 0 < value < 2**31:
                raise images.fault(i, f"{key} must be a whole number > 0, got {value!r}", "COCO-E29")
            sizes[i, column] = value
    if missing:
        for i in missing:
            sizes[i] = read_size(files.picture(names[i]))
        warnings.append(f"{len(missing)} images without width or height: read from the pictures (COCO-W23)")
    return sizes, not missing


def _class_names(categories: Table, ids: Ints, warnings: list[str]) -> list[str]:
    names = categories.values("name")
    nameless = [i for i, name in enumerate(names) if name is None]
    for i in Table.other_than({str, type(None)}, names):
        raise categories.fault(i, f"name must be text, got {names[i]!r}", "COCO-E29")
    if nameless:
        warnings.append(f"{len(nameless)} categories without a name: their ids are taken (COCO-W32)")
    names = [str(ids[i]) if name is None else name for i, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        warnings.append(f"categories with the same name stay apart: {', '.join(map(repr, twice[:5]))} (COCO-W10)")
    if sorted(ids.tolist()) != list(range(1, len(ids) + 1)):
        warnings.append(f"{len(ids)} category ids from {ids.min()} to {ids.max()}: mapped to classes (COCO-W27)")
    return names


def _annotation_columns(
    table: Table, image_ids: Ints, sizes: npt.NDArray[np.int32], category_ids: Ints, warnings: list[str]
) -> Columns:
    """The boxes' columns, grouped by image in the file's order; boxes without extent are left out and counted."""
    ann_ids, categories = table.unique("id", "COCO-E08"), table.whole("category_id")
    rows = _positions(table, table.whole("image_id"), image_ids, "image", "COCO-E11")
    _positions(table, categories, category_ids, "category", "COCO-E12")
    xywh = boxes(table)
    area, crowd = areas(table, xywh, warnings), crowds(table, warnings)
    keep = ~without_extent(table, xywh, warnings)
    _check_leaving(table, xywh[keep], sizes[rows[keep]], warnings)
    order = np.flatnonzero(keep)[np.argsort(rows[keep], kind="stable")]
    first = np.zeros(len(image_ids) + 1, np.int64)
    np.cumsum(np.bincount(rows[keep], minlength=len(image_ids)), out=first[1:])
    columns = {"boxes": xywh, "areas": area, "categories": categories, "crowd": crowd, "ann_ids": ann_ids}
    return {name: column[order] for name, column in columns.items()} | {"first": first}


def _positions(table: Table, wanted: Ints, known: Ints, what: str, rule: str) -> Ints:
    order = np.argsort(known)
    at = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    strange = np.flatnonzero(known[order][at] != wanted)
    if strange.size:
        shown = ", ".join(f"{table.records[i]['id']} ({what}_id {wanted[i]})" for i in strange[:5])
        message = f'{strange.size} of {len(wanted)} annotations name a {what} that is not in "{_plural(what)}": {shown}'
        hint = f"Remove them, or add the {_plural(what)}."
        raise table.fault(int(strange[0]), message, rule, hint)
    rows: Ints = order[at]
    return rows


def _plural(what: str) -> str:
    return {"image": "images", "category": "categories"}[what]


def _check_leaving(table: Table, xywh: Floats, hw: npt.NDArray[np.int32], warnings: list[str]) -> None:
    limit = hw[:, ::-1].astype(np.float64)
    slack = 1 + 0.01 * limit  # COCO's own boxes leave by fractions of a pixel
    leaving = ((xywh[:, :2] < -slack) | (xywh[:, :2] + xywh[:, 2:] > limit + slack)).any(axis=1)
    count = int(leaving.sum())
    if count > _MAX_LEAVING * len(xywh):
        what = f"{count} of {len(xywh)} boxes leave their image, the first {xywh[leaving][0].tolist()}"
        hint = "bbox is [x, y, width, height]; these look like [x1, y1, x2, y2], or the sizes are wrong."
        raise DataError(what, file=table.path, rule="COCO-E17", hint=hint)
    if count:
        warnings.append(f"{count} of {len(xywh)} boxes leave their image: clipped (COCO-W17)")
