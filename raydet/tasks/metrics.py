"""COCO average precision on columns of numbers, and top-k accuracy.

AP is computed by faster-coco-eval or by its judge, pycocotools; the figures are the same, see
tests/tasks/test_metrics.py. Both take their annotations through `loadAnns`, so a thin stand-in gives them ours without
the index, the polygons and the copies that their own loaders make. Every image of the split counts: an image without a
single detection lowers recall (NVIDIA's example evaluates only images that have one).
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]

FIGURES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""COCO's twelve, in the order of its own table. Sizes by area: below 32^2, to 96^2, above, in file pixels."""

_AREAS = {"small": 1, "medium": 2, "large": 3}
_LIMITS = {"AR1": 0, "AR10": 1, "AR100": 2}


@dataclass(frozen=True, slots=True)
class Truth:
    """A split's annotations: one row per box."""

    all_image_ids: Ints
    """Ids of all images of the split, those without boxes included."""
    class_names: Sequence[str]
    """Names by label; label i is class_names[i]."""
    image_ids: Ints
    """[N] image of each box."""
    boxes_xywh: Floats
    """[N, 4] left, top, width, height in pixels of the image file."""
    labels: Ints
    """[N] contiguous class ids from 0."""
    areas: Floats
    """[N] area of the object, as annotated (of its mask where it has one)."""
    crowd: npt.NDArray[np.bool_] | Ints
    """[N] boxes around groups: detections in them are neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class SplitDetections:
    """What a model found: one row per box, the rows of one image in any order."""

    image_ids: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes_xywh: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    labels: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """Figures from 0 to 1; NaN where the split has no object of that size or class."""

    figures: dict[str, float]
    """The twelve of FIGURES."""
    per_class: dict[str, float]
    """Class name -> its AP; the label stands behind a name that two classes share."""


def average_precision(
    truth: Truth,
    detections: SplitDetections,
    backend: Literal["faster", "pycocotools"] = "faster",
    split: str = "val",
) -> AveragePrecision:
    """Return COCO's figures for boxes; at most 100 detections per image and class count, as in COCO's own table.

    Args:
        truth: all annotations of the split.
        detections: no row at all is allowed and gives 0.0.
        backend: who computes them.
        split: its name, for messages.

    Raises:
        ValueError: nothing to score against, columns of different lengths, an unknown image or class, or a detection
            that is not finite.
    """
    _check(truth, detections, split)
    images = np.unique(truth.all_image_ids)  # the libraries get positions: faster-coco-eval keeps ids as floats
    boxes = _Annotations(images, len(truth.class_names), _truth_rows(truth, images))
    found = _Annotations(images, len(truth.class_names), _detection_rows(detections, images))
    scored = _faster(boxes, found) if backend == "faster" else _pycocotools(boxes, found)
    precision = np.asarray(scored["precision"], np.float64)  # [IoU, recall, class, area, limit], -1: no such truth
    recall = np.asarray(scored["recall"], np.float64)  # [IoU, class, area, limit]
    names = _distinct(truth.class_names)
    return AveragePrecision(
        {name: _figure(name, precision, recall) for name in FIGURES},
        {name: _mean(precision[:, :, i, 0, 2]) for i, name in enumerate(names)},
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with their label behind each that stands twice (COCO files may name two classes alike)."""
    return [name if names.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(names)]


def _figure(name: str, precision: Floats, recall: Floats) -> float:
    area = _AREAS.get(name.partition("_")[2], 0)
    if name.startswith("AR"):
        return _mean(recall[:, :, area, _LIMITS.get(name, 2)])
    at = {"AP50": slice(0, 1), "AP75": slice(5, 6)}.get(name, slice(None))
    return _mean(precision[at, :, :, area, 2])


def _mean(values: Floats) -> float:
    seen = values[values > -1]
    return float(seen.mean()) if seen.size else float("nan")


