"""What a split holds, whatever its format: an index of images with boxes, or of images with a class."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from raydet.config import Config
from raydet.data.columns import Columns, Floats, Ints, Texts, first_of
from raydet.data.storage.files import Files, Source
from raydet.data.validation.faults import Faults
from raydet.exceptions import DataError

_MIN_SIDE = 32
"""Training leaves out images with a shorter side than this, as effdet and NVIDIA's EfficientDet do."""
TOO_SMALL = f"under {_MIN_SIDE} pixels wide or high"
"""Why training leaves out an image, besides what is said of its boxes."""


@dataclass(frozen=True, slots=True)
class DetectionIndex:
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
    measured: bool = False
    """Whether `sizes` were read from the images, turned as data.exif says, because the annotations have none."""

    @classmethod
    def of_columns(
        cls, file: str, files: Files, columns: Columns, category_ids: Ints, class_names: list[str], faults: Faults
    ) -> "DetectionIndex":
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
            **{name: columns[name] for name in same},  # type: ignore[arg-type]
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """Classes, gaps of class_ids=raw included."""
        return len(self.class_names)

    def image(self, i: int) -> Source:
        """Return the image of image i.

        Raises:
            DataError: the name leads out of the image folder.
        """
        return self.files.image(self.names[i])

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
        """Return the rows to train on, in order: without images under 32 pixels and, with data.skip_empty, without
        those that have no usable box (one that is no crowd and at least data.min_box wide and high within the image).

        Raises:
            DataError: none is left.
        """
        left_out = self.not_trained(cfg)
        keep = ~np.logical_or.reduce(list(left_out.values()))
        if not keep.any():
            what = f"none of {len(self)} images is at least {_MIN_SIDE} pixels wide and high and has a usable box"
            counts = [f"{mask.sum()} {why}" for why, mask in left_out.items() if mask.any()]
            raise DataError(f"{what}: {', '.join(counts)}", file=self.file, rule="COCO-E33")
        return np.flatnonzero(keep).astype(np.int64)

    def not_trained(self, cfg: Config) -> dict[str, npt.NDArray[np.bool_]]:
        """Return which images training leaves out, by why, each image once."""
        row_N = np.repeat(np.arange(len(self)), np.diff(self.first))
        xyxy_N4 = _clipped(self.boxes, self.sizes[row_N])
        usable_N = ~self.crowd & ((xyxy_N4[:, 2:] - xyxy_N4[:, :2]) >= max(cfg.data.min_box, 1e-6)).all(axis=1)
        small = self.sizes.min(axis=1, initial=np.iinfo(np.int32).max) < _MIN_SIDE
        found = {TOO_SMALL: small}
        if cfg.data.skip_empty:
            empty = ~small & (np.bincount(row_N[usable_N], minlength=len(self)) == 0)
            without = np.diff(self.first) == 0
            crowded = np.bincount(row_N[~self.crowd], minlength=len(self)) == 0
            found |= {
                "without a box": empty & without,
                "with crowds only": empty & ~without & crowded,
                "with boxes under data.min_box or outside the image only": empty & ~without & ~crowded,
            }
        return found

    def select(self, rows: Ints) -> "DetectionIndex":
        """Return the index of some of the images, in the order of `rows`."""
        counts = np.diff(self.first)[rows]
        first = first_of(counts)
        boxes = np.repeat(self.first[rows] - first[:-1], counts) + np.arange(counts.sum())
        names = Texts.pack([self.names[i] for i in rows.tolist()])
        of_images = {"ids": self.ids[rows], "sizes": self.sizes[rows], "names": names}
        return replace(self._with_boxes(boxes), first=first, **of_images)  # type: ignore[arg-type]

    def relabel(self, classes: Ints, category_ids: Ints, class_names: list[str]) -> "DetectionIndex":
        """Return the index with class i as classes[i], of those named; boxes of one that becomes -1 are left out."""
        labels_N = classes[self.labels]
        kept = self._with_boxes(np.flatnonzero(labels_N >= 0))
        row_N = np.repeat(np.arange(len(self)), np.diff(self.first))
        first = first_of(np.bincount(row_N[labels_N >= 0], minlength=len(self)))
        labels = labels_N[labels_N >= 0].astype(np.int32)
        return replace(kept, labels=labels, first=first, category_ids=category_ids, class_names=class_names)

    def _with_boxes(self, boxes: Ints) -> "DetectionIndex":
        """The index with some of the boxes; `first` is to be set."""
        if len(boxes) == len(self.boxes):
            return self
        of_boxes = ("boxes", "areas", "labels", "crowd", "ann_ids")
        return replace(self, **{name: getattr(self, name)[boxes] for name in of_boxes})


def _clipped(xywh_K4: Floats, hw_K2: npt.NDArray[np.int32]) -> Floats:
    """The boxes as xyxy within their image; its size is one for all, hw_2, or each box's own."""
    xyxy_K4 = xywh_K4.copy()
    xyxy_K4[:, 2:] += xywh_K4[:, :2]
    np.maximum(xyxy_K4, 0, out=xyxy_K4)
    np.minimum(xyxy_K4, hw_K2[..., [1, 0, 1, 0]], out=xyxy_K4)
    return xyxy_K4


@dataclass(frozen=True, slots=True)
class ClassificationIndex:
    """The images of one split, in order of class and path."""

    file: str
    """The folder."""
    files: Files
    names: Texts
    """Path of each image below the folder."""
    labels: npt.NDArray[np.int32]
    class_names: list[str]
    warnings: list[str]
    """What was accepted or left out, one line per kind."""
    faults: Faults = field(default_factory=Faults)
    """The same by rule, with counts and first names."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """Classes."""
        return len(self.class_names)

    @property
    def category_ids(self) -> Ints:
        """Class -> the data set's id, which is the class itself."""
        return np.arange(self.num_classes, dtype=np.int64)

    def train_rows(self, cfg: Config) -> Ints:
        """Return the rows to train on: all."""
        return np.arange(len(self), dtype=np.int64)

    def select(self, rows: Ints) -> "ClassificationIndex":
        """Return the index of some of the images, in the order of `rows`."""
        names = Texts.pack([self.names[i] for i in rows.tolist()])
        return replace(self, names=names, labels=self.labels[rows])

    def relabel(self, classes: Ints, category_ids: Ints, class_names: list[str]) -> "ClassificationIndex":
        """Return the index with class i as classes[i], of those named; images of one that becomes -1 are left out."""
        labels_N = classes[self.labels]
        rows = np.flatnonzero(labels_N >= 0)
        return replace(self.select(rows), labels=labels_N[rows].astype(np.int32), class_names=class_names)

    def image(self, i: int) -> Source:
        """Return image i; links to images elsewhere are followed, being the owner's own."""
        return self.files.image(self.names[i])


Index = DetectionIndex | ClassificationIndex
