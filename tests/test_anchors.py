"""Anchors and targets: against effdet's, against a slow definition, and at the edges."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from raydet.anchors import assign, make_anchors
from raydet.boxes import decode, encode


def some_boxes(images: int, most: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(images, most, 2, generator=generator) * side / 2 + 2
    corner = torch.rand(images, most, 2, generator=generator) * (side - size)
    classes = torch.randint(0, 90, (images, most), generator=generator)
    return torch.cat([corner, corner + size], -1), classes


def definition(anchors_A4: Tensor, boxes_K4: Tensor, classes_K: Tensor) -> tuple[Tensor, Tensor]:
    """One image, by the whole IoU matrix: owner or -1 per anchor, and its label."""
    owner_A = torch.full((len(anchors_A4),), -1)
    if len(boxes_K4):
        iou_KA = box_iou(boxes_K4, anchors_A4)
        best_A, index_A = iou_KA.max(0)
        owner_A = torch.where(best_A >= 0.5, index_A, -1)
        for k in reversed(range(len(boxes_K4))):  # the first box wins a shared anchor
            if iou_KA[k].max() > 0:
                owner_A[iou_KA[k].argmax()] = k
    label_A = torch.where(owner_A >= 0, classes_K[owner_A.clamp(min=0)] if len(classes_K) else -1, -1)
    return owner_A, label_A


@pytest.mark.parametrize(("side", "levels", "scale"), [(128, (3, 7), 4.0), (64, (3, 5), 3.0), (256, (3, 8), 4.0)])
def test_targets_equal_the_definition(side: int, levels: tuple[int, int], scale: float) -> None:
    anchors_A4 = make_anchors((side, side), *levels, scale)
    boxes_BM4, classes_BM = some_boxes(5, 9, side)
    classes_BM[1, 4:] = -1
    classes_BM[2] = -1
    boxes_BM4[3, 1] = boxes_BM4[3, 0]  # two boxes in one place
    targets = assign(anchors_A4, boxes_BM4, classes_BM)
    for i in range(5):
        real = classes_BM[i] >= 0
        owner_A, label_A = definition(anchors_A4, boxes_BM4[i][real], classes_BM[i][real])
        assert torch.equal(targets.labels_BA[i], label_A)
        assert targets.positives_B[i] == (owner_A >= 0).sum()
        positive = owner_A >= 0
        if positive.any():
            mine = boxes_BM4[i][real][owner_A[positive]]
            torch.testing.assert_close(targets.codes_BA4[i][positive], encode(mine, anchors_A4[positive]))


def test_targets_and_losses_equal_effdets() -> None:
    pytest.importorskip("effdet")
    from effdet.anchors import AnchorLabeler, Anchors
    from effdet.config import get_efficientdet_config
    from effdet.loss import DetectionLoss

    from raydet.config import Loss
    from raydet.losses import detection_loss

    config = get_efficientdet_config("efficientdet_d0")
    config.image_size = (256, 256)
    theirs = Anchors.from_config(config)
    anchors_A4 = make_anchors((256, 256), 3, 7, 4.0)
    torch.testing.assert_close(theirs.boxes[:, [1, 0, 3, 2]], anchors_A4, rtol=0, atol=1e-4)

    boxes_BM4, classes_BM = some_boxes(4, 12, 256)
    boxes_BM4[0, 3] = boxes_BM4[0, 2]
    classes_BM[1, 5:], classes_BM[2] = -1, -1
    targets = assign(anchors_A4, boxes_BM4, classes_BM)
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


def test_a_batch_without_a_single_box_has_only_background() -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    for most in (0, 3):
        targets = assign(anchors_A4, torch.zeros(2, most, 4), torch.full((2, most), -1))
        assert (targets.labels_BA == -1).all() and (targets.codes_BA4 == 0).all() and (targets.positives_B == 0).all()


def test_padding_changes_nothing() -> None:
    anchors_A4 = make_anchors((128, 128), 3, 7, 4.0)
    boxes_BM4, classes_BM = some_boxes(2, 6, 128)
    wide = torch.cat([boxes_BM4, torch.rand(2, 5, 4) * 128], 1)
    more = torch.cat([classes_BM, torch.full((2, 5), -1)], 1)
    for a, b in zip(assign(anchors_A4, boxes_BM4, classes_BM), assign(anchors_A4, wide, more), strict=True):
        assert torch.equal(a, b)


def test_with_distinct_matches_no_box_goes_without_an_anchor() -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    boxes_BM4 = torch.tensor([[[10.0, 10.0, 14.0, 14.0], [10.0, 10.0, 14.0, 14.0]]])  # too small for IoU 0.5
    classes_BM = torch.tensor([[3, 7]])
    shared = assign(anchors_A4, boxes_BM4, classes_BM)
    assert shared.positives_B.item() == 1 and set(shared.labels_BA.unique().tolist()) == {-1, 3}
    own = assign(anchors_A4, boxes_BM4, classes_BM, distinct=True)
    assert own.positives_B.item() == 2 and set(own.labels_BA.unique().tolist()) == {-1, 3, 7}


def test_no_target_is_ever_infinite_or_nan() -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    boxes = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 64.0, 64.0], [63.9, 63.9, 64.0, 64.0]]])
    targets = assign(anchors_A4, boxes, torch.tensor([[0, 1, 2]]))
    assert targets.codes_BA4.isfinite().all()


def test_decode_is_the_inverse_of_encode() -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    boxes = some_boxes(1, len(anchors_A4), 64)[0][0]
    torch.testing.assert_close(decode(encode(boxes, anchors_A4), anchors_A4), boxes, rtol=1e-4, atol=1e-3)


def test_a_size_that_the_levels_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 128"):
        make_anchors((500, 512), 3, 7, 4.0)
