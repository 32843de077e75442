"""How far a box may leave its image, and which checks hold for boxes of every format."""

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Floats

MAX_LEAVING = 0.2
"""Share of boxes that may leave their image before the file is taken for xyxy (COCO itself: under 0.001)."""
Sizes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def beyond(xywh: Floats, hw: Sizes) -> Mask:
    """Return which boxes leave their image, whose height and width stand in the same row."""
    leaving: Mask = np.zeros(len(xywh), bool)
    for axis in (0, 1):
        limit = hw[:, 1 - axis].astype(np.float64)
        slack = 1 + 0.01 * limit  # COCO's own boxes leave by fractions of a pixel
        leaving |= xywh[:, axis] < -slack
        leaving |= xywh[:, axis] + xywh[:, 2 + axis] > limit + slack
    return leaving
