"""Boxes as numbers: overlap, codes against anchors, and the way from a network's output to detections.

Boxes are xyxy in pixels. A code is (tx, ty, tw, th) = ((x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha)) with
centres x, y and sizes w, h of box and anchor (Faster R-CNN, arXiv:1506.01497, eq. 2), without variances.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

_EPS = 1e-8  # keeps the log of an empty box finite, as in TensorFlow's box coder


class Detections(NamedTuple):
    """What was found in one image, the best score first."""

    boxes_K4: Tensor
    scores_K: Tensor
    classes_K: Tensor


def to_centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return (centres xy, sizes wh) of boxes [..., 4]."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the codes of boxes [..., 4] against anchors of a shape that broadcasts with them."""
    centre, size = to_centres(boxes)
    anchor_centre, anchor_size = to_centres(anchors)
    anchor_size = anchor_size + _EPS
    return torch.cat([(centre - anchor_centre) / anchor_size, ((size + _EPS) / anchor_size).log()], dim=-1)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes [..., 4] that `codes` stand for; the inverse of `encode`."""
    anchor_centre, anchor_size = to_centres(anchors)
    centre = codes[..., :2] * anchor_size + anchor_centre
    half = codes[..., 2:].exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def detect(
    logits_BAC: Tensor,
    codes_BA4: Tensor,
    anchors_A4: Tensor,
    *,
    top_k: int,
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
) -> list[Detections]:
    """Return each image's detections, in input pixels and not clipped.

    The `top_k` best (anchor, class) pairs of an image above `score_threshold` are decoded; non-maximum suppression runs
    per class; the `max_detections` best are kept. Equals effdet's post-processing but for the threshold.
    """
    lowest = math.log(score_threshold / (1 - score_threshold)) if 0 < score_threshold < 1 else -math.inf
    found = []
    for logits_AC, codes_A4 in zip(logits_BAC, codes_BA4, strict=True):
        flat = logits_AC.reshape(-1)
        # Few logits of a trained network pass: sorting only those is what makes this cheap (20 % of inference before).
        passing = (flat > lowest).nonzero().squeeze(1)
        pair = passing[flat[passing].topk(min(top_k, passing.numel()), sorted=False).indices.sort().values]
        best, order = flat[pair].sort(descending=True, stable=True)  # of equal scores the first anchor is first
        pair = pair[order]
        anchor, classes = pair // logits_AC.shape[1], pair % logits_AC.shape[1]
        boxes = decode(codes_A4[anchor].float(), anchors_A4[anchor])
        scores = best.float().sigmoid()
        kept = nms(_apart(boxes, classes), scores.double(), nms_iou)[:max_detections]
        found.append(Detections(boxes[kept], scores[kept], classes[kept]))
    return found


def _apart(boxes_K4: Tensor, classes_K: Tensor) -> Tensor:
    """Return the boxes moved so far apart by class that those of two classes never overlap.

    torchvision's batched_nms does this from 0 and in float32: boxes that reach out of the picture to the left then meet
    those of the class before, and with many classes the coordinates lose their fractions.
    """
    if boxes_K4.shape[0] == 0:
        return boxes_K4.double()
    boxes_K4 = boxes_K4.double() - boxes_K4.min()
    return boxes_K4 + (classes_K * (boxes_K4.max() + 1)).unsqueeze(1)