def _check(truth: Truth, detections: SplitDetections, split: str) -> None:
    for name, table in (("truth", truth), ("detections", detections)):
        rows = len(table.image_ids)
        for column in ("boxes_xywh", "labels", "areas", "crowd", "scores"):
            length = len(getattr(table, column, table.image_ids))
            if length != rows:
                raise ValueError(f"{name}.{column} has {length} rows, {name}.image_ids has {rows}")
        if table.boxes_xywh.shape != (rows, 4):
            raise ValueError(f"{name}.boxes_xywh must be [N, 4], got {list(table.boxes_xywh.shape)}")
        strange = np.setdiff1d(table.image_ids, truth.all_image_ids)
        if strange.size:
            raise ValueError(
                f"{name}: {strange.size} image ids are not of the {split} split, e.g. {strange[:5].tolist()}"
            )
        if rows and not (table.labels.min() >= 0 and table.labels.max() < len(truth.class_names)):
            raise ValueError(
                f"{name}.labels must be 0 to {len(truth.class_names) - 1}, "
                f"got {int(table.labels.min())} to {int(table.labels.max())}"
            )
    if not np.any(np.asarray(truth.crowd) == 0):
        crowds = f" beside {len(truth.image_ids)} crowd boxes" if len(truth.image_ids) else ""
        raise ValueError(f"{split} split has 0 annotated boxes{crowds}; average precision needs at least one")
    if not (np.isfinite(detections.boxes_xywh).all() and np.isfinite(detections.scores).all()):
        raise ValueError("detections hold boxes or scores that are not finite: the model's outputs have overflowed")


Row = dict[str, Any]


def _truth_rows(truth: Truth, images: Ints) -> list[Row]:
    columns = (
        (np.searchsorted(images, truth.image_ids) + 1).tolist(),
        np.asarray(truth.boxes_xywh, np.float64).tolist(),
        truth.labels.tolist(),
        np.asarray(truth.areas, np.float64).tolist(),
        np.asarray(truth.crowd).astype(int).tolist(),
    )
    return [
        {"id": i, "image_id": image, "bbox": box, "category_id": label, "area": area, "iscrowd": crowd, "ignore": crowd}
        for i, (image, box, label, area, crowd) in enumerate(zip(*columns, strict=True), 1)  # id 0 would mean unmatched
    ]


def _detection_rows(detections: SplitDetections, images: Ints) -> list[Row]:
    boxes = np.asarray(detections.boxes_xywh, np.float64)
    columns = (
        (np.searchsorted(images, detections.image_ids) + 1).tolist(),
        boxes.tolist(),
        detections.labels.tolist(),
        (boxes[:, 2] * boxes[:, 3]).tolist(),
        np.asarray(detections.scores, np.float64).tolist(),
    )
    return [
        {"id": i, "image_id": image, "bbox": box, "category_id": label, "area": area, "score": score, "iscrowd": 0}
        for i, (image, box, label, area, score) in enumerate(zip(*columns, strict=True), 1)
    ]


class _Annotations:
    """What the two evaluators ask of a COCO object when they score boxes of all images and classes."""

    print_function: Callable[..., None]

    def __init__(self, images: Ints, num_classes: int, rows: list[Row]) -> None:
        self._images, self._classes, self._rows = len(images), num_classes, rows

    def getImgIds(self) -> list[int]:
        return list(range(1, self._images + 1))

    def getCatIds(self) -> list[int]:
        return list(range(self._classes))

    def getAnnIds(self, imgIds: object = None, catIds: object = None) -> range:
        return range(len(self._rows))

    def loadAnns(self, ids: range) -> list[Row]:
        return self._rows


def _faster(truth: _Annotations, found: _Annotations) -> dict[str, Any]:
    from faster_coco_eval import COCOeval_faster

    judge = COCOeval_faster(truth, found, "bbox", print_function=_silent, extra_calc=False)
    judge.evaluate()
    judge.accumulate()
    scored: dict[str, Any] = judge.eval
    return scored


def _pycocotools(truth: _Annotations, found: _Annotations) -> dict[str, Any]:
    from pycocotools.cocoeval import COCOeval

    judge = COCOeval(truth, found, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
    scored: dict[str, Any] = judge.eval
    return scored


def _silent(*_: object) -> None:
    pass


def topk_accuracy(logits_BC: torch.Tensor, labels_B: torch.Tensor, ks: Sequence[int] = (1, 5)) -> torch.Tensor:
    """Return how many images of the batch have their class among the k likeliest, int64 [len(ks)], on their device.

    Sum over batches and workers, divide by the images, and only then copy to the host. A k above the number of classes
    counts every image; so does no image whose label is negative (unknown). A row with NaN counts as wrong.
    """
    known_B = labels_B >= 0
    own_B1 = logits_BC.gather(1, labels_B.clamp(min=0)[:, None])
    index_C = torch.arange(logits_BC.shape[1], device=logits_BC.device)
    # The rank without a sort; of equal logits the lower class is first, so a constant network does not score 100 %.
    before_BC = (logits_BC > own_B1) | ((logits_BC == own_B1) & (index_C < labels_B[:, None]))
    rank_B = before_BC.sum(1)
    sound_B = known_B & ~logits_BC.isnan().any(1)
    return torch.stack([((rank_B < k) & sound_B).sum() for k in ks])
