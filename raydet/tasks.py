"""The two tasks behind one protocol: how a batch becomes network input and targets, what it costs, how it is scored."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from raydet import losses, ops
from raydet.anchors import grid_cells, make_anchors
from raydet.config import Config
from raydet.data import Batch, CocoIndex, FolderIndex
from raydet.data.augment import mixup, mixup_weight
from raydet.metrics import Detections, Truth, average_precision, topk_accuracy
from raydet.ops import Targets
from raydet.peers import Peers

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, of intensities from 0 to 1."""


class Task(Protocol):
    """What the loop needs to know of a task."""

    score: str
    """Name of the metric that decides which checkpoint is best; higher is better."""
    loss_names: tuple[str, ...]
    """Names of what `loss` returns; the first is what is minimised."""

    def inputs(self, batch: Batch) -> Tensor:
        """Return the network's input_B3HW: float, normalised, in the configured memory format."""
        ...

    def targets(self, batch: Batch) -> Any:
        """Return what the network should say of a training batch, on the device."""
        ...

    def weight(self, targets: Any) -> Tensor:
        """Return what this batch adds to the number that the losses of the global batch are divided by."""
        ...

    def loss(self, outputs: Any, targets: Any, weight: Tensor) -> Tensor:
        """Return this batch's share of the global batch's losses, one per loss name."""
        ...

    def draws(self, epoch: int, step: int) -> Sequence[float]:
        """Return the random numbers of a step that all its samples share; always as many."""
        ...

    def training_inputs(self, batch: Batch, targets: Any, draws: Sequence[float | Tensor]) -> tuple[Tensor, Any]:
        """Return `inputs` and targets as they are trained on (mixed up by `draws`, if the configuration says so)."""
        ...

    def scorer(self, index: Any) -> "Scorer":
        """Return a fresh scorer for the split that `index` describes."""
        ...


class Anchored(Protocol):
    """What a detector's anchors follow from; a network has it, and an exported one."""

    min_level: int
    max_level: int
    anchor_scale: float


class Classifying(Protocol):
    """What a classifier tells of itself."""

    num_classes: int


class Scorer(Protocol):
    """Collects a network's answers over a split and scores them."""

    def add(self, outputs: Any, batch: Batch) -> None:
        """Take in one batch."""
        ...

    def result(self, peers: Peers) -> dict[str, float]:
        """Return the metrics over all workers' batches, on every worker."""
        ...


class _Inputs:
    def __init__(self, cfg: Config, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        std = torch.tensor(STD, device=device) * 255
        self._scale = (1 / std).view(1, 3, 1, 1)
        self._shift = (-torch.tensor(MEAN, device=device) * 255 / std).view(1, 3, 1, 1)
        channels_last = cfg.precision.memory_format == "channels_last"
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def inputs(self, batch: Batch) -> Tensor:
        images = batch.images_B3HW.to(self.device, non_blocking=True).contiguous(memory_format=self._format)
        return torch.addcmul(self._shift, images.float(), self._scale)


class Detection(_Inputs):
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

    def draws(self, epoch: int, step: int) -> Sequence[float]:
        return ()

    def training_inputs(
        self, batch: Batch, targets: Targets, draws: Sequence[float | Tensor]
    ) -> tuple[Tensor, Targets]:
        return self.inputs(batch), targets

    def scorer(self, index: CocoIndex) -> "DetectionScorer":
        return DetectionScorer(self, index)

    def detect(self, outputs: tuple[Tensor, Tensor] | ops.Found) -> list[ops.Detections]:
        """Return each image's detections in input pixels, on the CPU; waits for the device."""
        if isinstance(outputs, ops.Found):  # an exported network that detects by itself
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
        )
        return found.images()


def to_file_pixels(found: ops.Detections, scale_2: Tensor, size_2: Tensor) -> Tensor:
    """Return boxes_K4 in pixels of the image file, clipped to it; `scale_2` is input pixels per file pixel, x and y."""
    scale, size = scale_2.cpu().float(), size_2.cpu().float()
    return (found.boxes_K4 / scale.repeat(2)).clamp(min=0).minimum(size.repeat(2))


