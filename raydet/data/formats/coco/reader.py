"""A COCO annotation file, read once into packed columns; all that is wrong with it is counted by rule and record.

The file is streamed (raydet.data.formats.coco.json_stream), so what is held is the columns and the names, not the text
and not the polygons. Faulty records are left out of the columns; whether they may be is the caller's to say
(`Faults.check`).
"""

import gc
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns, Ints, Texts, first_of
from raydet.data.formats.coco import boxes, images
from raydet.data.formats.coco.checks import Annotations, check_boxes, check_ids, check_spread, shared
from raydet.data.formats.coco.file_names import locate
from raydet.data.formats.coco.json_stream import parts
from raydet.data.formats.coco.json_table import NOTHING, SINGULAR, JsonTable, Log, similar
from raydet.data.storage.files import Files
from raydet.data.validation.faults import Faults
from raydet.exceptions import DataError

_OTHER_FORMATS = {
    "shapes": "This is LabelMe's format, one file per image; convert it to COCO.",
    "_via_img_metadata": "This is VIA's format; export it as COCO.",
    "regions": "This is VIA's format; export it as COCO.",
    "features": "This is GeoJSON; convert it to COCO.",
    "data": "This may be a results or Label Studio file; export it as COCO.",
}
_Pieces = dict[int, list[Any]]


def parse(path: Path, places: Sequence[Files], left_out: Container[str] = ()) -> tuple[Columns, bool, Faults]:
    """Return the columns of the sound records, whether they depend on the file alone, and all faults.

    They do not where an image's header was needed for its size. File names stay as they are written.

    Args:
        places: where the images may lie.
        left_out: names of files that are not opened: images of no size among them are left out.

    Raises:
        DataError: nothing can be read: no JSON, cut, no list of images.
    """
    with _no_collection(), np.errstate(over="ignore", invalid="ignore"):  # sums of boxes near the largest float
        return _parse(path, places, left_out)


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


def _parse(path: Path, places: Sequence[Files], left_out: Container[str]) -> tuple[Columns, bool, Faults]:
    faults = Faults()
    found, sizes, keys = _read(path, faults)
    images = _Images(path, found["images"], sizes["images"], faults)
    images.fill_sizes(places, left_out)
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *found["annotations"].get(2, [])]))
    categories = _Categories(path, found["categories"], sizes["categories"], used, faults)
    annotations = _annotations(path, found["annotations"], faults)
    columns = _grouped(annotations, images, categories)
    faults.looked_at(
        "annotations", sizes["annotations"], sizes["annotations"] - int((~annotations.log.bad).sum()), path
    )
    for kind in ("annotations", ""):
        faults.name_images(kind, images.named)
    packed_names = Texts.pack([name for name, bad in zip(images.names, images.log.bad, strict=True) if not bad])
    packed_classes = Texts.pack(
        [name for name, bad in zip(categories.names, categories.log.bad, strict=True) if not bad]
    )
    columns |= {
        "ids": images.ids[~images.log.bad],
        "sizes": images.sizes[~images.log.bad],
        "name_bytes": packed_names.bytes,
        "name_first": packed_names.first,
        "category_ids": categories.ids[~categories.log.bad],
        "class_bytes": packed_classes.bytes,
        "class_first": packed_classes.first,
        "has_annotations": np.array("annotations" in keys),
        "faults": faults.packed(),
    }
    return columns, images.alone, faults


def _read(path: Path, faults: Faults) -> tuple[dict[str, _Pieces], dict[str, int], list[str]]:
    """Columns of each list in pieces, how many records each list has, the top level's keys."""
    readers: dict[str, Callable[[JsonTable], tuple[Any, ...]]] = {
        "images": _read_images,
        "annotations": _read_annotations,
        "categories": _read_categories,
    }
    found: dict[str, _Pieces] = {kind: {} for kind in readers}
    sizes = dict.fromkeys(readers, 0)
    keys: list[str] = []
    repeated: list[str] = []
    for key, part in parts(path, repeated):
        if key not in keys:
            keys.append(key)
        if key not in readers:
            continue
        if not isinstance(part, list):
            what = f'"{key}" must be a list, got {type(part).__name__}'
            if key == "images":
                raise DataError(what, file=path, rule="COCO-E03")
            faults.add("COCO-E03", what, file=path)
            continue
        table = JsonTable(str(path), key, part, sizes[key], faults)
        sizes[key] += len(part)
        for i, column in enumerate((*readers[key](table), table.at, table.bad)):
            found[key].setdefault(i, []).append(column)
    _check_top(path, keys, sizes, faults)
    for key in sorted({k for k in repeated if k in readers}):
        faults.add("COCO-E40", f'"{key}" stands twice at the top level', file=path, hint="Join the two lists.")
    return found, sizes, keys


