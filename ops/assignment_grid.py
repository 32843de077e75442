"""Target assignment on a CPU, where anchors are grids (assignment.py says what it means).

The anchors of a level that have one size and shape ("a size" below) differ only in where they are. So the overlap of a
box with one of them is the product of a width, which only its column tells, and a height, which only its row tells:
for 49104 anchors, 1116 widths and as many heights. Rounded sums, products and quotients never fall where exact ones
rise; hence the float32 IoU itself, not only the true one, grows with the width and the height and falls with the
anchor's area. That makes these bounds exact, without a margin:

    upper    IoU of the greatest width and height of a size, with the least area of its anchors; per box and size
    lower    the same with the greatest area: one anchor reaches it. The best lower bound of a box is under its best IoU
    a column cannot be where its width with the greatest height stays under what the box needs; nor can such a row

A box needs the smaller of the match threshold and its best lower bound. Of its 49104 pairs with an anchor 27 are left
(mean of 3200 boxes with sides of 2 to 258 pixels; 9 with sides up to 42): these are computed, and settled for all boxes
of the batch at once by maxima over integer keys.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from raydet.ops.boxes import encode

_PAIRS = 1 << 20  # fewer are never too many; a pair takes about 100 bytes
_FORCED = 0x7F800000  # bits of infinity: above those of any IoU


class _Level(NamedTuple):
    """A level of K sizes with R rows and C columns."""

    first: int  # number of its first anchor
    x_2KC: Tensor  # lower and upper ends of the columns' intervals
    y_2KR: Tensor
    area_2K: Tensor  # least and greatest of each size


class _Lines(NamedTuple):
    """Columns (or rows) that a box needs, in the order of the cases: (box, level, size)."""

    case_I: Tensor
    length_I: Tensor
    """Width (height) of the overlap of box and anchor."""
    anchor_I: Tensor
    """What it adds to the anchor's number."""


def area_of(boxes: Tensor) -> Tensor:
    """Return the areas of boxes [..., 4]; negative where one side is inverted."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_of(common: Tensor, anchor_area: Tensor, box_area: Tensor) -> Tensor:
    """Return IoU from the area that anchor and box share, of the shape of `common`. assignment.cu does the same."""
    union = (anchor_area + box_area) - common
    return torch.div(common, union.clamp_(min=1e-12), out=union)


def iou_with_all(anchors_A4: Tensor, area_A: Tensor, boxes_B4: Tensor) -> Tensor:
    """Return iou_BA of one box per image with all anchors; 0 for empty boxes."""
    x1_B1, y1_B1, x2_B1, y2_B1 = boxes_B4.unsqueeze(2).unbind(1)
    width_BA = torch.minimum(anchors_A4[:, 2], x2_B1).sub_(torch.maximum(anchors_A4[:, 0], x1_B1)).clamp_(min=0)
    height_BA = torch.minimum(anchors_A4[:, 3], y2_B1).sub_(torch.maximum(anchors_A4[:, 1], y1_B1)).clamp_(min=0)
    return iou_of(width_BA.mul_(height_BA), area_A, area_of(boxes_B4).unsqueeze(1))


def on_grid(
    anchors_A4: Tensor,
    boxes_BM4: Tensor,
    classes_BM: Tensor,
    match_iou: float,
    distinct: bool,
    cells: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return labels_BA, codes_BA4 and positives_B.

    None if so many pairs are left (a tiny `match_iou`, boxes of subnormal size) that to look at them all takes longer.

    Raises:
        ValueError: the anchors are not the grids that `cells` says.
    """
    B, A = classes_BM.shape[0], anchors_A4.shape[0]
    area_A = area_of(anchors_A4)
    real_G = (classes_BM.reshape(-1) >= 0).nonzero().squeeze(1)
    boxes_G4 = boxes_BM4.reshape(-1, 4)[real_G]
    area_G = area_of(boxes_G4)
    pairs = _pairs(_levels(anchors_A4, area_A, cells), boxes_G4, area_G, match_iou, max(_PAIRS, B * A))
    if pairs is None:
        return None
    box_P, anchor_P, common_P = pairs
    iou_P = iou_of(common_P, area_A[anchor_P], area_G[box_P])
    # The bits of floats >= 0 are in their order; under them, that of equal IoUs the lower anchor (below: box) wins.
    key_P = iou_P.view(torch.int32).to(torch.int64) << 32
    offer_P = torch.where(iou_P > 0, key_P | (A - anchor_P), 0)
    offer_G = offer_P.new_zeros(len(real_G)).scatter_reduce_(0, box_P, offer_P, "amax")
    forced_BM = torch.full_like(classes_BM, -1, memory_format=torch.contiguous_format)
    forced_BM.view(-1)[real_G] = torch.where(offer_G > 0, A - (offer_G & 0xFFFFFFFF), -1)
    if distinct:
        _choose_in_turn(forced_BM, anchors_A4, area_A, boxes_BM4)

    matched_Q = ((iou_P > 0) & (iou_P >= match_iou)).nonzero().squeeze(1)
    forced_F = (forced_BM.view(-1) >= 0).nonzero().squeeze(1)
    box_Q = torch.cat([real_G[box_P[matched_Q]], forced_F])  # from here on numbered with the padding
    anchor_Q = torch.cat([anchor_P[matched_Q], forced_BM.view(-1)[forced_F]])
    rank_Q = torch.cat([key_P[matched_Q], torch.full_like(forced_F, _FORCED << 32)])
    return _written(anchors_A4, boxes_BM4, classes_BM, box_Q, anchor_Q, rank_Q)


