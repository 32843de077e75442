"""Non-maximum suppression of a whole batch, class by class, greedy or soft; nothing waits for the device.

Greedy: from the best score down, a candidate is kept unless a kept one of its class overlaps it by more than the
threshold. Overlap is float32 intersection over union as torchvision computes it, so that decisions equal
`torchvision.ops.nms` on each class alone; classes are compared, not moved apart, which rounds the boxes.
Soft (Bodla et al. 2017, arXiv:1704.04503, gaussian): the candidate with the highest score is kept, and the scores of
its class fall by exp(-overlap^2 / sigma); then again. Nothing is dropped but what falls to `min_score` or below.

On a CPU the sorted candidates are taken in windows, all images at once, until every image is full. Given up there: soft
suppression passes over all candidates for each one it keeps.
"""

import math

import numpy as np
import torch
from torch import Tensor

from raydet.ops import raw

# Candidates tested against the kept, and of those left among themselves. 5000 of 8 images as of a trained D0: 9.4 ms;
# with 256 or 1024 and 128: 9.2, 14; with 512 and 64 or 160: 11, 14 (Xeon, 1 thread, torch 2.15, n = 7, 2026-11-22).
_WINDOW, _AT_ONCE = 512, 128
_GREEDY_BLOCK, _SOFT_BLOCK = (256,), (512,)

_GREEDY = raw.Kernel(
    "nms.cu",
    "nms_greedy",
    {
        "boxes": torch.float32,
        "classes": torch.int64,
        "ranked_scores": torch.float32,
        "order": torch.int64,
        "keep": torch.int64,
        "kept_scores": torch.float32,
        "counts": torch.int64,
        "candidates": "int64",
        "most": "int64",
        "threshold": "float32",
        "min_score": "float32",
    },
    (("BLOCK", str(_GREEDY_BLOCK[0])),),
)
_SOFT = raw.Kernel(
    "nms.cu",
    "nms_soft",
    {
        "boxes": torch.float32,
        "classes": torch.int64,
        "scores": torch.float32,
        "left": torch.float32,
        "keep": torch.int64,
        "kept_scores": torch.float32,
        "counts": torch.int64,
        "candidates": "int64",
        "most": "int64",
        "sigma": "float32",
        "min_score": "float32",
    },
    (("BLOCK", str(_SOFT_BLOCK[0])),),
)


Found = tuple[Tensor, Tensor, Tensor]


def kernels() -> list[raw.Kernel]:
    """Return all kernels of this file, as they are launched."""
    return [_GREEDY, _SOFT]


def batched_nms(
    boxes_BK4: Tensor,
    scores_BK: Tensor,
    classes_BK: Tensor,
    iou_threshold: float,
    max_detections: int,
    soft_sigma: float | None = None,
    min_score: float = 0.0,
) -> Found:
    """Return (keep_BD, scores_BD, counts_B): each image's kept candidates, the best first, D = max_detections.

    keep is int64, an index into K, or -1 behind the last; scores float32, 0 behind the last; counts int64. A candidate
    takes part if its score is above `min_score` in float32: not if equal, never if NaN; so rows can be padded with 0.
    Candidates come in any order; of equal scores the lower index counts as better. A box of NaN, of infinite or of no
    area overlaps nothing. Not differentiable.

    Args:
        boxes_BK4: float32, xyxy.
        scores_BK: float32.
        classes_BK: int64, any values; only those that are equal meet.
        iou_threshold: 0 to 1; an overlap above it suppresses. Soft suppression does not use it.
        max_detections: at least 1.
        soft_sigma: width of the gaussian, above 0; the scores returned have fallen with it. None: greedy.
        min_score: 0 to 1.

    Raises:
        TypeError, ValueError: an argument is not as above; names it.
    """
    _check_tensors(boxes_BK4, scores_BK, classes_BK)
    _check_numbers(iou_threshold, max_detections, soft_sigma, min_score)
    keep_BD, kept_scores_BD, counts_B = _batched_nms(
        boxes_BK4, scores_BK, classes_BK, float(iou_threshold), max_detections, soft_sigma, float(min_score)
    )
    return keep_BD, kept_scores_BD, counts_B


