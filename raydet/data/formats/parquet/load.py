"""Parquet data sets as an index: rows with an image's bytes and its boxes, or its label. Read only, through pyarrow.

Spellings known are those of Hugging Face's datasets and of COCO. Given up: images in other files, masks, key points.
"""

import posixpath
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns, Texts, box_columns
from raydet.data.formats.box_rules import MAX_LEAVING, beyond
from raydet.data.formats.index import ClassificationIndex, DetectionIndex
from raydet.data.formats.parquet.images import SMALL, ParquetImages, bytes_of, flat, group_bytes, open_parquet
from raydet.data.formats.parquet.rows import Meaning, boxes_of_row, cell, classes_of, find_columns
from raydet.data.formats.split_names import Split
from raydet.data.images.decode import Exif, read_size
from raydet.data.storage.cache import content_key, load_columns, save_columns
from raydet.data.storage.files import Blob, Tree
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}
_BATCH = 16


def load_parquet(
    tree: Tree,
    split: Split,
    chosen: str | None,
    detection: bool,
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    max_bad: float = 0.01,
    left_out: Collection[str] = frozenset(),
    exif: Exif = "auto",
) -> DetectionIndex | ClassificationIndex:
    """Return the index of a split; from the cache when none of its files has changed.

    Args:
        left_out: names of rows (file/number) that are left out, whatever they hold.
        chosen: a .parquet file, a folder of them, or a pattern (data/train-*.parquet) within the root. None: those
            that are named after the split.
        on_bad: fail raises on the first faulty row; skip leaves them out, up to the share `max_bad`.
        exif: data.exif, for sizes that are read from the images.

    Raises:
        DataError: the files are not there or malformed; names the rule.
    """
    files = _files(tree, split, chosen)
    paths = {name: str(tree.fetch(name)) for name in files}
    place = posixpath.join(tree.place, next(iter(files)) if len(files) == 1 else chosen or "").rstrip("/")
    meaning = _meaning(paths, detection)
    measured = detection and (meaning.width is None or meaning.height is None)
    turned = ["turned"] * bool(measured and exif)
    key = content_key("parquet", tree.place, files, detection, *turned, *sorted(left_out))
    columns = load_columns(key)
    if columns is None:
        faults = Faults()
        columns = _columns(paths, meaning, place, left_out, faults, exif)
        columns["faults"] = faults.packed()
        save_columns(key, columns)
    faults = Faults.unpacked(columns["faults"])
    if detection and not len(columns["boxes"]) and split != "test":
        faults.add("PARQUET-E11", f"the {split} split has no box", file=place)
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    images = ParquetImages(paths, meaning.image, place, tree.forkable)
    index = _index(columns, images, detection, faults)
    return replace(index, measured=measured) if isinstance(index, DetectionIndex) else index


def of_split(names: Iterable[str], split: str) -> list[str]:
    """Return which files, or files in folders, are named after a split."""
    own = re.compile(rf"(^|.*/)({'|'.join(_NAMES[split])})([-_.][^/]*)?(/.*)?\.parquet$", re.IGNORECASE)
    return [name for name in names if own.match(name)]


def _files(tree: Tree, split: str, chosen: str | None) -> dict[str, str]:
    """The parquet files of a split with their stamps."""
    everything = {n: s for n, s in tree.walk("").items() if n.lower().endswith(".parquet")}
    if chosen is not None:
        wanted = posixpath.normpath(chosen)
        found = {n: s for n, s in everything.items() if n == wanted or n.startswith(wanted + "/") or wanted == "."}
        found = found or {n: s for n, s in everything.items() if fnmatchcase(n, wanted)}
        looked = wanted
    else:
        names = _NAMES[split]
        found = {n: everything[n] for n in of_split(everything, split)}
        looked = f"{names[0]}.parquet, {names[0]}-*.parquet and {names[0]}/ (also {', '.join(names[1:]) or 'in data/'})"
    if not found:
        hint = f"There is {tree.listing(10)}. Set data.{split} to a .parquet file or a folder of them."
        raise DataError(f"looked for {looked}; found none", file=tree.place, rule="DIR-E01", hint=hint)
    return found


