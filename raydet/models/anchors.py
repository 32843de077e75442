"""Anchors: the boxes that a detector's predictions are relative to, a grid of them at each level of its pyramid.

Sizes and shapes are RetinaNet's (arXiv:1708.02002, section 4) as TensorFlow's and effdet's EfficientDet have them.
Which of them answer for which box of a batch is raydet.ops.assignment.
"""

import torch
from torch import Tensor

SCALES = 3
"""Anchor sizes per octave: 2^(0/3), 2^(1/3), 2^(2/3)."""
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height factors of anchors."""


def grid_cells(image_hw: tuple[int, int], min_level: int, max_level: int) -> list[tuple[int, int]]:
    """Return (rows, columns) of each level, the finest first.

    Args:
        image_hw: height and width, multiples of 2^max_level.

    Raises:
        ValueError: a side that the coarsest level does not divide.
    """
    coarsest = 1 << max_level
    if image_hw[0] % coarsest or image_hw[1] % coarsest:
        raise ValueError(f"image size {image_hw} must be a multiple of {coarsest} (level P{max_level})")
    return [(image_hw[0] >> level, image_hw[1] >> level) for level in range(min_level, max_level + 1)]


def make_anchors(image_hw: tuple[int, int], min_level: int, max_level: int, anchor_scale: float) -> Tensor:
    """Return anchors_A4 float32, xyxy in input pixels, in order level, row, column, scale, aspect.

    Args:
        image_hw: height and width, multiples of 2^max_level.
        anchor_scale: side of the smallest square anchor, in strides.

    Raises:
        ValueError: a side that the coarsest level does not divide.
    """
    levels = []
    for level, (rows, columns) in enumerate(grid_cells(image_hw, min_level, max_level), min_level):
        stride = float(1 << level)
        sizes = torch.tensor(
            [
                [anchor_scale * stride * 2 ** (i / SCALES) * side for side in aspect]
                for i in range(SCALES)
                for aspect in ASPECTS
            ],
            dtype=torch.float64,
        )
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) * stride
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) * stride
        centre_HW2 = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
        low, high = (centre_HW2.unsqueeze(2) + sign * sizes / 2 for sign in (-1, 1))
        levels.append(torch.cat([low, high], dim=-1).reshape(-1, 4))
    return torch.cat(levels).float()
