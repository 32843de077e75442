"""Anchors, and which of them answer for which box: targets for a whole batch at once, on any device.

RetinaNet's scheme (arXiv:1708.02002, section 4) as TensorFlow's and effdet's EfficientDet have it: an anchor belongs to
the box it overlaps most if their IoU reaches a threshold; besides, each box gets its best anchor. The IoU matrix of
anchors and boxes never exists: boxes are visited one after the other, all images and anchors at a time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from raydet.boxes import encode

SCALES = 3
"""Anchor sizes per octave: 2^(0/3), 2^(1/3), 2^(2/3)."""
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height factors of anchors."""


class Targets(NamedTuple):
    """What the network should say of a batch. A code of a background anchor is 0 and means nothing."""

    labels_BA: Tensor
    """int64: class, or -1 for background."""
    codes_BA4: Tensor
    """float32 codes of the boxes that anchors answer for."""
    positives_B: Tensor
    """int64: anchors with a class, per image."""


def make_anchors(image_hw: tuple[int, int], min_level: int, max_level: int, anchor_scale: float) -> Tensor:
    """Return anchors_A4 float32, xyxy in input pixels, in order level, row, column, scale, aspect.

    Args:
        image_hw: height and width, multiples of 2^max_level.
        anchor_scale: side of the smallest square anchor, in strides.

    Raises:
        ValueError: a side that the coarsest level does not divide.
    """
    coarsest = 1 << max_level
    if image_hw[0] % coarsest or image_hw[1] % coarsest:
        raise ValueError(f"image size {image_hw} must be a multiple of {coarsest} (level P{max_level})")
    levels = []
    for level in range(min_level, max_level + 1):
        stride = float(1 << level)
        sizes = torch.tensor(
            [
                [anchor_scale * stride * 2 ** (i / SCALES) * side for side in aspect]
                for i in range(SCALES)
                for aspect in ASPECTS
            ],
            dtype=torch.float64,
        )
        y = torch.arange(stride / 2, image_hw[0], stride, dtype=torch.float64)
        x = torch.arange(stride / 2, image_hw[1], stride, dtype=torch.float64)
        centre_HW2 = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
        low, high = (centre_HW2.unsqueeze(2) + sign * sizes / 2 for sign in (-1, 1))
        levels.append(torch.cat([low, high], dim=-1).reshape(-1, 4))
    return torch.cat(levels).float()


def assign(
    anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, match_iou: float = 0.5, distinct: bool = False
) -> Targets:
    """Return the targets of a batch.

    Args:
        boxes_BM4: float32 xyxy in input pixels; rows whose class is negative are padding.
        classes_BM: int64; a class, or negative for padding.
        match_iou: least IoU at which an anchor takes the box it overlaps most; ties go to the earlier box.
        distinct: what happens where two boxes share their best anchor. False: the earlier box has it and the other may
            go without, as in TensorFlow's. True: boxes choose in turn among the anchors that no earlier one was given.
    """
    B, M = classes_BM.shape
    A = anchors_A4.shape[0]
    boxes_BM4 = boxes_BM4.to(anchors_A4.dtype)
    best_iou_BA = anchors_A4.new_zeros(B, A)
    owner_BA = torch.full((B, A), -1, dtype=torch.int64, device=anchors_A4.device)
    forced_BA = torch.full_like(owner_BA, M)
    area_A = (anchors_A4[:, 2] - anchors_A4[:, 0]) * (anchors_A4[:, 3] - anchors_A4[:, 1])
    for m in range(M):
        iou_BA = _iou(anchors_A4, area_A, boxes_BM4[:, m]).masked_fill(classes_BM[:, m : m + 1] < 0, 0.0)
        better_BA = iou_BA > best_iou_BA
        best_iou_BA = torch.where(better_BA, iou_BA, best_iou_BA)
        owner_BA = owner_BA.masked_fill(better_BA, m)
        free_BA = iou_BA.masked_fill(forced_BA < M, 0.0) if distinct else iou_BA
        top_B1, anchor_B1 = free_BA.max(dim=1, keepdim=True)
        taken_B1 = forced_BA.gather(1, anchor_B1)
        forced_BA.scatter_(1, anchor_B1, torch.where(top_B1 > 0, taken_B1.clamp(max=m), taken_B1))
    owner_BA = torch.where(forced_BA < M, forced_BA, owner_BA.masked_fill(best_iou_BA < match_iou, -1))
    return _targets(anchors_A4, boxes_BM4, classes_BM, owner_BA)


def _targets(anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, owner_BA: Tensor) -> Targets:
    positive_BA = owner_BA >= 0
    if classes_BM.shape[1] == 0:  # not one box in the batch: nothing to gather from
        return Targets(owner_BA, anchors_A4.new_zeros(*owner_BA.shape, 4), positive_BA.sum(dim=1))
    index_BA = owner_BA.clamp(min=0)
    labels_BA = classes_BM.gather(1, index_BA).masked_fill(~positive_BA, -1)
    matched_BA4 = boxes_BM4.gather(1, index_BA.unsqueeze(2).expand(-1, -1, 4))
    matched_BA4 = torch.where(positive_BA.unsqueeze(2), matched_BA4, anchors_A4)  # a code of 0, and no log of padding
    return Targets(labels_BA, encode(matched_BA4, anchors_A4), positive_BA.sum(dim=1))


def _iou(anchors_A4: Tensor, area_A: Tensor, boxes_B4: Tensor) -> Tensor:
    """IoU [B, A] of one box per image with all anchors; 0 for empty boxes."""
    x1, y1, x2, y2 = boxes_B4.unsqueeze(2).unbind(1)
    width = torch.minimum(anchors_A4[:, 2], x2).sub_(torch.maximum(anchors_A4[:, 0], x1)).clamp_(min=0)
    height = torch.minimum(anchors_A4[:, 3], y2).sub_(torch.maximum(anchors_A4[:, 1], y1)).clamp_(min=0)
    common = width.mul_(height)
    union = (area_A + (x2 - x1) * (y2 - y1)).sub_(common)
    return common.div_(union.clamp_(min=1e-12))