def _meaning(paths: dict[str, str], detection: bool) -> Meaning:
    first: Meaning | None = None
    for path in paths.values():
        meaning = find_columns(open_parquet(path).schema_arrow, detection, path)
        if first is not None and meaning != first:
            what = f"has other columns or class names than {next(iter(paths))}"
            raise DataError(what, file=path, rule="PARQUET-E02", hint="Are both files of one data set?")
        first = meaning
    assert first is not None
    return first


def _columns(
    paths: dict[str, str], meaning: Meaning, place: str, left_out: Collection[str], faults: Faults, exif: Exif
) -> Columns:
    """The columns of an index: truth from all rows, sizes from columns or, where there are none, the images."""
    names, ids, sizes, counts = list[str](), list[int](), list[tuple[int, int]](), list[int]()
    xywh, labels = list[list[float]](), list[Any]()
    total, large = 0, 0
    for file, path in paths.items():
        opened = open_parquet(path)
        groups = [opened.metadata.row_group(g) for g in range(opened.metadata.num_row_groups)]
        large = max([large, *(group_bytes(group, meaning.image) for group in groups)])
        for row, (hw, truth) in enumerate(_rows(opened, path, meaning, exif)):
            if f"{file}/{row}" in left_out:
                continue
            total += 1
            held = _row(truth, hw, meaning)
            if isinstance(held[0], str):
                faults.add(held[0], str(held[1]), kind="rows", examples=[Example(f"row {file}/{row}", str(held[2]))])
                faults.unusable.append((f"{file}/{row}", held[0]))
                continue
            names.append(f"{file}/{row}")
            ids.append(held[0])
            sizes.append(held[1])
            counts.append(len(held[3]))
            xywh += held[2]
            labels += held[3]
    faults.looked_at("rows", total, total - len(names))
    if not names:
        raise faults.error() if faults.errors else DataError("holds no row", file=place, rule="PARQUET-E11")
    if large > SMALL:
        what = f"row groups hold up to {large >> 20} MiB of images, of which each sample may read all"
        hint = "Write the files again with groups of about 100 rows: pq.write_table(table, file, row_group_size=100)."
        faults.add("PARQUET-W10", what, file=place, hint=hint)
    classes_N, class_names = classes_of(labels, meaning.class_names, place, faults)
    packed, packed_classes = Texts.pack(names), Texts.pack(class_names)
    columns: Columns = {
        "ids": _ids(ids, names, meaning, place),
        "name_bytes": packed.bytes,
        "name_first": packed.first,
        "class_bytes": packed_classes.bytes,
        "class_first": packed_classes.first,
        "labels": classes_N,
    }
    if meaning.boxes is None:
        return columns
    row_N = np.repeat(np.arange(len(names)), counts)
    xywh_N4 = np.array(xywh, np.float64).reshape(-1, 4)
    return columns | _boxes(xywh_N4, row_N, np.array(sizes, np.int32), classes_N, names, place, faults)


def _rows(
    opened: Any, path: str, meaning: Meaning, exif: Exif
) -> Iterator[tuple[tuple[int, int] | DataError, dict[str, Any]]]:
    """Height and width of each row's image, and its truth."""
    outer = list(dict.fromkeys(column.partition(".")[0] for column in meaning.truth))
    read = meaning.boxes is not None and (meaning.width is None or meaning.height is None)
    try:
        for batch in opened.iter_batches(_BATCH if read else 4096, columns=outer + [meaning.image] * read):
            images = flat(batch.column(meaning.image.partition(".")[0])) if read else None
            for i, truth in enumerate(batch.select(outer).to_pylist()):
                yield _size(images, i, exif) if read else (truth.get(meaning.height), truth.get(meaning.width)), truth
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"is damaged: {error}", file=path, rule="PARQUET-E01") from None


def _size(images: Any, i: int, exif: Exif) -> tuple[int, int] | DataError:
    data = bytes_of(images[i])
    if data is None:
        return DataError("a row has no image", rule="PARQUET-E03")
    try:
        return read_size(Blob("image", data), exif)
    except DataError as error:
        return error