def _check_top(path: Path, keys: list[str], sizes: dict[str, int], faults: Faults) -> None:
    if "images" not in keys:
        near = similar("images", keys)
        hint = f'There is "{near}"; COCO calls it "images".' if near else None
        hint = hint or next((hint for key, hint in _OTHER_FORMATS.items() if key in keys), None)
        got = f"an object with {', '.join(keys[:8]) or 'no keys'}"
        what = f"expected an object with images, annotations and categories, got {got}"
        raise DataError(what, file=path, rule="COCO-E03", hint=hint)
    if not sizes["images"]:
        raise DataError('"images" is empty', file=path, rule="COCO-E03")
    if not sizes["categories"]:
        near = similar("categories", keys)
        what = f'"categories" is {"empty" if "categories" in keys else "missing"}'
        hint = f'There is "{near}"; COCO calls it "categories".' if near else 'Add [{"id": 1, "name": "..."}, ...].'
        faults.add("COCO-E05", what, file=path, hint=hint)
    near = similar("annotations", keys)
    if "annotations" not in keys and near:
        faults.add("COCO-E06", f'"annotations" is missing, but there is "{near}"', file=path)


def _read_images(table: JsonTable) -> tuple[Any, ...]:
    return table.whole("id"), images.file_names(table), images.image_sizes(table)


def _read_categories(table: JsonTable) -> tuple[Any, ...]:
    return table.whole("id"), images.class_names(table), table.values("supercategory")


def _read_annotations(table: JsonTable) -> tuple[Any, ...]:
    ids, images, categories = (table.whole(key) for key in ("id", "image_id", "category_id"))
    xywh = boxes.boxes(table)
    area, crowd = boxes.areas(table, xywh), boxes.crowds(table)
    return ids, images, categories, xywh, area, crowd, boxes.outline_sizes(table)


def _joined(pieces: _Pieces, column: int, kind: Any = np.int64, width: int | None = None) -> npt.NDArray[Any]:
    """A whole column; its pieces are let go."""
    empty = np.zeros((0, width) if width else 0, kind)
    return np.concatenate([empty, *pieces.pop(column, [])])


class _Images:
    """All images of a file by column, faulty ones too (`log.bad`)."""

    def __init__(self, path: Path, pieces: _Pieces, size: int, faults: Faults) -> None:
        self.ids: Ints = _joined(pieces, 0)
        self.names: list[str] = [name for piece in pieces.pop(1, []) for name in piece]
        self.sizes: npt.NDArray[np.int32] = _joined(pieces, 2, np.int32, 2)
        names, name = self.names, _name("images", self.ids, _joined(pieces, 3))
        self.log = Log(str(path), "images", faults, _joined(pieces, 4, bool), name, lambda i: names[i] or None)
        rows, _ = shared(self.ids)
        self.log.refuse("COCO-E07", "id is used twice", rows, self._both, "Give each record an id of its own.")
        images.check_same_names(self.log, self.names)
        self.alone = not ((self.sizes == 0).any(axis=1) & ~self.log.bad).any()
        """Whether all that is known of them stands in the file."""
        self._size = size

    def fill_sizes(self, places: Sequence[Files], left_out: Container[str]) -> None:
        """Read the sizes that are missing from the images, and count the faulty records."""
        if not self.alone:
            located = locate(Texts.pack(self.names), places)
            names = [located.reading(name) for name in self.names]
            self._size -= images.fill_sizes(self.log, names, self.sizes, located.files, left_out)
        _count(self.log, self._size)

    def _both(self, i: int) -> str:
        return f"{self.ids[i]} ({', '.join(self.names[j] for j in np.flatnonzero(self.ids == self.ids[i])[:2])})"

    def named(self, image_id: str) -> str | None:
        """The file name of the image with that id, as text."""
        try:
            rows = np.flatnonzero(self.ids == int(image_id))
        except (ValueError, OverflowError):
            return None
        return self.names[int(rows[0])] or None if rows.size else None