class DetectionScorer:
    """COCO's average precision; every image of the split counts, found or not."""

    def __init__(self, task: Detection, index: CocoIndex) -> None:
        self.task, self.index = task, index
        self.found: list[Detections] = []
        """What was found so far, an item an image."""
        # class loss, box loss, positives
        self._sums = torch.zeros(3, dtype=torch.float64, device=task.device)

    def add(self, outputs: tuple[Tensor, Tensor] | ops.Found, batch: Batch) -> None:
        assert batch.scale_B2 is not None and batch.size_B2 is not None
        if isinstance(outputs, ops.Found):
            self._sums[:2] = math.nan  # no logits, no loss
        else:
            targets = self.task.targets(batch)
            self._sums[:2] += torch.stack(losses.detection_loss(*outputs, targets, self.task.cfg.loss)).double()
            self._sums[2] += targets.positives_B.sum()
        rows = batch.rows_B.tolist()
        for row, one, scale, size in zip(rows, self.task.detect(outputs), batch.scale_B2, batch.size_B2, strict=True):
            xyxy_K4 = to_file_pixels(one, scale, size).double().numpy()
            found = Detections(
                image_ids=np.full(len(xyxy_K4), self.index.ids[row]),
                boxes_xywh=np.concatenate([xyxy_K4[:, :2], xyxy_K4[:, 2:] - xyxy_K4[:, :2]], axis=1),
                labels=one.classes_K.numpy(),
                scores=one.scores_K.double().numpy(),
            )
            self.found.append(found)

    def result(self, peers: Peers) -> dict[str, float]:
        """Return COCO's twelve figures, AP per class as `AP/<name>`, and eval_loss (NaN where there were no logits)."""
        class_loss, box_loss, positives = peers.sum_(self._sums.clone()).tolist()
        everyone = concatenated(peers.gather(concatenated(self.found)))
        figures: dict[str, float] = {}
        if peers.rank == 0:
            scored = average_precision(truth_of(self.index), everyone, self.task.cfg.evaluation.backend)
            figures = scored.figures | {f"AP/{name}": ap for name, ap in scored.per_class.items() if not math.isnan(ap)}
        weighted = class_loss + self.task.cfg.loss.box_weight * box_loss
        return {"eval_loss": weighted / (positives + 1), **peers.share(figures)}


def concatenated(parts: Sequence[Detections]) -> Detections:
    """Return the parts as one."""
    parts = [Detections(), *parts]
    # In order of image: what is best among equal scores must not depend on how the split was shared out.
    whole = Detections(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Detections)))
    order = np.argsort(whole.image_ids, kind="stable")
    return Detections(*(getattr(whole, f.name)[order] for f in dataclasses.fields(Detections)))


def truth_of(index: CocoIndex) -> Truth:
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


class Classification(_Inputs):
    """EfficientNet: smoothed cross entropy, top-1 and top-5 accuracy."""

    score: str = "top1"
    loss_names: tuple[str, ...] = ("loss",)

    def __init__(self, cfg: Config, model: nn.Module, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.num_classes = cast("Classifying", model).num_classes

    def targets(self, batch: Batch) -> Tensor:
        assert batch.labels_B is not None
        return losses.one_hot(batch.labels_B.to(self.device, non_blocking=True), self.num_classes)

    def weight(self, targets: Tensor) -> Tensor:
        return torch.full((), targets.shape[0], dtype=torch.float64, device=self.device)

    def loss(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        total = losses.classification_loss(outputs, targets, self.cfg.loss.label_smoothing)
        return (total / weight.float()).reshape(1)

    def draws(self, epoch: int, step: int) -> Sequence[float]:
        alpha = self.cfg.augment.mixup
        return () if alpha == 0 else (mixup_weight(self.cfg.run.seed, epoch, step, alpha),)

    def training_inputs(self, batch: Batch, targets: Tensor, draws: Sequence[float | Tensor]) -> tuple[Tensor, Tensor]:
        images = self.inputs(batch)
        return mixup(images, targets, *draws) if draws else (images, targets)

    def scorer(self, index: FolderIndex) -> "ClassificationScorer":
        return ClassificationScorer(self)


class ClassificationScorer:
    """Share of images whose class is the network's first guess, and among its first five."""

    def __init__(self, task: Classification) -> None:
        # right at 1, right at 5, cross entropy (without smoothing), images
        self._sums = torch.zeros(4, dtype=torch.float64, device=task.device)
        self._num_classes = task.num_classes

    def add(self, outputs: Tensor, batch: Batch) -> None:
        assert batch.labels_B is not None
        labels_B = batch.labels_B.to(outputs.device)
        self._sums[:2] += topk_accuracy(outputs, labels_B).double()
        self._sums[2] += losses.classification_loss(outputs, losses.one_hot(labels_B, self._num_classes), 0.0)
        self._sums[3] += len(labels_B)

    def result(self, peers: Peers) -> dict[str, float]:
        """Return top1 and top5 (shares, 0 to 1) and eval_loss."""
        top1, top5, loss, images = peers.sum_(self._sums.clone()).tolist()
        return {"eval_loss": loss / images, "top1": top1 / images, "top5": top5 / images}


def score_name(cfg: Config) -> str:
    """Return the name of the metric that decides which checkpoint is best."""
    return (Detection if cfg.task == "detection" else Classification).score


def make_task(cfg: Config, model: nn.Module, device: torch.device) -> Detection | Classification:
    """Return the task that the model of `cfg` is for."""
    return (Detection if cfg.task == "detection" else Classification)(cfg, model, device)
