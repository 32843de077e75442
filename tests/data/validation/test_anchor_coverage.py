"""How well anchors fit: against every anchor there is, and what is advised."""

import numpy as np
import pytest
import torch

from raydet.config import Config, override
from raydet.data.validation.anchor_coverage import at_input, best_iou, coverage
from raydet.models import MODELS
from raydet.models.anchors import make_anchors
from raydet.models.efficientdet_variants import EfficientDetVariant
from raydet.training.state import resolve_model


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientdet_d7x", "efficientdet_demo"])
def test_best_iou_is_the_best_of_all_anchors(name: str) -> None:
    from torchvision.ops import box_iou  # some seconds, for torch's compiler comes with it

    variant = MODELS[name]
    assert isinstance(variant, EfficientDetVariant)
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 256, (300, 2, 2)), axis=1).reshape(300, 4)
    corners[:100, 2:] = np.minimum(corners[:100, :2] + rng.uniform(1, 40, (100, 2)), 256)
    anchors_A4 = make_anchors((256, 256), variant.min_level, variant.max_level, variant.anchor_scale)
    expected = box_iou(torch.from_numpy(corners), anchors_A4.double()).max(dim=1).values.numpy()
    # The anchors are float32: their corners are off by up to 2^-24 of 1000 pixels, an IoU of a 1 px box by 1e-4.
    assert best_iou(corners, 256, variant) == pytest.approx(expected, abs=1e-4)


def test_boxes_are_clipped_and_scaled_as_the_letterbox_does() -> None:
    boxes = np.array([[10.0, 20.0, 100.0, 50.0], [-10.0, 0.0, 1000.0, 50.0]])
    found = at_input(boxes, np.array([[100.0, 200.0]] * 2), 400)
    assert found.tolist() == [[20.0, 40.0, 220.0, 140.0], [0.0, 0.0, 400.0, 100.0]]


def cfg(size: int) -> Config:
    return resolve_model(override(Config(), {"model.image_size": size}))


def test_small_boxes_are_told_to_need_a_larger_input() -> None:
    boxes = np.tile([[100.0, 100.0, 14.0, 14.0]], (50, 1)) + np.random.default_rng(0).uniform(0, 200, (50, 4)) * [
        1,
        1,
        0,
        0,
    ]
    sizes = np.tile([[512.0, 512.0]], (50, 1))
    found, advice = coverage(cfg(512), boxes, sizes)
    assert set(found) == {512, 768, 1024}
    assert (found[512] >= 0.5).mean() < 0.2 < (found[1024] >= 0.5).mean()
    assert len(advice) == 1 and "small boxes need a larger input or smaller anchors" in advice[0]
    assert "model.image_size=512" in advice[0] and " with model.anchor_scale=" in advice[0]


def test_the_anchor_scale_that_is_advised_meets_the_boxes() -> None:
    boxes, sizes = np.tile([[100.0, 100.0, 20.0, 20.0]], (50, 1)), np.tile([[512.0, 512.0]], (50, 1))
    ((said,)) = coverage(cfg(512), boxes, sizes)[1]
    assert "it would be 0% at 768 or 0% with model.anchor_scale=3: small boxes need" in said
    assert coverage(override(cfg(512), {"model.anchor_scale": 3.0}), boxes, sizes)[1] == []


def test_smaller_anchors_meet_small_boxes() -> None:
    boxes = np.tile([[100.0, 100.0, 14.0, 14.0]], (50, 1))
    sizes = np.tile([[512.0, 512.0]], (50, 1))
    found, _ = coverage(override(cfg(512), {"model.anchor_scale": 2.0}), boxes, sizes)
    assert found[512].mean() > coverage(cfg(512), boxes, sizes)[0][512].mean() + 0.2


def test_good_boxes_get_no_advice_and_long_ones_are_named() -> None:
    sizes = np.tile([[512.0, 512.0]], (50, 1))
    assert coverage(cfg(512), np.tile([[100.0, 100.0, 60.0, 60.0]], (50, 1)), sizes)[1] == []
    assert "very long" in coverage(cfg(512), np.tile([[0.0, 100.0, 500.0, 20.0]], (50, 1)), sizes)[1][0]


def test_boxes_far_smaller_than_an_anchor_are_not_called_long_or_large() -> None:
    sizes = np.tile([[512.0, 512.0]], (50, 1))
    ((said),) = coverage(cfg(512), np.tile([[100.0, 100.0, 2.0, 2.0]], (50, 1)), sizes)[1]
    assert "smaller than 16 pixels" in said and "large boxes" not in said


def test_of_very_many_boxes_some_are_drawn_the_same_each_time() -> None:
    boxes = np.random.default_rng(0).uniform(1, 200, (5000, 4))
    sizes = np.full((5000, 2), 512.0)
    one, two = (coverage(cfg(512), boxes, sizes, most=1000)[0][512] for _ in range(2))
    assert len(one) == 1000 and np.array_equal(one, two)