def _check_tensors(boxes_BK4: Tensor, scores_BK: Tensor, classes_BK: Tensor) -> None:
    if boxes_BK4.ndim != 3 or boxes_BK4.shape[2] != 4:
        raise ValueError(f"boxes_BK4 must be [images, candidates, 4], got {list(boxes_BK4.shape)}")
    for name, tensor, dtype in (
        ("boxes_BK4", boxes_BK4, torch.float32),
        ("scores_BK", scores_BK, torch.float32),
        ("classes_BK", classes_BK, torch.int64),
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}; convert it with .to({dtype})")
        if tensor.shape[:2] != boxes_BK4.shape[:2] or (tensor is not boxes_BK4 and tensor.ndim != 2):
            raise ValueError(f"{name} must be {list(boxes_BK4.shape[:2])} as boxes_BK4 is, got {list(tensor.shape)}")
        if tensor.device != boxes_BK4.device:
            raise ValueError(f"{name} is on {tensor.device}, boxes_BK4 on {boxes_BK4.device}; move it there with .to()")


def _check_numbers(iou_threshold: float, max_detections: int, soft_sigma: float | None, min_score: float) -> None:
    for name, value in (("iou_threshold", iou_threshold), ("min_score", min_score)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    if soft_sigma is not None and not 0 < soft_sigma < math.inf:
        raise ValueError(f"soft_sigma must be above 0, or None for greedy suppression, got {soft_sigma}")


@torch.library.custom_op("raydet::batched_nms", mutates_args=())
def _batched_nms(
    boxes_BK4: Tensor,
    scores_BK: Tensor,
    classes_BK: Tensor,
    iou_threshold: float,
    max_detections: int,
    soft_sigma: float | None,
    min_score: float,
) -> tuple[Tensor, Tensor, Tensor]:
    threshold = _floor(iou_threshold)
    if raw.runs_kernel(boxes_BK4, "boxes_BK4") and len(boxes_BK4):
        return _launched(boxes_BK4, scores_BK, classes_BK, threshold, max_detections, soft_sigma, min_score)
    if soft_sigma is not None:
        return _soft(boxes_BK4, scores_BK, classes_BK, max_detections, soft_sigma, min_score)
    return _greedy(boxes_BK4, scores_BK, classes_BK, threshold, max_detections, min_score)


@_batched_nms.register_fake
def _(boxes_BK4: Tensor, scores_BK: Tensor, classes_BK: Tensor, _: float, most: int, *__: float | None) -> Found:
    return _nothing_found(boxes_BK4, most)


def _nothing_found(boxes_BK4: Tensor, most: int) -> Found:
    shape = (boxes_BK4.shape[0], most)
    keep_BD = boxes_BK4.new_full(shape, -1, dtype=torch.int64)
    return keep_BD, boxes_BK4.new_zeros(shape), boxes_BK4.new_zeros(shape[0], dtype=torch.int64)


def _floor(value: float) -> float:
    """Return the largest float32 up to `value`: `>` then decides as in torchvision, which compares with a float64."""
    nearest = float(np.float32(value))  # NumPy would compare its own float32 with a float as two float32
    return float(np.nextafter(np.float32(value), np.float32(-1))) if nearest > value else nearest


def _ranked(scores_BK: Tensor, min_score: float) -> tuple[Tensor, Tensor]:
    """Return the scores from the best down and their indices; those that take no part come last, as -inf."""
    parts_BK = torch.where(scores_BK > min_score, scores_BK, -math.inf)
    ranked_BK, order_BK = parts_BK.sort(dim=1, descending=True, stable=True)
    return ranked_BK, order_BK


def _launched(
    boxes_BK4: Tensor,
    scores_BK: Tensor,
    classes_BK: Tensor,
    threshold: float,
    most: int,
    sigma: float | None,
    min_score: float,
) -> Found:
    images, candidates = scores_BK.shape
    boxes_BK4, classes_BK = raw.aligned(boxes_BK4), raw.aligned(classes_BK)
    keep_BD = boxes_BK4.new_empty((images, most), dtype=torch.int64)
    kept_scores_BD = boxes_BK4.new_empty((images, most))
    counts_B = boxes_BK4.new_empty(images, dtype=torch.int64)
    found = (keep_BD, kept_scores_BD, counts_B)
    if sigma is None:
        ranked_BK, order_BK = (raw.aligned(t) for t in _ranked(scores_BK, min_score))
        ranked = (ranked_BK, order_BK, *found, candidates, most, threshold, min_score)
        _GREEDY((images,), _GREEDY_BLOCK, boxes_BK4, classes_BK, *ranked)
    else:
        scores_BK = raw.aligned(scores_BK)
        rest = (scores_BK, torch.empty_like(scores_BK), *found, candidates, most, sigma, min_score)
        _SOFT((images,), _SOFT_BLOCK, boxes_BK4, classes_BK, *rest)
    return found


def _greedy(
    boxes_BK4: Tensor, scores_BK: Tensor, classes_BK: Tensor, threshold: float, most: int, min_score: float
) -> Found:
    ranked_BK, order_BK = _ranked(scores_BK, min_score)
    taking_part_B = (ranked_BK > min_score).sum(1)
    keep_BD, kept_scores_BD, counts_B = _nothing_found(boxes_BK4, most)
    kept_boxes_BD4 = boxes_BK4.new_full((*keep_BD.shape, 4), math.nan)  # overlaps nothing: stands for none
    kept_classes_BD, next_B = torch.zeros_like(keep_BD), torch.zeros_like(counts_B)
    offset_W = torch.arange(_WINDOW, device=boxes_BK4.device)
    while True:
        # N images that are neither full nor at their end, the next W candidates of each.
        image_N1 = ((counts_B < most) & (next_B < taking_part_B)).nonzero()
        if not len(image_N1):
            return keep_BD, kept_scores_BD, counts_B
        image_N = image_N1.squeeze(1)
        rank_NW = next_B[image_N1] + offset_W
        free_NW = rank_NW < taking_part_B[image_N1]
        index_NW = order_BK[image_N1, rank_NW.clamp_(max=order_BK.shape[1] - 1)]
        longest = int(counts_B[image_N].max())
        if longest:
            kept_N = (kept_boxes_BD4[image_N, :longest], kept_classes_BD[image_N, :longest])
            window_N = (boxes_BK4[image_N1, index_NW], classes_BK[image_N1, index_NW])
            free_NW &= ~_suppresses(*kept_N, *window_N, threshold).any(1)
        # Of those left the first S, which settle what happens among themselves. The next window starts behind them.
        left_N1 = free_NW.sum(1, keepdim=True)
        place_NS = free_NW.byte().argsort(dim=1, descending=True, stable=True)[:, : min(_AT_ONCE, int(left_N1.max()))]
        passed_N1 = place_NS[:, -1:] + 1 if place_NS.shape[1] else left_N1
        next_B[image_N1] += torch.where(left_N1 > place_NS.shape[1], passed_N1, _WINDOW)
        index_NS = index_NW.gather(1, place_NS)
        boxes_NS4, classes_NS = boxes_BK4[image_N1, index_NS], classes_BK[image_N1, index_NS]
        picks_NS = _picks(boxes_NS4, classes_NS, free_NW.gather(1, place_NS), threshold)
        rank_NS = counts_B[image_N1] + picks_NS.cumsum(1) - 1
        picks_NS &= rank_NS < most
        at = (image_N1.expand_as(picks_NS)[picks_NS], rank_NS[picks_NS])
        keep_BD[at] = index_NS[picks_NS]
        kept_scores_BD[at] = scores_BK[image_N1, index_NS][picks_NS]
        kept_boxes_BD4[at], kept_classes_BD[at] = boxes_NS4[picks_NS], classes_NS[picks_NS]
        counts_B[image_N] += picks_NS.sum(1)


def _picks(boxes_NS4: Tensor, classes_NS: Tensor, free_NS: Tensor, threshold: float) -> Tensor:
    """Return which of the free candidates, the best first, greedy suppression keeps."""
    # [n, i, j]: i, if it is kept, suppresses j.
    suppresses = _suppresses(boxes_NS4, classes_NS, boxes_NS4, classes_NS, threshold).float().triu_(1)
    picks_NS = free_NS
    while True:
        # After n rounds the first n are right, whatever they were before, so it ends, and mostly after a few rounds:
        # as many as the longest chain in which each suppresses the next.
        hits_NS = torch.bmm(picks_NS.float().unsqueeze(1), suppresses).squeeze(1)
        before_NS, picks_NS = picks_NS, free_NS & (hits_NS == 0)
        if torch.equal(picks_NS, before_NS):
            return picks_NS


def _suppresses(
    boxes_NX4: Tensor, classes_NX: Tensor, others_NY4: Tensor, other_classes_NY: Tensor, threshold: float
) -> Tensor:
    """Return [N, X, Y]: whether box x is of the class of box y and overlaps it by more than the threshold."""
    alike_NXY = classes_NX.unsqueeze(2) == other_classes_NY.unsqueeze(1)
    return _overlaps(boxes_NX4, others_NY4).gt(threshold).logical_and_(alike_NXY)


def _overlaps(boxes_NX4: Tensor, others_NY4: Tensor) -> Tensor:
    """Return [N, X, Y], intersection over union; NaN where neither box has an area."""
    # Each coordinate on its own and contiguous: read four apart they are not vectorised, and this takes 2 x longer.
    x1, y1, x2, y2 = boxes_NX4.movedim(2, 0).contiguous().unsqueeze(3)
    u1, v1, u2, v2 = others_NY4.movedim(2, 0).contiguous().unsqueeze(2)
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    both = width.mul_(height)
    either = torch.add((x2 - x1) * (y2 - y1), (u2 - u1) * (v2 - v1), out=height).sub_(both)
    return both.div_(either)


def _soft(boxes_BK4: Tensor, scores_BK: Tensor, classes_BK: Tensor, most: int, sigma: float, min_score: float) -> Found:
    keep_BD, kept_scores_BD, counts_B = _nothing_found(boxes_BK4, most)
    if not scores_BK.numel():
        return keep_BD, kept_scores_BD, counts_B
    left_BK = torch.where(scores_BK > min_score, scores_BK, 0.0)
    for place in range(most):
        best_B1, index_B1 = left_BK.max(dim=1, keepdim=True)  # of equal scores the first
        found_B1 = best_B1 > min_score
        if not found_B1.any():
            break
        keep_BD[:, place] = torch.where(found_B1, index_B1, -1).squeeze(1)
        kept_scores_BD[:, place] = best_B1.squeeze(1)
        box_B14 = boxes_BK4.gather(1, index_B1.unsqueeze(2).expand(-1, -1, 4))
        overlaps_BK = _overlaps(box_B14, boxes_BK4).squeeze(1)
        counts_for_BK = (classes_BK == classes_BK.gather(1, index_B1)) & (overlaps_BK > 0)  # a NaN does not
        falls_BK = overlaps_BK.square_().div_(-sigma).exp_()
        left_BK = torch.where(counts_for_BK, left_BK * falls_BK, left_BK).scatter_(1, index_B1, 0.0)
        left_BK = torch.where(left_BK > min_score, left_BK, 0.0)
        counts_B += found_B1.squeeze(1)
    return keep_BD, kept_scores_BD, counts_B
