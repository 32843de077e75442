"""Detection: how a batch becomes network input and targets, what it costs, how it is scored."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from raydet import ops
from raydet.config import Config
from raydet.data import Batch, DetectionIndex
from raydet.distributed import WorkerGroup
from raydet.models.anchors import grid_cells, make_anchors
from raydet.ops import Targets
from raydet.tasks import losses
from raydet.tasks.base import ImageInputs
from raydet.tasks.metrics import SplitDetections, Truth, average_precision


class Anchored(Protocol):
    """What a detector's anchors follow from; a network has it, and an exported one."""

    min_level: int
    max_level: int
    anchor_scale: float


class Detection(ImageInputs):
    """EfficientDet: focal and Huber loss over anchors, COCO's average precision."""

    score: str = "AP"
    loss_names: tuple[str, ...] = ("loss", "class_loss", "box_loss")

    def __init__(self, cfg: Config, model: nn.Module, device: torch.device) -> None:
        super().__init__(cfg, device)
        side = cfg.model.image_size
        if side is None:
            raise ValueError("model.image_size is not resolved")
        anchored = cast("Anchored", model)
        levels = (anchored.min_level, anchored.max_level)
        self.anchors_A4 = make_anchors((side, side), *levels, anchored.anchor_scale).to(device)
        self._cells = grid_cells((side, side), *levels)

    def targets(self, batch: Batch) -> Targets:
        assert batch.boxes_BM4 is not None and batch.classes_BM is not None
        boxes_BM4 = batch.boxes_BM4.to(self.device, non_blocking=True)
        classes_BM = batch.classes_BM.to(self.device, non_blocking=True)
        loss = self.cfg.loss
        return ops.assign_anchors(
            self.anchors_A4, boxes_BM4, classes_BM, loss.match_iou, loss.distinct_matches, self._cells
        )

    def weight(self, targets: Targets) -> Tensor:
        return targets.positives_B.sum().double()

    def loss(self, outputs: tuple[Tensor, Tensor], targets: Targets, weight: Tensor) -> Tensor:
        class_loss, box_loss = losses.detection_loss(*outputs, targets, self.cfg.loss)
        per_positive = 1 / (weight.float() + 1)  # + 1 as in TensorFlow's: a batch without boxes must not divide by 0
        class_loss, box_loss = class_loss * per_positive, box_loss * per_positive
        return torch.stack([class_loss + self.cfg.loss.box_weight * box_loss, class_loss, box_loss])

    def random_numbers(self, epoch: int, step: int) -> Sequence[float]:
        return ()

    def training_inputs(
        self, batch: Batch, targets: Targets, random: Sequence[float | Tensor]
    ) -> tuple[Tensor, Targets]:
        return self.inputs(batch), targets

    def scorer(self, index: DetectionIndex) -> "DetectionScorer":
        return DetectionScorer(self, index)

    def detect(self, outputs: tuple[Tensor, Tensor] | ops.BatchDetections) -> list[ops.ImageDetections]:
        """Return each image's detections in input pixels, on the CPU; waits for the device."""
        if isinstance(outputs, ops.BatchDetections):  # an exported network that detects by itself
            return outputs.images()
        e = self.cfg.evaluation
        found = ops.detect(
            *outputs,
            self.anchors_A4,
            top_k=e.top_k,
            score_threshold=e.score_threshold,
            nms_iou=e.nms_iou,
            max_detections=e.max_detections,
            soft_nms_sigma=e.soft_nms_sigma,
            class_agnostic=e.class_agnostic_nms,
        )
        return found.images()


def to_file_pixels(found: ops.ImageDetections, scale_2: Tensor, size_2: Tensor) -> Tensor:
    """Return boxes_K4 in pixels of the image file, clipped to it; `scale_2` is input pixels per file pixel, x and y."""
    scale, size = scale_2.cpu().float(), size_2.cpu().float()
    return (found.boxes_K4 / scale.repeat(2)).clamp(min=0).minimum(size.repeat(2))


class DetectionScorer:
    """COCO's average precision; every image of the split counts, found or not."""

    def __init__(self, task: Detection, index: DetectionIndex) -> None:
        self.task, self.index = task, index
        self.found: list[SplitDetections] = []
        """What was found so far, an item an image."""
        # class loss, box loss, positives
        self._sums = torch.zeros(3, dtype=torch.float64, device=task.device)

    def add(self, outputs: tuple[Tensor, Tensor] | ops.BatchDetections, batch: Batch) -> None:
        assert batch.scale_B2 is not None and batch.size_B2 is not None
        if isinstance(outputs, ops.BatchDetections):
            self._sums[:2] = math.nan  # no logits, no loss
        else:
            targets = self.task.targets(batch)
            self._sums[:2] += torch.stack(losses.detection_loss(*outputs, targets, self.task.cfg.loss)).double()
            self._sums[2] += targets.positives_B.sum()
        rows = batch.rows_B.tolist()
        for row, one, scale, size in zip(rows, self.task.detect(outputs), batch.scale_B2, batch.size_B2, strict=True):
            xyxy_K4 = to_file_pixels(one, scale, size).double().numpy()
            found = SplitDetections(
                image_ids=np.full(len(xyxy_K4), self.index.ids[row]),
                boxes_xywh=np.concatenate([xyxy_K4[:, :2], xyxy_K4[:, 2:] - xyxy_K4[:, :2]], axis=1),
                labels=one.classes_K.numpy(),
                scores=one.scores_K.double().numpy(),
            )
            self.found.append(found)

    def result(self, workers: WorkerGroup) -> dict[str, float]:
        """Return COCO's twelve figures, AP per class as `AP/<name>`, and eval_loss (NaN where there were no logits)."""
        class_loss, box_loss, positives = workers.sum_(self._sums.clone()).tolist()
        everyone = concatenated(workers.gather(concatenated(self.found)))
        figures: dict[str, float] = {}
        if workers.rank == 0:
            scored = average_precision(truth_of(self.index), everyone, self.task.cfg.evaluation.backend)
            figures = scored.figures | {f"AP/{name}": ap for name, ap in scored.per_class.items() if not math.isnan(ap)}
        weighted = class_loss + self.task.cfg.loss.box_weight * box_loss
        return {"eval_loss": weighted / (positives + 1), **workers.share(figures)}


def concatenated(parts: Sequence[SplitDetections]) -> SplitDetections:
    """Return the parts as one."""
    parts = [SplitDetections(), *parts]
    # In order of image: what is best among equal scores must not depend on how the split was shared out.
    whole = SplitDetections(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(SplitDetections))
    )
    order = np.argsort(whole.image_ids, kind="stable")
    return SplitDetections(*(getattr(whole, f.name)[order] for f in dataclasses.fields(SplitDetections)))


def truth_of(index: DetectionIndex) -> Truth:
    """Return what is there to be found in a split."""
    return Truth(
        all_image_ids=index.ids,
        class_names=index.class_names,
        image_ids=np.repeat(index.ids, np.diff(index.first)),
        boxes_xywh=index.boxes,
        labels=index.labels,
        areas=index.areas,
        crowd=index.crowd,
    )
