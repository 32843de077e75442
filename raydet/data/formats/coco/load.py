"""COCO annotations as an index of packed arrays: no list of records stays, so loader processes share one copy."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns, Ints, Texts
from raydet.data.formats.coco.file_names import AS_WRITTEN, locate
from raydet.data.formats.coco.reader import parse
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.split_names import Split
from raydet.data.storage.cache import file_key, load_columns, save_columns
from raydet.data.storage.files import Files, Folder
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

_MOST_RAW = 100_000
"""class_ids=raw makes a class of every number up to the highest id; more than this is a mistake."""


def load_coco(
    json_path: Path | str,
    images: Files | Path | str | Sequence[Files],
    class_ids: Literal["contiguous", "raw"] = "contiguous",
    *,
    role: Split = "train",
    on_bad: Literal["fail", "skip"] = "fail",
    max_bad: float = 0.01,
    left_out: Container[str] = (),
    present: bool = False,
) -> DetectionIndex:
    """Return the index of an annotation file; from the cache when the file was read before.

    Args:
        images: where the images lie, or may lie: the place where some of them are is taken.
        class_ids: contiguous: class i is the i-th category in order of id. raw: the category with id i + 1.
        role: train refuses a file without annotations, val one without the key; test accepts both.
        on_bad: fail: any faulty record refuses the file. skip: faulty records are left out and counted.
        max_bad: with skip, the share of images, annotations or categories above which the file is refused.
        left_out: names of images that are not opened for a size that the file lacks, but left out.
        present: refuse the file where none of some images is there.

    Raises:
        DataError: the file is malformed; names the record and the rule, holds all faults in `faults`.
    """
    path = Path(json_path)
    if isinstance(images, (str, Path)):
        images = Folder(Path(images))
    places: list[Files] = [*images] if isinstance(images, Sequence) else [images]
    columns, faults = _read(path, places, left_out)
    _check_annotated(path, columns, role, faults)
    files, columns = _located(path, columns, places, role, faults, present)
    _check_boxes(path, columns, role, faults)
    empty = [kind for key, kind in (("ids", "images"), ("category_ids", "categories")) if not len(columns[key])]
    if empty:
        faults.add("COCO-E55", f'no record of "{empty[0]}" is usable', file=path)
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    if empty:
        raise faults.error()
    labels, category_ids, class_names = _classes(path, columns, class_ids, faults)
    return DetectionIndex.of_columns(str(path), files, columns | {"labels": labels}, category_ids, class_names, faults)


def _read(path: Path, places: Sequence[Files], left_out: Container[str]) -> tuple[Columns, Faults]:
    """The file's columns and faults, from the cache when it was read before."""
    try:
        key = f"{file_key(path)}-coco"
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, rule="DIR-E01") from None
    columns = load_columns(key)
    if columns is not None:
        return columns, Faults.unpacked(columns["faults"], str(path))
    columns, alone, faults = parse(path, places, left_out)
    if alone:  # sizes read from images may change without the file
        save_columns(key, columns)
    return columns, faults


def _located(
    path: Path, columns: Columns, places: Sequence[Files], role: Split, faults: Faults, present: bool
) -> tuple[Files, Columns]:
    """Where the images lie, and the columns with the names of their files."""
    texts = Texts(columns["name_bytes"], columns["name_first"])
    found = locate(texts, places)
    if present and len(texts) and not found.found:
        where = " or ".join(place.place for place in places)
        what = f"none of {found.tried} images tried is in {where}, e.g. {texts[0]}"
        holder = "It" if len(places) == 1 else places[0].place
        hint = f"{holder} holds {places[0].listing(5)}. Is data.{role}_images right?"
        faults.add("COCO-E30", what, file=path, hint=hint)
    if found.reading is AS_WRITTEN:
        return found.files, columns
    names = texts.tolist()
    read = [found.reading(name) for name in names]
    changed = [i for i, (new, old) in enumerate(zip(read, names, strict=True)) if new != old]
    shown = [Example(f"{names[i]} -> {read[i]}") for i in changed[:SHOWN]]
    faults.add("COCO-W51", found.reading.said, file=path, kind="images", count=len(changed), examples=shown)
    packed = Texts.pack(read)
    return found.files, columns | {"name_bytes": packed.bytes, "name_first": packed.first}


def _check_annotated(path: Path, columns: Columns, role: Split, faults: Faults) -> None:
    known = any(fault.rule == "COCO-E06" for fault in faults)
    if role != "test" and not columns["has_annotations"] and not known:
        hint = "Only data.test may be without." if role == "val" else None
        faults.add("COCO-E06", '"annotations" is missing', file=path, hint=hint)


def _check_boxes(path: Path, columns: Columns, role: Split, faults: Faults) -> None:
    """Refuse a file of which no box is left."""
    if len(columns["boxes"]) == 0 and role == "train":
        faults.add("COCO-E26", "no annotation with a usable box; there is nothing to train on", file=path)
    elif len(columns["boxes"]) == 0:
        faults.add("COCO-W26", f"the {role} split has 0 boxes: AP cannot be computed", file=path)


def _classes(
    path: Path, columns: Columns, class_ids: Literal["contiguous", "raw"], faults: Faults
) -> tuple[npt.NDArray[np.int32], Ints, list[str]]:
    """Label of each box, category id of each class, name of each class."""
    ids, names = columns["category_ids"], Texts(columns["class_bytes"], columns["class_first"]).tolist()
    if class_ids == "contiguous":
        order = np.argsort(ids)
        labels = np.searchsorted(ids[order], columns["categories"]).astype(np.int32)
        return labels, ids[order], [names[i] for i in order]
    if ids.min() < 1 or ids.max() > _MOST_RAW:
        bad = ids.min() if ids.min() < 1 else ids.max()
        what, hint = f"category id {bad} is not from 1 to {_MOST_RAW}", "Use data.class_ids=contiguous."
        faults.add("COCO-E27", what, file=path, hint=hint)
        raise faults.error()
    spread = [""] * int(ids.max())
    for i, name in zip(ids, names, strict=True):
        spread[i - 1] = name
    return (columns["categories"] - 1).astype(np.int32), np.arange(1, len(spread) + 1, dtype=np.int64), spread
