"""COCO annotations as an index of packed arrays: no list of records stays, so loader processes share one copy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from raydet.config import Config
from raydet.data.coco_json import parse
from raydet.data.columns import Columns, Floats, Ints, Texts, file_key, load_columns, save_columns
from raydet.data.errors import DataError
from raydet.data.faults import Faults
from raydet.data.files import Files, Folder, Source

Role = Literal["train", "val", "test"]

_MIN_SIDE = 32
"""Training leaves out pictures with a shorter side than this, as effdet and NVIDIA's EfficientDet do."""
_MOST_RAW = 100_000
"""class_ids=raw makes a class of every number up to the highest id; more than this is a mistake."""


@dataclass(frozen=True, slots=True)
class CocoIndex:
    """The images and boxes of one split. Row i is the i-th image of the file; its boxes are first[i]:first[i + 1]."""

    file: str
    """The annotation file."""
    files: Files
    ids: Ints
    """The data set's image ids."""
    names: Texts
    sizes: npt.NDArray[np.int32]
    """Height and width of each image."""
    boxes: Floats
    """x, y, width, height as in the file, unclipped."""
    areas: Floats
    labels: npt.NDArray[np.int32]
    """Class of each box, from 0."""
    crowd: npt.NDArray[np.bool_]
    ann_ids: Ints
    """The data set's annotation ids."""
    first: Ints
    category_ids: Ints
    """Class -> the data set's category id."""
    class_names: list[str]
    """Class -> name; "" for a gap of class_ids=raw."""
    warnings: list[str]
    """What was accepted, repaired or left out, one line per kind."""
    faults: Faults = field(default_factory=Faults)
    """The same by rule, with counts and first records."""

    @classmethod
    def load(
        cls,
        json_path: Path | str,
        images: Files | Path | str,
        class_ids: Literal["contiguous", "raw"] = "contiguous",
        *,
        role: Role = "train",
        on_bad: Literal["fail", "skip"] = "fail",
        max_bad: float = 0.01,
    ) -> "CocoIndex":
        """Return the index of an annotation file; from the cache when the file was read before.

        Args:
            class_ids: contiguous: class i is the i-th category in order of id. raw: the category with id i + 1.
            role: train refuses a file without annotations, val one without the key; test accepts both.
            on_bad: fail: any faulty record refuses the file. skip: faulty records are left out and counted.
            max_bad: with skip, the share of images, annotations or categories above which the file is refused.

        Raises:
            DataError: the file is malformed; names the record and the rule, holds all faults in `faults`.
        """
        path = Path(json_path)
        files = Folder(Path(images)) if isinstance(images, (str, Path)) else images
        columns, faults = _read(path, files)
        _check_annotated(path, columns, role, faults)
        faults.check(skip=on_bad == "skip", max_bad=max_bad)
        _check_left(path, columns, role, faults)
        labels, category_ids, class_names = _classes(path, columns, class_ids, faults)
        return cls.of_columns(str(path), files, columns | {"labels": labels}, category_ids, class_names, faults)

    @classmethod
    def of_columns(
        cls, file: str, files: Files, columns: Columns, category_ids: Ints, class_names: list[str], faults: Faults
    ) -> "CocoIndex":
        """Return the index of what a file's reader has packed."""
        same = ("ids", "sizes", "boxes", "areas", "labels", "crowd", "ann_ids", "first")
        return cls(
            file=file,
            files=files,
            names=Texts(columns["name_bytes"], columns["name_first"]),
            category_ids=category_ids,
            class_names=class_names,
            warnings=[faults.said(fault) for fault in faults],
            faults=faults,
            **{name: columns[name] for name in same},
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """Classes, gaps of class_ids=raw included."""
        return len(self.class_names)

    def picture(self, i: int) -> Source:
        """Return the picture of image i.

        Raises:
            DataError: the name leads out of the image folder.
        """
        return self.files.picture(self.names[i])

    def boxes_of(self, i: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return image i's boxes_K4 (xyxy in pixels of the file, clipped to it), labels_K and crowd_K.

        Boxes that lie wholly outside the image are left out.
        """
        part = slice(self.first[i], self.first[i + 1])
        boxes_K4, labels_K, crowd_K = _clipped(self.boxes[part], self.sizes[i]), self.labels[part], self.crowd[part]
        inner_K = (boxes_K4[:, 2:] - boxes_K4[:, :2]).min(axis=1) > 0
        if not inner_K.all():
            boxes_K4, labels_K, crowd_K = boxes_K4[inner_K], labels_K[inner_K], crowd_K[inner_K]
        return boxes_K4.astype(np.float32), labels_K.astype(np.int64), crowd_K

    def train_rows(self, cfg: Config) -> Ints:
        """Return the rows to train on, in order: without pictures under 32 pixels and, with data.skip_empty, without
        those that have no usable box (one that is no crowd and at least data.min_box wide and high within the image).

        Raises:
            DataError: none is left.
        """
        row_N = np.repeat(np.arange(len(self)), np.diff(self.first))
        xyxy_N4 = _clipped(self.boxes, self.sizes[row_N])
        usable_N = ~self.crowd & ((xyxy_N4[:, 2:] - xyxy_N4[:, :2]) >= max(cfg.data.min_box, 1e-6)).all(axis=1)
        keep = self.sizes.min(axis=1) >= _MIN_SIDE
        if cfg.data.skip_empty:
            keep &= np.bincount(row_N[usable_N], minlength=len(self)) > 0
        if not keep.any():
            what = f"none of {len(self)} images is at least {_MIN_SIDE} pixels wide and high and has a usable box"
            raise DataError(what, file=self.file, rule="COCO-E33")
        return np.flatnonzero(keep).astype(np.int64)


def _clipped(xywh_K4: Floats, hw_K2: npt.NDArray[np.int32]) -> Floats:
    """The boxes as xyxy within their picture; its size is one for all, hw_2, or each box's own."""
    xyxy_K4 = xywh_K4.copy()
    xyxy_K4[:, 2:] += xywh_K4[:, :2]
    np.maximum(xyxy_K4, 0, out=xyxy_K4)
    np.minimum(xyxy_K4, hw_K2[..., [1, 0, 1, 0]], out=xyxy_K4)
    return xyxy_K4


def _read(path: Path, files: Files) -> tuple[Columns, Faults]:
    """The file's columns and faults, from the cache when it was read before."""
    try:
        key = f"{file_key(path)}-coco"
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, rule="DIR-E01") from None
    columns = load_columns(key)
    if columns is not None:
        return columns, Faults.unpacked(columns["faults"], str(path))
    columns, alone, faults = parse(path, files)
    if alone:  # sizes read from pictures may change without the file
        save_columns(key, columns)
    return columns, faults


def _check_annotated(path: Path, columns: Columns, role: Role, faults: Faults) -> None:
    known = any(fault.rule == "COCO-E06" for fault in faults)
    if role != "test" and not columns["has_annotations"] and not known:
        hint = "Only data.test may be without." if role == "val" else None
        faults.add("COCO-E06", '"annotations" is missing', file=path, hint=hint)


def _check_left(path: Path, columns: Columns, role: Role, faults: Faults) -> None:
    """Refuse a file of which nothing usable is left."""
    for key, rule, kind in (("ids", "COCO-E03", "images"), ("category_ids", "COCO-E05", "categories")):
        if len(columns[key]) == 0:
            faults.add(rule, f'no record of "{kind}" is usable', file=path)
            raise faults.error()
    if len(columns["boxes"]) == 0 and role == "train":
        faults.add("COCO-E26", "no annotation with a usable box; nothing can be learnt", file=path)
        raise faults.error()
    if len(columns["boxes"]) == 0:
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
