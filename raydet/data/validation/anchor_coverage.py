"""How well a detector's anchors fit a data set's boxes: a box that no anchor meets by half is hardly ever learnt.

RetinaNet's assignment (arXiv:1708.02002, section 4) wants an IoU of 0.5; EfficientDet inherits it. A box below that is
still given its best anchor, one positive where others get dozens.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raydet.config import Config
from raydet.data.formats.index import DetectionIndex
from raydet.models import MODELS
from raydet.models.anchors import ASPECTS, SCALES
from raydet.models.efficientdet_variants import EfficientDetVariant

Floats = npt.NDArray[np.float64]

_MOST_AT_THE_DOOR = 2000
"""Boxes that are measured when a run starts: some 50 ms, and the share to 1 %."""
_TINY = 16
"""Pixels of the input; the smallest anchor of D0 has 32."""


def best_iou(boxes_N4: Floats, image_size: int, variant: EfficientDetVariant) -> Floats:
    """Return each box's IoU with its best anchor; exact.

    Of all anchors of one shape the one centred nearest to the box is the best: their overlap along an axis never grows
    with the distance of the centres.

    Args:
        boxes_N4: xyxy in pixels of the input, within it.
    """
    side_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
    best_N = np.zeros(len(boxes_N4))
    for level in range(variant.min_level, variant.max_level + 1):
        stride = float(1 << level)
        last = (image_size >> level) - 1
        cell_N2 = np.floor((boxes_N4[:, :2] + side_N2 / 2) / stride).clip(0, last)
        centre_N2 = (cell_N2 + 0.5) * stride
        for i in range(SCALES):
            for aspect in ASPECTS:
                anchor_2 = np.array(aspect) * variant.anchor_scale * stride * 2 ** (i / SCALES)
                low_N2 = np.maximum(boxes_N4[:, :2], centre_N2 - anchor_2 / 2)
                high_N2 = np.minimum(boxes_N4[:, 2:], centre_N2 + anchor_2 / 2)
                both_N = (high_N2 - low_N2).clip(0).prod(axis=1)
                best_N = np.maximum(best_N, both_N / (side_N2.prod(axis=1) + anchor_2.prod() - both_N))
    return best_N


def coverage(
    cfg: Config, boxes_N4: Floats, sizes_N2: Floats, most: int = 100_000
) -> tuple[dict[int, Floats], list[str]]:
    """Return the best IoU of boxes by input size (model.image_size, and some larger), and advice.

    Args:
        boxes_N4: x, y, width, height in pixels of the file; of more than `most`, so many are drawn.
        sizes_N2: height and width of each box's image.
    """
    variant = MODELS[cfg.model.name]
    assert isinstance(variant, EfficientDetVariant) and cfg.model.image_size is not None
    if cfg.model.anchor_scale is not None:
        variant = replace(variant, anchor_scale=cfg.model.anchor_scale)
    if len(boxes_N4) > most:
        drawn = np.random.default_rng(0).choice(len(boxes_N4), most, replace=False)
        boxes_N4, sizes_N2 = boxes_N4[drawn], sizes_N2[drawn]
    chosen, multiple = cfg.model.image_size, 1 << variant.max_level
    sizes = sorted({chosen, *(multiple * round(chosen * factor / multiple) for factor in (1.5, 2.0))})
    resized = {size: at_input(boxes_N4, sizes_N2, size) for size in sizes}
    found = {size: best_iou(resized[size], size, variant) for size in sizes}
    if _share(found[chosen]) >= 0.95:
        return found, []
    scales = {
        scale: _share(best_iou(resized[chosen], chosen, replace(variant, anchor_scale=scale)))
        for scale in (variant.anchor_scale * factor for factor in (0.75, 0.5, 0.375))
    }
    return found, [_advice(found, chosen, scales, resized[chosen])]


def unmatched(cfg: Config, index: DetectionIndex) -> str | None:
    """Return what to say where many of a split's boxes have no anchor; None: few, or no detector."""
    rows = np.flatnonzero(~index.crowd & (index.boxes[:, 2:] > 0).all(axis=1))
    if cfg.task != "detection" or cfg.model.image_size is None or not len(rows):
        return None
    if len(rows) > _MOST_AT_THE_DOOR:
        rows = np.random.default_rng(0).choice(rows, _MOST_AT_THE_DOOR, replace=False)
    image_N = np.searchsorted(index.first, rows, side="right") - 1
    _, advice = coverage(cfg, index.boxes[rows], index.sizes[image_N].astype(np.float64))
    return advice[0] if advice else None


def at_input(boxes_N4: Floats, sizes_N2: Floats, image_size: int) -> Floats:
    """Return boxes, x, y, width, height in the file, as xyxy at the letterboxed input, clipped to the image."""
    xyxy_N4 = np.concatenate([boxes_N4[:, :2], boxes_N4[:, :2] + boxes_N4[:, 2:]], axis=1)
    clipped_N4 = xyxy_N4.clip(0, sizes_N2[:, [1, 0, 1, 0]])
    scaled: Floats = clipped_N4 * (image_size / sizes_N2.max(axis=1, keepdims=True))
    return scaled


def _share(iou_N: Floats) -> float:
    """Return the share of boxes that have an anchor."""
    return float((iou_N >= 0.5).mean()) if len(iou_N) else 1.0


def _advice(found: dict[int, Floats], chosen: int, scales: dict[float, float], boxes_N4: Floats) -> str:
    share = {size: _share(iou_N) for size, iou_N in found.items()}
    enough = share[chosen] + 0.03
    summary = f"{1 - share[chosen]:.0%} of the boxes have no anchor with an IoU of 0.5 at model.image_size={chosen}"
    size = next((size for size in sorted(share) if share[size] >= enough), None)
    scale = max(scales, key=lambda scale: scales[scale])
    ways = []
    if size is not None:
        ways.append((f"{1 - share[size]:.0%} at {size}", "a larger input"))
    if scales[scale] >= enough:
        ways.append((f"{1 - scales[scale]:.0%} with model.anchor_scale={scale:g}", "smaller anchors"))
    if ways:
        then, needs = zip(*ways, strict=True)
        return f"{summary}; it would be {' or '.join(then)}: small boxes need {' or '.join(needs)}"
    missed_K2 = (boxes_N4[:, 2:] - boxes_N4[:, :2])[found[chosen] < 0.5]
    if np.median(missed_K2.max(axis=1)) < _TINY:
        return f"{summary}: these are smaller than {_TINY} pixels there, and no input of twice the side is enough"
    return f"{summary}, and a larger input hardly changes that: very long, or very large boxes"
