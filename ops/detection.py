"""From a detector's output to detections, a batch at a time: select, decode, suppress; nothing waits for a GPU.

Of all (anchor, class) pairs of an image the `top_k` best are exact, ties included: the lower pair index (anchor x
classes + class) comes first. They lie in the `top_k` anchors that are best by (their best logit, lower index), for a
pair of any other anchor comes after the best pair of each of those. So only one pass reads all logits.

On a CPU what is below the last of these anchors is left out before anything is sorted; on a GPU, where a count that
depends on values would be a synchronisation, all pairs of these anchors go through torch.topk, with the index in the
lower half of the number compared. Given up: an anchor with a NaN among its logits is left out with all its classes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raydet.ops import boxes
from raydet.ops.nms import batched_nms

_LEAST = torch.finfo(torch.float32).min
_HALF = 0xFFFFFFFF  # 32 bits


class ImageDetections(NamedTuple):
    """What was found in one image, the best score first."""

    boxes_K4: Tensor
    scores_K: Tensor
    classes_K: Tensor


class BatchDetections(NamedTuple):
    """What was found in a batch: D places an image, the best score first; behind the last, zeros and class -1."""

    boxes_BD4: Tensor
    """float32, xyxy in input pixels, not clipped."""
    scores_BD: Tensor
    """float32."""
    classes_BD: Tensor
    """int64."""
    counts_B: Tensor
    """int64: how many places of each image are taken."""

    def images(self) -> list[ImageDetections]:
        """Return each image's detections on the CPU; waits once for the device."""
        boxes_BD4, scores_BD, classes_BD, counts_B = (tensor.cpu() for tensor in self)
        rows = zip(boxes_BD4, scores_BD, classes_BD, counts_B.tolist(), strict=True)
        return [ImageDetections(box[:count], score[:count], of_class[:count]) for box, score, of_class, count in rows]


def detect(
    logits_BAC: Tensor,
    codes_BA4: Tensor,
    anchors_A4: Tensor,
    *,
    top_k: int,
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
    soft_nms_sigma: float | None = None,
    class_agnostic: bool = False,
) -> BatchDetections:
    """Return the detections of a batch.

    The `top_k` best pairs of an image are decoded; suppression runs class by class or over all classes, see
    `batched_nms`; the `max_detections` best are kept. Every score returned is above `score_threshold`: one that is
    equal is dropped, also at 0. Equals effdet's post-processing but for the threshold. Not differentiable.

    Args:
        logits_BAC: before the sigmoid; float16, bfloat16 or float32.
        codes_BA4: as `boxes.encode` gives them; float16, bfloat16 or float32, computed with in float32.
        anchors_A4: float32, xyxy in input pixels.
        top_k: at least 1; may be more than there are pairs.
        score_threshold: 0 to 1.
        nms_iou: 0 to 1; an overlap above it suppresses.
        max_detections: at least 1.
        soft_nms_sigma: above 0, for soft suppression, which does not use `nms_iou`; None: greedy.
        class_agnostic: a box suppresses those of other classes too.

    Raises:
        TypeError, ValueError: an argument is not as above; names it.
    """
    _check(logits_BAC, codes_BA4, anchors_A4, top_k, score_threshold)
    # The float32 score decides, in batched_nms. This only leaves out early what cannot pass, with room for rounding.
    least = math.log(score_threshold / (1 - score_threshold)) - 1 if 0 < score_threshold < 1 else _LEAST
    logits_BK, pairs_BK = _best_pairs(logits_BAC.detach(), top_k, least)
    anchor_BK = pairs_BK // logits_BAC.shape[2]
    codes_BK4 = codes_BA4.detach().gather(1, anchor_BK.unsqueeze(2).expand(-1, -1, 4))
    boxes_BK4 = boxes.decode(codes_BK4.float(), anchors_A4[anchor_BK])
    classes_BK = pairs_BK - anchor_BK * logits_BAC.shape[2]
    meeting_BK = torch.zeros_like(classes_BK) if class_agnostic else classes_BK
    keep_BD, scores_BD, counts_B = batched_nms(
        boxes_BK4, logits_BK.sigmoid(), meeting_BK, nms_iou, max_detections, soft_nms_sigma, score_threshold
    )
    none_BD, at_BD = keep_BD < 0, keep_BD.clamp(min=0)
    if not boxes_BK4.shape[1]:  # no pair to point at
        boxes_BK4, classes_BK = boxes_BK4.new_zeros(len(boxes_BK4), 1, 4), classes_BK.new_zeros(len(boxes_BK4), 1)
    return BatchDetections(
        boxes_BK4.gather(1, at_BD.unsqueeze(2).expand(-1, -1, 4)).masked_fill(none_BD.unsqueeze(2), 0.0),
        scores_BD,
        classes_BK.gather(1, at_BD).masked_fill(none_BD, -1),
        counts_B,
    )


def _check(logits_BAC: Tensor, codes_BA4: Tensor, anchors_A4: Tensor, top_k: int, score_threshold: float) -> None:
    if logits_BAC.ndim != 3:
        raise ValueError(f"logits_BAC must be [images, anchors, classes], got {list(logits_BAC.shape)}")
    images, anchors, classes = logits_BAC.shape
    halves = (torch.float16, torch.bfloat16)
    for name, tensor, shape, dtypes in (
        ("logits_BAC", logits_BAC, (images, anchors, classes), (torch.float32, *halves)),
        ("codes_BA4", codes_BA4, (images, anchors, 4), (torch.float32, *halves)),
        ("anchors_A4", anchors_A4, (anchors, 4), (torch.float32,)),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} to fit logits_BAC, got {list(tensor.shape)}")
        if tensor.dtype not in dtypes:
            allowed = " or ".join(map(str, dtypes))
            raise TypeError(f"{name} must be {allowed}, got {tensor.dtype}; convert it with .float()")
        if tensor.device != logits_BAC.device:
            raise ValueError(
                f"{name} is on {tensor.device}, logits_BAC on {logits_BAC.device}; move it there with .to()"
            )
    if anchors * classes > _HALF:
        raise ValueError(f"logits_BAC must have fewer than 2^32 pairs an image, got {anchors} x {classes}")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be in [0, 1], got {score_threshold}")


