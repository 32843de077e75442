"""Target assignment: the definition against a matrix of IoUs and effdet's, and the kernels against the definition."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from raydet.ops import raw
from raydet.ops.assignment import assign_anchors
from raydet.ops.boxes import encode
from tests.ops.harness import ORDERS, on_host
from tests.ops.scenes import CUTS, EPS, SCENES, assert_equal, assert_equal_but_for_logarithms, grid, scene, some_boxes


def by_matrix(anchors_A4: Tensor, boxes_M4: Tensor, classes_M: Tensor, cut: float, distinct: bool) -> list[int]:
    """One image: the number of the box of each anchor, or -1. One float32 rounding an operation, as documented."""
    a, b = anchors_A4.numpy()[:, None], boxes_M4.numpy()[None]
    with np.errstate(all="ignore"):
        width = np.maximum(np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]), np.float32(0))
        height = np.maximum(np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]), np.float32(0))
        area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
        iou_AM = width * height / np.maximum(area_a + area_b - width * height, np.float32(1e-12))
    assert iou_AM.dtype == np.float32
    iou_AM = np.nan_to_num(np.where(classes_M.numpy() < 0, np.float32(0), iou_AM), nan=0.0)
    owner = [-1] * len(a)
    if iou_AM.shape[1]:
        best = iou_AM.argmax(axis=1)  # the first of equals
        owner = [
            int(m) if iou > 0 and iou >= np.float32(cut) else -1 for m, iou in zip(best, iou_AM.max(1), strict=True)
        ]
    given: dict[int, int] = {}
    for m in range(iou_AM.shape[1]):
        anchor = int(iou_AM[:, m].argmax())
        if distinct and anchor in given:
            iou_AM[list(given), m] = 0
            anchor = int(iou_AM[:, m].argmax())
        if iou_AM[anchor, m] > 0:
            given.setdefault(anchor, m)
    for anchor, m in given.items():
        owner[anchor] = m
    return owner


@pytest.mark.slow
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_the_definition_equals_the_matrix_of_ious(name: str, distinct: bool) -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene(name)
    for cut in CUTS:
        targets = assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct)
        for i, (boxes_M4, classes_M) in enumerate(zip(boxes_BM4, classes_BM, strict=True)):
            owner_A = torch.tensor(by_matrix(anchors_A4, boxes_M4, classes_M, cut, distinct))
            chosen = owner_A >= 0
            label_A = torch.full_like(owner_A, -1)
            label_A[chosen] = classes_M[owner_A[chosen]]
            assert torch.equal(targets.labels_BA[i], label_A)
            assert targets.positives_B[i] == chosen.sum()
            assert (targets.codes_BA4[i][~chosen] == 0).all()
            expected = encode(boxes_M4[owner_A[chosen]], anchors_A4[chosen])
            torch.testing.assert_close(targets.codes_BA4[i][chosen], expected, rtol=2 * EPS, atol=0)


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_the_kernels_decide_as_the_definition_in_every_order(name: str, distinct: bool) -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene(name)
    for cut in (0.0, 0.5):
        expected = assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct)
        results = []
        for order in ORDERS:
            with on_host(order):
                results.append(assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct))
        for targets in results:
            assert_equal(targets, results[0])
        assert_equal_but_for_logarithms(results[0], expected)


def test_every_decision_is_right_in_float64_but_for_rounding() -> None:
    anchors_A4, cells = grid((256, 256))
    boxes_BM4, classes_BM = some_boxes(4, 20, 256, seed=1)
    classes_BM[:] = torch.arange(20)  # labels tell the box
    targets = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, False, cells)
    a, b = anchors_A4.double()[None, :, None], boxes_BM4.double()[:, None]
    side_BAM2 = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    common_BAM, (area_a, area_b) = side_BAM2.prod(-1), ((v[..., 2:] - v[..., :2]).prod(-1) for v in (a, b))
    iou_BAM = common_BAM / (area_a + area_b - common_BAM)
    # Half an eps for each of: two sides and their product, in the common area (1.5) and, of twice the union at most, in
    # the areas (3); their sum (1), the difference (0.5 + 1.5) and the quotient (0.5): 8 half eps, rounded up.
    slack = 8 * EPS
    own_BA = iou_BAM.gather(2, targets.labels_BA.clamp(min=0).unsqueeze(2)).squeeze(2)
    may_be_best_BAM = iou_BAM >= iou_BAM.amax(1, keepdim=True) * (1 - 2 * slack)
    forced_BA = (may_be_best_BAM & (targets.labels_BA[..., None] == torch.arange(20))).any(2)
    background = (targets.labels_BA == -1) & ~forced_BA
    assert (iou_BAM.max(2).values[background] < 0.5 * (1 + slack)).all()
    matched = (targets.labels_BA >= 0) & ~forced_BA
    assert (own_BA[matched] >= 0.5 * (1 - slack)).all()
    assert (own_BA[matched] >= iou_BAM.max(2).values[matched] * (1 - 2 * slack)).all()
    assert forced_BA.any(1).all() and matched.any() and background.any()


@pytest.mark.parametrize("kernel", [False, True])
def test_codes_are_those_of_float64_but_for_rounding(kernel: bool) -> None:
    anchors_A4, cells = grid((256, 256))
    boxes_BM4, classes_BM = some_boxes(4, 20, 256, seed=1)
    classes_BM[:] = torch.arange(20)
    if kernel:
        with on_host():
            targets = assign_anchors(anchors_A4, boxes_BM4, classes_BM)
    else:
        targets = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, False, cells)
    image, anchor = (targets.labels_BA >= 0).nonzero().unbind(1)
    exact = encode(boxes_BM4[image, targets.labels_BA[image, anchor]].double(), anchors_A4[anchor].double())
    codes = targets.codes_BA4[image, anchor].double()
    # Centres below 512 are rounded twice and divided by a side of at least 22; sizes are rounded against coordinates
    # below 512, whose roundings are of inputs and exact here: 3 operations and the logarithm's ulp are left.
    torch.testing.assert_close(codes[:, :2], exact[:, :2], rtol=2 * EPS, atol=2 * 512 * EPS / 22)
    torch.testing.assert_close(codes[:, 2:], exact[:, 2:], rtol=2 * EPS, atol=2 * EPS)


@pytest.mark.slow
def test_targets_and_losses_equal_effdets() -> None:
    pytest.importorskip("effdet")
    from effdet.anchors import AnchorLabeler, Anchors
    from effdet.config import get_efficientdet_config
    from effdet.loss import DetectionLoss

    from raydet.config import Loss
    from raydet.tasks.losses import detection_loss

    config = get_efficientdet_config("efficientdet_d0")
    config.image_size = (256, 256)
    theirs = Anchors.from_config(config)
    anchors_A4, cells_of_levels = grid((256, 256))
    torch.testing.assert_close(theirs.boxes[:, [1, 0, 3, 2]], anchors_A4, rtol=0, atol=1e-4)

    boxes_BM4, classes_BM = some_boxes(4, 12, 256)
    boxes_BM4[0, 3] = boxes_BM4[0, 2]
    classes_BM[1, 5:], classes_BM[2] = -1, -1
    targets = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, False, cells_of_levels)
    real = [c >= 0 for c in classes_BM]
    labels, codes, positives = AnchorLabeler(theirs, 90, match_threshold=0.5).batch_label_anchors(
        [b[r][:, [1, 0, 3, 2]] for b, r in zip(boxes_BM4, real, strict=True)],
        [c[r].float() + 1 for c, r in zip(classes_BM, real, strict=True)],
    )
    assert torch.equal(torch.cat([x.reshape(4, -1) for x in labels], 1).long(), targets.labels_BA)
    flat = torch.cat([x.reshape(4, -1, 4) for x in codes], 1)[..., [1, 0, 3, 2]]
    torch.testing.assert_close(flat, targets.codes_BA4, rtol=1e-5, atol=1e-5)
    assert torch.equal(positives.long(), targets.positives_B)

    torch.manual_seed(0)
    logits_BAC, codes_BA4 = torch.randn(4, len(anchors_A4), 90) - 4, torch.randn(4, len(anchors_A4), 4) * 0.3
    by_level, box_by_level, start = [], [], 0
    for cells in (32, 16, 8, 4, 2):
        part = slice(start, start := start + cells * cells * 9)
        by_level.append(logits_BAC[:, part].reshape(4, cells, cells, -1).permute(0, 3, 1, 2))
        box_by_level.append(codes_BA4[:, part][..., [1, 0, 3, 2]].reshape(4, cells, cells, -1).permute(0, 3, 1, 2))
    total, class_loss, box_loss = DetectionLoss(config)(by_level, box_by_level, labels, codes, positives)
    ours = torch.stack(detection_loss(logits_BAC, codes_BA4, targets, Loss())) / (targets.positives_B.sum() + 1)
    torch.testing.assert_close(ours, torch.stack([class_loss, box_loss]), rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[0] + 50 * ours[1], total, rtol=1e-5, atol=0)


def test_batches_from_1_to_64_images_are_the_images_one_by_one() -> None:
    anchors_A4, cells = grid((64, 64), (3, 5))
    boxes_BM4, classes_BM = some_boxes(64, 5, 64)
    with on_host(2):
        batch = assign_anchors(anchors_A4, boxes_BM4, classes_BM)
    for i in range(64):
        one = assign_anchors(anchors_A4, boxes_BM4[i : i + 1], classes_BM[i : i + 1], 0.5, False, cells)
        assert torch.equal(one.labels_BA[0], batch.labels_BA[i])
        assert torch.equal(one.positives_B[0], batch.positives_B[i])


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("boxes", [127, 128, 129, 300])
def test_the_kernels_take_more_boxes_than_a_tile_holds(boxes: int, distinct: bool) -> None:
    anchors_A4, _ = grid((64, 64), (3, 5))
    boxes_BM4, classes_BM = some_boxes(2, boxes, 64)
    classes_BM[0, 1:128], classes_BM[1, 40:] = -1, -1
    expected = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct)
    for order in ORDERS:
        with on_host(order):
            targets = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct)
        assert_equal_but_for_logarithms(targets, expected)


def test_the_kernels_take_memory_that_starts_anywhere() -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene("ragged")
    shifted_BM4 = torch.cat([torch.zeros(1), boxes_BM4.flatten()])[1:].view_as(boxes_BM4)
    strided_BM = classes_BM.t().contiguous().t()
    with on_host():
        plain = assign_anchors(anchors_A4, boxes_BM4, classes_BM)
        assert_equal(assign_anchors(anchors_A4.t().contiguous().t(), shifted_BM4, strided_BM), plain)


@pytest.mark.parametrize("way", ["definition", "grid", "kernels"])
def test_with_distinct_matches_no_box_goes_without_while_an_anchor_it_meets_is_free(way: str) -> None:
    near_34 = grid((64, 64), (3, 5))[0][:3]
    anchors_A4 = torch.cat([near_34[:2] + 500.0, near_34])
    nowhere, here = [900.0, 0.0, 990.0, 9.0], [10.0, 10.0, 14.0, 14.0]  # IoUs under 0.5, least with the square
    boxes_BM4 = torch.tensor([[nowhere, here, here, here, here], [nowhere, here, here, here, here]])
    boxes_BM4[1] += 500.0
    classes_BM = torch.tensor([[1, 3, 7, 5, 9], [1, 3, 7, -1, -1]])
    with on_host() if way == "kernels" else nullcontext():
        shared, own = (
            assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct, [(1, 1)] if way == "grid" else None)
            for distinct in (False, True)
        )
    assert shared.labels_BA.tolist() == [[-1, -1, -1, 3, -1], [-1, 3, -1, -1, -1]]
    assert own.labels_BA.tolist() == [[-1, -1, 5, 3, 7], [7, 3, -1, -1, -1]]
    assert shared.positives_B.tolist() == [1, 1] and own.positives_B.tolist() == [3, 2]


def test_nothing_is_launched_over_no_images_or_no_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene("plain")
    launches: list[object] = []
    monkeypatch.setattr(raw, "on_host", lambda *launch: launches.append(launch))
    assign_anchors(anchors_A4, boxes_BM4[:0], classes_BM[:0])
    assign_anchors(anchors_A4[:0], boxes_BM4, classes_BM)
    assert not launches


def test_no_images_or_no_anchors_give_empty_targets() -> None:
    anchors_A4, cells, boxes_BM4, classes_BM = scene("plain")
    for kernel in (False, True):
        with on_host() if kernel else nullcontext():
            none = assign_anchors(anchors_A4, boxes_BM4[:0], classes_BM[:0], cells=cells)
            assert none.labels_BA.shape == (0, len(anchors_A4)) and none.codes_BA4.shape == (0, len(anchors_A4), 4)
            bare = assign_anchors(anchors_A4[:0], boxes_BM4, classes_BM)
            assert bare.codes_BA4.shape == (3, 0, 4) and bare.positives_B.tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("with_cells", [False, True])
def test_the_operator_is_registered_soundly(with_cells: bool) -> None:
    anchors_A4, cells, boxes_BM4, classes_BM = scene("ragged")
    sides = [side for pair in cells for side in pair] if with_cells else []
    arguments = (anchors_A4, boxes_BM4, classes_BM, 0.5, True, sides)
    torch.library.opcheck(torch.ops.raydet.assign_anchors.default, arguments)


@pytest.mark.slow
def test_a_compiled_caller_is_one_graph() -> None:
    anchors_A4, cells, boxes_BM4, classes_BM = scene("ragged")

    def total(boxes: Tensor, classes: Tensor) -> Tensor:
        targets = assign_anchors(anchors_A4, boxes * 1.0, classes, 0.5, False, cells)
        return targets.codes_BA4.sum() + targets.positives_B.sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes_BM4, classes_BM), total(boxes_BM4, classes_BM))


def test_on_the_meta_device_only_shapes_are_computed() -> None:
    anchors_A4, cells, boxes_BM4, classes_BM = scene("plain")
    targets = assign_anchors(anchors_A4.to("meta"), boxes_BM4.to("meta"), classes_BM.to("meta"), 0.5, True, cells)
    real = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, True, cells)
    for one, other in zip(targets, real, strict=True):
        assert one.is_meta and one.shape == other.shape and one.dtype == other.dtype


def test_a_gradient_through_targets_is_refused() -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene("plain")
    targets = assign_anchors(anchors_A4, boxes_BM4.requires_grad_(), classes_BM)
    with pytest.raises(RuntimeError):
        targets.codes_BA4.sum().backward()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"boxes_BM4": torch.zeros(2, 3, 4).double()},
            TypeError,
            r"boxes_BM4 must be torch.float32, got torch.float64",
        ),
        (
            {"classes_BM": torch.zeros(2, 3).int()},
            TypeError,
            r"classes_BM must be torch.int64, got torch.int32.*\.to\(",
        ),
        ({"anchors_A4": torch.zeros(9, 4).half()}, TypeError, "anchors_A4 must be torch.float32"),
        ({"boxes_BM4": torch.zeros(2, 3, 4, device="meta")}, ValueError, "boxes_BM4 is on meta, but anchors_A4 on cpu"),
        ({"anchors_A4": torch.zeros(9, 5)}, ValueError, r"anchors_A4 must be \[A, 4\], got \[9, 5\]"),
        ({"classes_BM": torch.zeros(6).long()}, ValueError, r"classes_BM must be \[B, M\], got \[6\]"),
        ({"boxes_BM4": torch.zeros(2, 2, 4)}, ValueError, r"boxes_BM4 must be \[2, 3, 4\].*got \[2, 2, 4\]"),
        ({"match_iou": 1.5}, ValueError, "match_iou must be 0 to 1, got 1.5"),
        ({"match_iou": float("nan")}, ValueError, "match_iou must be 0 to 1, got nan"),
        ({"cells": [(2, 2)]}, ValueError, r"cells must be .* divides the 9 anchors, got \[\(2, 2\)\]"),
        ({"cells": [(1, 1), (-1, 0)]}, ValueError, "cells must be rows and columns of each level, all >= 1"),
        ({"cells": []}, ValueError, "cells must be"),
        ({"cells": [(4, 4)], "anchors_A4": torch.zeros(0, 4)}, ValueError, "divides the 0 anchors"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    fitting = {
        "anchors_A4": torch.zeros(9, 4),
        "boxes_BM4": torch.zeros(2, 3, 4),
        "classes_BM": torch.zeros(2, 3).long(),
    }
    with pytest.raises(error, match=message):
        assign_anchors(**{**fitting, **changes})  # type: ignore[arg-type]