def _choose_in_turn(forced_BM: Tensor, anchors_A4: Tensor, area_A: Tensor, boxes_BM4: Tensor) -> None:
    """Give each box whose anchor an earlier one has the best that none has, or -1."""
    in_order_BM = forced_BM.sort(dim=1).values
    if not ((in_order_BM[:, 1:] == in_order_BM[:, :-1]) & (in_order_BM[:, 1:] >= 0)).any():
        return
    for m in range(1, forced_BM.shape[1]):  # a choice hangs on those before; a turn takes only the images that need it
        mine_BM, others_BM = forced_BM[:, m : m + 1], forced_BM[:, :m]
        again_S = ((mine_BM == others_BM) & (mine_BM >= 0)).any(1).nonzero().squeeze(1)
        if len(again_S) == 0:
            continue
        free_SA = iou_with_all(anchors_A4, area_A, boxes_BM4[again_S, m])
        others_SM = others_BM[again_S]
        # mine stands for none: it is one of those taken
        free_SA.scatter_(1, torch.where(others_SM >= 0, others_SM, mine_BM[again_S]), 0.0)
        top_S, anchor_S = free_SA.max(dim=1)
        forced_BM[again_S, m] = torch.where(top_S > 0, anchor_S, -1)


def _written(
    anchors_A4: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, box_Q: Tensor, anchor_Q: Tensor, rank_Q: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the targets if each anchor takes the box of its highest rank, the earlier of equals."""
    (B, M), A = classes_BM.shape, anchors_A4.shape[0]
    image_Q = box_Q // max(M, 1)
    spot_Q = image_Q * A + anchor_Q
    claim_Q = rank_Q | (M - box_Q + image_Q * M)
    labels = classes_BM.new_full((B * A,), -1)
    won_W = (labels.scatter_reduce_(0, spot_Q, claim_Q, "amax")[spot_Q] == claim_Q).nonzero().squeeze(1)
    spot_W, box_W = spot_Q[won_W], box_Q[won_W]
    labels[spot_W] = classes_BM.reshape(-1)[box_W]  # no claim is left in there: each that is has its one winner
    codes = anchors_A4.new_zeros(B * A, 4)
    codes[spot_W] = encode(boxes_BM4.reshape(-1, 4)[box_W], anchors_A4[anchor_Q[won_W]])
    return labels.view(B, A), codes.view(B, A, 4), torch.bincount(image_Q[won_W], minlength=B)


def _levels(anchors_A4: Tensor, area_A: Tensor, cells: Sequence[tuple[int, int]]) -> list[_Level]:
    sizes = len(anchors_A4) // sum(rows * columns for rows, columns in cells)
    levels, first = [], 0
    for rows, columns in cells:
        part = slice(first, first + rows * columns * sizes)
        grid_RCK4 = anchors_A4[part].reshape(rows, columns, sizes, 4)
        x_1CK2, y_R1K2 = grid_RCK4[:1, :, :, 0::2], grid_RCK4[:, :1, :, 1::2]
        if not ((grid_RCK4[..., 0::2] == x_1CK2).all() and (grid_RCK4[..., 1::2] == y_R1K2).all()):
            raise ValueError(
                f"anchors_A4 [{part.start}:{part.stop}] must be a grid of {rows} rows and {columns} columns, as cells "
                "says: equal x in a column, equal y in a row; pass cells=None for anchors that are no grid"
            )
        least_K, greatest_K = area_A[part].view(-1, sizes).aminmax(dim=0)
        x_2KC, y_2KR = x_1CK2[0].permute(2, 1, 0).contiguous(), y_R1K2[:, 0].permute(2, 1, 0).contiguous()
        levels.append(_Level(first, x_2KC, y_2KR, torch.stack([least_K, greatest_K])))
        first = part.stop
    return levels


def _lengths(ends: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return what intervals (ends[0], ends[1]) share with (low, high)."""
    return torch.minimum(ends[1], high).sub_(torch.maximum(ends[0], low)).clamp_(min=0)


def _pairs(
    levels: list[_Level], boxes_G4: Tensor, area_G: Tensor, match_iou: float, most: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return box, anchor and common area of all pairs that can matter; None if they are more than `most`."""
    x1_G, y1_G, x2_G, y2_G = boxes_G4.unbind(1)
    # T: all sizes of all levels. One column has the greatest width and one row the greatest height: an anchor has both.
    width_GT = torch.cat([_lengths(v.x_2KC, x1_G[:, None, None], x2_G[:, None, None]).amax(2) for v in levels], 1)
    height_GT = torch.cat([_lengths(v.y_2KR, y1_G[:, None, None], y2_G[:, None, None]).amax(2) for v in levels], 1)
    area_2T = torch.cat([v.area_2K for v in levels], 1)
    upper_GT, lower_GT = (iou_of(width_GT * height_GT, area_T, area_G[:, None]) for area_T in area_2T)
    need_G = lower_GT.amax(1).clamp(max=match_iou)
    worth_GT = (upper_GT >= need_G[:, None]) & (upper_GT > 0)

    sizes, start = len(area_2T[0]) // len(levels), 0
    boxes: list[Tensor] = []
    columns: list[_Lines] = []
    rows: list[_Lines] = []
    for i, level in enumerate(levels):
        part = slice(i * sizes, (i + 1) * sizes)
        box_N, size_N = worth_GT[:, part].nonzero().unbind(1)
        limits_3N1 = torch.stack([level.area_2K[0, size_N], area_G[box_N], need_G[box_N]]).unsqueeze(2)
        x_NC = _lengths(level.x_2KC[:, size_N], x1_G[box_N, None], x2_G[box_N, None])
        y_NR = _lengths(level.y_2KR[:, size_N], y1_G[box_N, None], y2_G[box_N, None])
        case_I, column_I = _needed(x_NC * height_GT[:, part][box_N, size_N, None], limits_3N1)
        anchor_I = level.first + column_I * sizes + size_N[case_I]
        columns.append(_Lines(case_I + start, x_NC[case_I, column_I], anchor_I))
        case_I, row_I = _needed(y_NR * width_GT[:, part][box_N, size_N, None], limits_3N1)
        rows.append(_Lines(case_I + start, y_NR[case_I, row_I], row_I * (x_NC.shape[1] * sizes)))
        boxes.append(box_N)
        start += len(box_N)
    return _crossed(torch.cat(boxes), _joined(columns), _joined(rows), most)


def _joined(lines: list[_Lines]) -> _Lines:
    return _Lines(*(torch.cat(parts) for parts in zip(*lines, strict=True)))


def _needed(common_NI: Tensor, limits_3N1: Tensor) -> tuple[Tensor, Tensor]:
    """Return (case, line) of all lines in which an anchor may have the IoU that its case needs."""
    least_area_N1, box_area_N1, need_N1 = limits_3N1
    bound_NI = iou_of(common_NI, least_area_N1, box_area_N1)
    case_I, line_I = ((bound_NI >= need_N1) & (bound_NI > 0)).nonzero().unbind(1)
    return case_I, line_I


def _crossed(box_N: Tensor, columns: _Lines, rows: _Lines, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return box, anchor and common area of each column with each row of its case; None if there are over `most`."""
    rows_N = torch.bincount(rows.case_I, minlength=len(box_N))
    times_I = rows_N[columns.case_I]
    pairs = int(times_I.sum())
    if pairs > most:
        return None
    column_P = torch.arange(len(times_I)).repeat_interleave(times_I, output_size=pairs)
    # Pair P is number P - (pairs of the columns before) of its column, and rows lie in the order of the cases as well.
    first_row_I = (rows_N.cumsum(0) - rows_N)[columns.case_I]
    row_P = torch.arange(pairs) + (first_row_I - (times_I.cumsum(0) - times_I))[column_P]
    anchor_P = columns.anchor_I[column_P] + rows.anchor_I[row_P]
    return box_N[columns.case_I][column_P], anchor_P, columns.length_I[column_P] * rows.length_I[row_P]