@torch.library.custom_op("raydet::best_pairs", mutates_args=())
def _best_pairs(logits_BAC: Tensor, top_k: int, least: float) -> tuple[Tensor, Tensor]:
    """Return the best pairs' logits (float32) and indices (int64) from the best down, then -inf and 0.

    K is the lesser of `top_k` and all pairs; logits below `least` take no part. An op, for the CPU's way has shapes
    that depend on values, which cannot be traced.
    """
    best_BA = logits_BAC.amax(2).float() if logits_BAC.numel() else logits_BAC.new_empty(logits_BAC.shape[:2]).float()
    best_BA = torch.where(best_BA >= least, best_BA, -math.inf)
    wanted = min(top_k, logits_BAC.shape[1] * logits_BAC.shape[2])
    if not wanted or not len(best_BA):
        return best_BA.new_empty(len(best_BA), wanted), best_BA.new_empty(len(best_BA), wanted, dtype=torch.int64)
    select = _all_of_the_best_anchors if logits_BAC.is_cuda else _those_that_pass
    logits_BK, pairs_BK = select(logits_BAC, best_BA, wanted, least)
    missing_BK = ~(logits_BK >= least)
    return logits_BK.masked_fill(missing_BK, -math.inf), pairs_BK.masked_fill(missing_BK, 0)


@_best_pairs.register_fake
def _(logits_BAC: Tensor, top_k: int, least: float) -> tuple[Tensor, Tensor]:
    shape = (logits_BAC.shape[0], min(top_k, logits_BAC.shape[1] * logits_BAC.shape[2]))
    return logits_BAC.new_empty(shape, dtype=torch.float32), logits_BAC.new_empty(shape, dtype=torch.int64)


def _those_that_pass(logits_BAC: Tensor, best_BA: Tensor, wanted: int, least: float) -> tuple[Tensor, Tensor]:
    images, anchors, classes = logits_BAC.shape
    rows = min(wanted, anchors)
    last_B1 = best_BA.topk(rows, dim=1, sorted=False).values.amin(1, keepdim=True)
    above_BA, level_BA = best_BA > last_B1, (best_BA == last_B1) & (best_BA > -math.inf)
    chosen_BA = above_BA | (level_BA & (level_BA.cumsum(1) <= rows - above_BA.sum(1, keepdim=True)))
    # R anchors with their logits, P pairs among them. As many as are wanted reach `last`, if so many anchors do.
    image_R, anchor_R = chosen_BA.nonzero().unbind(1)
    logits_RC = logits_BAC.reshape(-1, classes).index_select(0, image_R * anchors + anchor_R).float()
    last_B1 = last_B1.clamp(min=least) if rows == wanted else torch.full_like(last_B1, least)
    row_P, class_P = (logits_RC >= last_B1[image_R]).nonzero().unbind(1)
    image_P, pair_P = image_R[row_P], anchor_R[row_P] * classes + class_P
    counts_B = image_P.bincount(minlength=images)
    place_P = torch.arange(len(image_P), device=image_P.device) - (counts_B.cumsum(0) - counts_B)[image_P]
    shape = (images, max(wanted, int(counts_B.max())))
    logits = best_BA.new_full(shape, -math.inf).index_put_((image_P, place_P), logits_RC[row_P, class_P])
    pairs = image_P.new_zeros(shape).index_put_((image_P, place_P), pair_P)
    ranked, order = logits.sort(dim=1, descending=True, stable=True)  # pairs stand in the order of their index
    return ranked[:, :wanted], pairs.gather(1, order[:, :wanted])


def _all_of_the_best_anchors(logits_BAC: Tensor, best_BA: Tensor, wanted: int, least: float) -> tuple[Tensor, Tensor]:
    anchors, classes = logits_BAC.shape[1:]
    index_A = torch.arange(anchors, device=best_BA.device)
    anchor_BN = _ranking(best_BA, index_A).topk(min(wanted, anchors), dim=1, sorted=False).indices
    logits_BNC = logits_BAC.gather(1, anchor_BN.unsqueeze(2).expand(-1, -1, classes)).float()
    # Anchors that take no part: a NaN must not come out as the best.
    logits_BNC.masked_fill_(best_BA.gather(1, anchor_BN).isneginf().unsqueeze(2), -math.inf)
    logits_BP = logits_BNC.flatten(1)
    pairs_BP = (anchor_BN.unsqueeze(2) * classes + torch.arange(classes, device=best_BA.device)).flatten(1)
    order_BK = _ranking(logits_BP, pairs_BP).topk(wanted, dim=1).indices
    return logits_BP.gather(1, order_BK), pairs_BP.gather(1, order_BK)


def _ranking(values: Tensor, index: Tensor) -> Tensor:
    """Return int64 that compare as (value, lower index): the float's bits, made monotonic, above the index's."""
    bits = (values + 0.0).view(torch.int32)  # + 0.0: -0.0 equals 0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.long() << 32).bitwise_or_(_HALF - index)
