"""Boxes as numbers: centres, sizes, and codes against anchors.

Boxes are xyxy in pixels. A code is (tx, ty, tw, th) = ((x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha)) with
centres x, y and sizes w, h of box and anchor (Faster R-CNN, arXiv:1506.01497, eq. 2), without variances.
"""

import torch
from torch import Tensor

_EPS = 1e-8  # keeps the log of an empty box finite, as in TensorFlow's box coder


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
