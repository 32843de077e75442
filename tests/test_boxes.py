"""From logits to detections: the same decisions as effdet's, the best first."""

import pytest
import torch

from raydet.anchors import make_anchors
from raydet.boxes import decode, detect

SETTINGS = {"top_k": 5000, "score_threshold": 0.0, "nms_iou": 0.5, "max_detections": 100}


def outputs(seed: int, classes: int, side: int = 128) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    anchors_A4 = make_anchors((side, side), 3, 7, 4.0)
    return torch.randn(2, len(anchors_A4), classes) * 2 - 4, torch.randn(2, len(anchors_A4), 4) * 0.3, anchors_A4


@pytest.mark.parametrize("classes", [5, 90])
def test_detections_equal_effdets(classes: int) -> None:
    pytest.importorskip("effdet")
    from effdet.anchors import generate_detections

    logits_BAC, codes_BA4, anchors_A4 = outputs(0, classes)
    found = detect(logits_BAC, codes_BA4, anchors_A4, **SETTINGS)
    yxyx = anchors_A4[:, [1, 0, 3, 2]]
    for logits_AC, codes_A4, ours in zip(logits_BAC, codes_BA4, found, strict=True):
        best, index = logits_AC.reshape(-1).topk(5000)
        theirs = generate_detections(
            best[:, None],
            codes_A4[index // classes][:, [1, 0, 3, 2]],
            yxyx,
            index // classes,
            index % classes,
            None,
            None,
            max_det_per_image=100,
        )
        torch.testing.assert_close(ours.boxes_K4, theirs[:, :4], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(ours.scores_K, theirs[:, 4], rtol=1e-6, atol=0)
        assert torch.equal(ours.classes_K + 1, theirs[:, 5].long())


def test_a_threshold_drops_the_rest_and_keeps_the_order() -> None:
    logits_BAC, codes_BA4, anchors_A4 = outputs(1, 3)
    whole = detect(logits_BAC, codes_BA4, anchors_A4, **SETTINGS)
    some = detect(logits_BAC, codes_BA4, anchors_A4, **(SETTINGS | {"score_threshold": 0.5}))
    for a, b in zip(whole, some, strict=True):
        count = int((a.scores_K > 0.5).sum())
        assert 0 < len(b.scores_K) <= 100 and torch.equal(a.boxes_K4[:count], b.boxes_K4[:count])
        assert (b.scores_K > 0.5).all() and (b.scores_K.diff() <= 0).all()


def test_nothing_above_the_threshold_is_no_detection() -> None:
    logits_BAC, codes_BA4, anchors_A4 = outputs(2, 3)
    (found, _) = detect(logits_BAC - 100, codes_BA4, anchors_A4, **(SETTINGS | {"score_threshold": 0.5}))
    assert found.boxes_K4.shape == (0, 4) and len(found.scores_K) == 0


def test_fewer_pairs_than_top_k_are_no_error() -> None:
    """effdet fails here: "selected index k out of range"."""
    logits_BAC, codes_BA4, anchors_A4 = outputs(3, 1)
    assert len(detect(logits_BAC, codes_BA4, anchors_A4, **SETTINGS)) == 2


def test_overlapping_boxes_of_two_classes_both_stay() -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    logits_BAC = torch.full((1, len(anchors_A4), 2), -20.0)
    logits_BAC[0, 99, 0], logits_BAC[0, 99, 1], logits_BAC[0, 102, 0] = 3.0, 2.0, 1.0
    codes_BA4 = torch.zeros(1, len(anchors_A4), 4)
    codes_BA4[0, 102] = torch.tensor([0.0, 0.0, -0.23, -0.23])  # the next larger scale, shrunk onto the first
    (found,) = detect(logits_BAC, codes_BA4, anchors_A4, **(SETTINGS | {"score_threshold": 0.1}))
    assert found.classes_K.tolist() == [0, 1]
    torch.testing.assert_close(found.boxes_K4[0], decode(torch.zeros(4), anchors_A4[99]))


def test_boxes_that_leave_the_picture_do_not_meet_those_of_another_class() -> None:
    """torchvision's batched_nms lets them: class 1 at x = -58 lands on class 0 at the right edge."""
    anchors_A4 = torch.tensor([[40.0, 0.0, 100.0, 60.0], [-60.0, 0.0, 0.0, 60.0]])
    logits_BAC = torch.tensor([[[3.0, -20.0], [-20.0, 2.0]]])
    (found,) = detect(logits_BAC, torch.zeros(1, 2, 4), anchors_A4, **(SETTINGS | {"score_threshold": 0.5}))
    assert found.classes_K.tolist() == [0, 1]
