"""Target assignment: which anchors of a batch answer for which box, and what they should say.

RetinaNet's scheme (arXiv:1708.02002, section 4) as TensorFlow's and effdet's EfficientDet have it: an anchor belongs to
the box it overlaps most (of equals the earlier) if their IoU reaches a threshold; besides, each box that overlaps any
anchor gets its best one (of equals the lowest). The IoU matrix of anchors and boxes never exists. Three ways:

    by_definition    a loop over boxes, all images and anchors at a time; any device, never waits for a GPU
    assignment_grid  on a CPU, where the anchors are grids: bounds leave a few dozen pairs a box to look at
    assignment.cu    on a GPU: 24 bytes written an anchor, and the boxes read from shared memory

All compute an IoU by the same float32 operations, so they decide alike, to the last bit; only codes differ, by the
rounding of the GPU's logarithm. Given up: CuPy compiles with -ftz=true, so that to a kernel overlaps and IoUs below
1.2e-38 are none; and targets have no gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from raydet.ops import raw
from raydet.ops.assignment_grid import area_of, iou_with_all, on_grid
from raydet.ops.boxes import encode

_BLOCK = 256  # threads, as in assignment.cu
_BOTH: dict[str, raw.Kind] = {
    "anchors_A4": torch.float32,
    "boxes_BM4": torch.float32,
    "classes_BM": torch.int64,
    "labels_BA": torch.int64,
    "codes_BA4": torch.float32,
    "positives_B": torch.int64,
    "offers_BM": torch.int64,
    "num_anchors": "int32",
    "num_boxes": "int32",
}
_BEST = raw.Kernel("assignment.cu", "assign_best", {**_BOTH, "match_iou": "float32"})
_FORCED = raw.Kernel("assignment.cu", "assign_forced", {**_BOTH, "distinct": "int32"})


class Targets(NamedTuple):
    """What the network should say of a batch. A code of a background anchor is 0 and means nothing."""

    labels_BA: Tensor
    """int64: class, or -1 for background."""
    codes_BA4: Tensor
    """float32 codes (raydet.ops.boxes.encode) of the boxes that anchors answer for."""
    positives_B: Tensor
    """int64: anchors with a class, per image."""


def kernels() -> list[raw.Kernel]:
    """Return every kernel that this file launches."""
    return [_BEST, _FORCED]


def assign_anchors(
    anchors_A4: Tensor,
    boxes_BM4: Tensor,
    classes_BM: Tensor,
    match_iou: float = 0.5,
    distinct: bool = False,
    cells: Sequence[tuple[int, int]] | None = None,
) -> Targets:
    """Return the targets of a batch. They have no gradient.

    Args:
        anchors_A4: float32 xyxy in input pixels.
        boxes_BM4: float32 xyxy in input pixels; rows whose class is negative are padding.
        classes_BM: int64; a class, or negative for padding.
        match_iou: least IoU, 0 to 1, at which an anchor takes the box it overlaps most; ties go to the earlier box.
        distinct: what happens where two boxes share their best anchor. False: the earlier box has it and the other may
            go without, as in TensorFlow's. True: boxes choose in turn among the anchors that no earlier one was given.
        cells: (rows, columns) of each level, if the anchors are grids as raydet.models.anchors.make_anchors lays them:
        level,
            row, column, then the anchors of a cell, which have equal x in a column and equal y in a row. A CPU is then
            far quicker; the result is the same. A GPU does not look at it.

    Raises:
        TypeError, ValueError: an argument of another dtype, shape, device or range than above; names it.
    """
    _check(anchors_A4, boxes_BM4, classes_BM, match_iou)
    sides = _sides(anchors_A4.shape[0], cells)
    return Targets(*_assign(anchors_A4, boxes_BM4, classes_BM, float(match_iou), bool(distinct), sides))


def _check(anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, match_iou: float) -> None:
    kinds = {"anchors_A4": torch.float32, "boxes_BM4": torch.float32, "classes_BM": torch.int64}
    for (name, kind), tensor in zip(kinds.items(), (anchors_A4, boxes_BM4, classes_BM), strict=True):
        if tensor.dtype != kind:
            raise TypeError(f"{name} must be {kind}, got {tensor.dtype}; convert it with .to({kind})")
        if tensor.device != anchors_A4.device:
            raise ValueError(
                f"{name} is on {tensor.device}, but anchors_A4 on {anchors_A4.device}; move one with .to(device)"
            )
    if anchors_A4.dim() != 2 or anchors_A4.shape[1] != 4:
        raise ValueError(f"anchors_A4 must be [A, 4], got {list(anchors_A4.shape)}")
    if classes_BM.dim() != 2:
        raise ValueError(f"classes_BM must be [B, M], got {list(classes_BM.shape)}; pad images to as many boxes")
    if boxes_BM4.shape != (*classes_BM.shape, 4):
        raise ValueError(f"boxes_BM4 must be {[*classes_BM.shape, 4]} to fit classes_BM, got {list(boxes_BM4.shape)}")
    if not 0 <= match_iou <= 1:
        raise ValueError(f"match_iou must be 0 to 1, got {match_iou}")


def _sides(anchors: int, cells: Sequence[tuple[int, int]] | None) -> list[int]:
    """Return rows and columns of all levels in a row, which is what an operator takes; nothing for None."""
    if cells is None:
        return []
    total = sum(rows * columns for rows, columns in cells)
    if any(side < 1 for pair in cells for side in pair) or not 0 < total <= anchors or anchors % total:
        raise ValueError(
            f"cells must be rows and columns of each level, all >= 1, whose sum of products divides the {anchors} "
            f"anchors, got {list(cells)}; pass None for anchors that are no grid"
        )
    return [side for pair in cells for side in pair]


@torch.library.custom_op("raydet::assign_anchors", mutates_args=())
def _assign(
    anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, match_iou: float, distinct: bool, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    if raw.runs_kernel(boxes_BM4, "boxes_BM4"):
        return _by_kernels(anchors_A4, boxes_BM4, classes_BM, match_iou, distinct)
    found = None
    if sides and boxes_BM4.device.type == "cpu":  # on a GPU, to ask how many pairs there are would be to wait for it
        cells = list(zip(sides[::2], sides[1::2], strict=True))
        found = on_grid(anchors_A4, boxes_BM4, classes_BM, match_iou, distinct, cells)
    return by_definition(anchors_A4, boxes_BM4, classes_BM, match_iou, distinct) if found is None else found


@_assign.register_fake
def _(
    anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, match_iou: float, distinct: bool, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    B, A = classes_BM.shape[0], anchors_A4.shape[0]
    return classes_BM.new_empty(B, A), anchors_A4.new_empty(B, A, 4), classes_BM.new_empty(B)


def by_definition(
    anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, match_iou: float, distinct: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels_BA, codes_BA4 and positives_B: what `assign_anchors` means, in the fewest words."""
    B, M = classes_BM.shape
    A = anchors_A4.shape[0]
    best_iou_BA = anchors_A4.new_zeros(B, A)
    owner_BA = classes_BM.new_full((B, A), -1)
    forced_BA = torch.full_like(owner_BA, M)
    area_A = area_of(anchors_A4)
    for m in range(M if A else 0):
        iou_BA = iou_with_all(anchors_A4, area_A, boxes_BM4[:, m])
        iou_BA.masked_fill_(classes_BM[:, m, None] < 0, 0.0)
        better_BA = iou_BA > best_iou_BA
        best_iou_BA = torch.where(better_BA, iou_BA, best_iou_BA)
        owner_BA.masked_fill_(better_BA, m)
        free_BA = iou_BA.masked_fill(forced_BA < M, 0.0) if distinct else iou_BA
        top_B1, anchor_B1 = free_BA.max(dim=1, keepdim=True)
        taken_B1 = forced_BA.gather(1, anchor_B1)
        forced_BA.scatter_(1, anchor_B1, torch.where(top_B1 > 0, taken_B1.clamp(max=m), taken_B1))
    owner_BA = torch.where(forced_BA < M, forced_BA, owner_BA.masked_fill(best_iou_BA < match_iou, -1))
    positive_BA = owner_BA >= 0
    if M == 0:  # not one box in the batch: nothing to gather from
        return owner_BA, anchors_A4.new_zeros(B, A, 4), positive_BA.sum(dim=1)
    index_BA = owner_BA.clamp(min=0)
    labels_BA = classes_BM.gather(1, index_BA).masked_fill(~positive_BA, -1)
    matched_BA4 = boxes_BM4.gather(1, index_BA.unsqueeze(2).expand(-1, -1, 4))
    matched_BA4 = torch.where(positive_BA.unsqueeze(2), matched_BA4, anchors_A4)  # a code of 0, and no log of padding
    return labels_BA, encode(matched_BA4, anchors_A4), positive_BA.sum(dim=1)


def _by_kernels(
    anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, match_iou: float, distinct: bool
) -> tuple[Tensor, Tensor, Tensor]:
    (B, M), A = classes_BM.shape, anchors_A4.shape[0]
    anchors_A4, boxes_BM4, classes_BM = map(raw.aligned, (anchors_A4, boxes_BM4, classes_BM))
    labels_BA, codes_BA4 = classes_BM.new_empty(B, A), anchors_A4.new_empty(B, A, 4)
    positives_B, offers_BM = classes_BM.new_zeros(B), classes_BM.new_zeros(B, M)
    if labels_BA.numel():  # a grid of no blocks is an error
        both = (anchors_A4, boxes_BM4, classes_BM, labels_BA, codes_BA4, positives_B, offers_BM, A, M)
        _BEST((B * -(-A // _BLOCK),), (_BLOCK,), *both, match_iou)
        if M:
            _FORCED((B,), (_BLOCK,), *both, int(distinct))
    return labels_BA, codes_BA4, positives_B
