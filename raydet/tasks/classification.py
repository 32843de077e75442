"""Classification: inputs, loss, top-1 and top-5."""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from raydet.config import Config
from raydet.data import Batch, ClassificationIndex
from raydet.data.images.color import mixup, mixup_weight
from raydet.distributed import WorkerGroup
from raydet.tasks import losses
from raydet.tasks.base import ImageInputs
from raydet.tasks.metrics import topk_accuracy


class Classifying(Protocol):
    """What a classifier tells of itself."""

    num_classes: int


class Classification(ImageInputs):
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

    def random_numbers(self, epoch: int, step: int) -> Sequence[float]:
        alpha = self.cfg.augment.mixup
        return () if alpha == 0 else (mixup_weight(self.cfg.run.seed, epoch, step, alpha),)

    def training_inputs(self, batch: Batch, targets: Tensor, random: Sequence[float | Tensor]) -> tuple[Tensor, Tensor]:
        images = self.inputs(batch)
        return mixup(images, targets, *random) if random else (images, targets)

    def scorer(self, index: ClassificationIndex) -> "ClassificationScorer":
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

    def result(self, workers: WorkerGroup) -> dict[str, float]:
        """Return top1 and top5 (shares, 0 to 1) and eval_loss."""
        top1, top5, loss, images = workers.sum_(self._sums.clone()).tolist()
        return {"eval_loss": loss / images, "top1": top1 / images, "top5": top5 / images}
