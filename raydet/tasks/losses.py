"""What training minimises, as sums over a batch: whoever calls divides, since what to divide by spans all workers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raydet.config import Loss
from raydet.ops import Targets, focal_loss


def detection_loss(logits_BAC: Tensor, codes_BA4: Tensor, targets: Targets, cfg: Loss) -> tuple[Tensor, Tensor]:
    """Return (class loss, box loss) summed over anchors, float32; divide both by the positives of the global batch.

    The box loss counts the codes of positives that are not exactly 0, and a code counts a quarter, as in TensorFlow's
    and effdet's. Its weight `box_weight` is not applied yet.
    """
    classes = focal_loss(logits_BAC, targets.labels_BA, cfg.alpha, cfg.gamma, cfg.label_smoothing)
    counted = targets.codes_BA4 != 0
    huber = F.huber_loss(codes_BA4.float(), targets.codes_BA4, reduction="none", delta=cfg.delta)
    return classes, (huber * counted).sum() / 4


def classification_loss(logits_BC: Tensor, targets_BC: Tensor, label_smoothing: float) -> Tensor:
    """Return the cross entropy against class probabilities (mixed up or one-hot), summed over the batch, float32."""
    return F.cross_entropy(logits_BC.float(), targets_BC, label_smoothing=label_smoothing, reduction="sum")


def one_hot(labels_B: Tensor, num_classes: int) -> Tensor:
    """Return class probabilities_BC, float32, 1 at the label."""
    # F.one_hot may ask the device for the largest label.
    return (labels_B.unsqueeze(1) == torch.arange(num_classes, device=labels_B.device)).to(torch.float32)