def _row(truth: dict[str, Any], hw: tuple[Any, Any] | DataError, meaning: Meaning) -> tuple[Any, Any, Any, Any]:
    """Id, size, boxes and labels of a row; or the rule that it breaks, what that is, and what the row holds."""
    image_id = 0 if meaning.image_id is None else truth.get(meaning.image_id)
    label = cell(truth, meaning.labels)
    if image_id is None:
        return "PARQUET-E02", "a row without an image_id", None, None
    if meaning.boxes is None:
        bad = label is None or isinstance(label, list)
        return ("PARQUET-E07", "a row has no label", label, None) if bad else (image_id, (0, 0), [], [label])
    if isinstance(hw, DataError):
        return hw.rule, "an image cannot be read", hw.what, None
    if not all(isinstance(v, int) and 0 < v < 2**31 for v in hw):
        return "PARQUET-E02", "width and height must be whole numbers > 0", f"{hw[1]} x {hw[0]}", None
    first, second = boxes_of_row(cell(truth, meaning.boxes), label, meaning.xyxy)
    if isinstance(first, str):
        what = "boxes and labels do not fit" if first == "PARQUET-E04" else "a box is not four sound numbers"
        return first, what, second, None
    return image_id, hw, first, second


def _ids(ids: list[int], names: list[str], meaning: Meaning, place: str) -> npt.NDArray[np.int64]:
    if meaning.image_id is None:
        return np.arange(1, len(names) + 1, dtype=np.int64)
    seen: dict[int, str] = {}
    for image_id, name in zip(ids, names, strict=True):
        if image_id in seen:
            what = f"image_id {image_id} is used twice ({seen[image_id]}, {name})"
            raise DataError(what, file=place, record=f"row {name}", rule="PARQUET-E09")
        seen[image_id] = name
    try:
        return np.array(ids, np.int64)
    except OverflowError:
        raise DataError("an image_id does not fit 64 bits", file=place, rule="PARQUET-E02") from None


def _boxes(
    xywh_N4: npt.NDArray[np.float64],
    row_N: npt.NDArray[np.int64],
    hw_B2: npt.NDArray[np.int32],
    classes_N: npt.NDArray[np.int32],
    names: list[str],
    place: str,
    faults: Faults,
) -> Columns:
    """The columns of boxes; those without extent are left out and counted."""

    def shown(boxes: npt.NDArray[np.int64]) -> list[Example]:
        some = boxes[boxes < len(row_N)][:SHOWN]
        return [Example(f"row {names[row_N[i]]}", str(xywh_N4[i].tolist())) for i in some.tolist()]

    leaving = np.flatnonzero(beyond(xywh_N4, hw_B2[row_N]))
    shares = len(xywh_N4) > 0 and bool((xywh_N4 <= 1).all())
    if leaving.size > MAX_LEAVING * len(xywh_N4) or shares:
        what = "all boxes are within 0 to 1" if shares else f"{leaving.size} of {len(xywh_N4)} boxes leave their image"
        hint = 'Boxes are x, y, width, height in pixels, or as the schema\'s metadata says: {"bbox_format": "xyxy"}.'
        faults.add("PARQUET-E08", what, file=place, examples=shown(np.arange(SHOWN) if shares else leaving), hint=hint)
    elif leaving.size:
        what = "a box leaves its image: clipped"
        faults.add("PARQUET-W08", what, kind="boxes", count=leaving.size, examples=shown(leaving))
    keep_N = (xywh_N4[:, 2:] > 0).all(axis=1)
    if not keep_N.all():
        what = "a box has no width or no height: dropped"
        lost = np.flatnonzero(~keep_N)
        faults.add("PARQUET-W06", what, kind="boxes", count=lost.size, examples=shown(lost))
    faults.looked_at("boxes", len(xywh_N4))
    return box_columns(hw_B2, xywh_N4[keep_N], classes_N[keep_N], row_N[keep_N])


def _index(
    columns: Columns, images: ParquetImages, detection: bool, faults: Faults
) -> DetectionIndex | ClassificationIndex:
    class_names = Texts(columns["class_bytes"], columns["class_first"]).tolist()
    if not detection:
        names, warnings = Texts(columns["name_bytes"], columns["name_first"]), [faults.said(fault) for fault in faults]
        return ClassificationIndex(images.place, images, names, columns["labels"], class_names, warnings, faults)
    return DetectionIndex.of_columns(images.place, images, columns, np.arange(len(class_names)), class_names, faults)