class _Categories:
    """All categories of a file by column, faulty ones too (`log.bad`)."""

    def __init__(self, path: Path, pieces: _Pieces, size: int, used: Ints, faults: Faults) -> None:
        """Take the columns, and the categories that annotations are of."""
        self.ids: Ints = _joined(pieces, 0)
        given = [name for piece in pieces.pop(1, []) for name in piece]
        self.names = [name or str(number) for name, number in zip(given, self.ids.tolist(), strict=True)]
        parents = [name for piece in pieces.pop(2, []) for name in piece]
        name = _name("categories", self.ids, _joined(pieces, 3))
        self.log = Log(str(path), "categories", faults, _joined(pieces, 4, bool), name)
        rows, _ = shared(self.ids)
        self.log.refuse("COCO-E31", "id is used twice", rows, self._both, "Give each record an id of its own.")
        _count(self.log, size)
        images.leave_out_root(self.log, self.ids, given, parents, used)
        good = np.flatnonzero(~self.log.bad)
        images.check_classes(self.log, self.ids[good], given)

    def _both(self, i: int) -> str:
        return f"{self.ids[i]} ({', '.join(self.names[j] for j in np.flatnonzero(self.ids == self.ids[i])[:2])})"


def _name(kind: str, ids: Ints, at: Ints) -> Callable[[int], str]:
    return lambda i: f"{kind}[{at[i]}]" if ids[i] == NOTHING else f"{SINGULAR[kind]} {ids[i]}"


def _count(log: Log, size: int) -> None:
    """Note how many of `size` records, those that are no objects included, are faulty."""
    log.faults.looked_at(log.kind, size, size - int((~log.bad).sum()), log.file)


def _annotations(path: Path, pieces: _Pieces, faults: Faults) -> Annotations:
    ids, images = _joined(pieces, 0), _joined(pieces, 1)
    name = _name("annotations", ids, _joined(pieces, 7))
    bad = _joined(pieces, 8, bool)
    log = Log(str(path), "annotations", faults, bad, name, lambda i: None if images[i] == NOTHING else str(images[i]))
    return Annotations(
        log=log,
        ids=ids,
        images=images,
        categories=_joined(pieces, 2),
        boxes=_joined(pieces, 3, np.float64, 4),
        areas=_joined(pieces, 4, np.float64),
        crowd=_joined(pieces, 5, bool),
        outlines=_joined(pieces, 6, np.int32, 2),
    )


def _grouped(table: Annotations, images: _Images, categories: _Categories) -> Columns:
    """The sound boxes' columns, grouped by image in the file's order."""
    rows, classes, found = check_ids(table, images.ids, categories.ids)
    log = table.log
    sound = found & ~log.bad & ~images.log.bad[rows] if len(images.ids) else found
    without = sound & categories.log.bad[classes] if len(categories.ids) else sound
    log.refuse(
        "COCO-E49", "the category is faulty, so its box is left out", without, lambda i: str(table.categories[i])
    )
    keep = sound & ~without
    if len(table.ids) and len(images.ids):
        keep = check_boxes(table, keep, images.sizes[rows])
        per_image = np.where(images.log.bad, -1, np.bincount(rows[sound], minlength=len(images.ids)))
        per_class = np.where(categories.log.bad, -1, np.bincount(classes[keep], minlength=len(categories.ids)))
        check_spread(table, images.log, categories.log, per_image, per_class)
    order = np.flatnonzero(keep)[np.argsort(rows[keep], kind="stable")]
    first = first_of(np.bincount(rows[keep], minlength=len(images.ids))[~images.log.bad])
    columns = {
        "boxes": table.boxes,
        "areas": table.areas,
        "categories": table.categories,
        "crowd": table.crowd,
        "ann_ids": table.ids,
    }
    return {name: column[order] for name, column in columns.items()} | {"first": first}
