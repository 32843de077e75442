"""Colour changes repeat by seed and leave torch's generators alone; mixup mixes neighbours."""

import numpy as np
import torch

from raydet.data.augment import mixup, mixup_weight, vary
from tests.data.makers import picture


def test_variation_depends_on_the_seed_alone() -> None:
    image = picture(0, (40, 50))
    varied = [np.asarray(vary(image, seed, "imagenet", 0.4)) for seed in (1, 2, 3, 4)]
    torch.rand(5)
    again = [np.asarray(vary(image, seed, "imagenet", 0.4)) for seed in (1, 2, 3, 4)]
    assert all(np.array_equal(a, b) for a, b in zip(varied, again, strict=True))
    assert len({a.tobytes() for a in varied}) == 4


def test_variation_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    vary(picture(0, (40, 50)), 7, "imagenet")
    assert torch.equal(before, torch.get_rng_state())


def test_no_variation_returns_the_picture_itself() -> None:
    image = picture(0, (8, 8))
    assert vary(image, 1) is image


def test_shifted_pictures_are_filled_with_grey_128() -> None:
    image = picture(0, (64, 64)).point(lambda v: 200 + v // 8)
    corners = [np.asarray(vary(image, seed, "imagenet"))[[0, 0, -1, -1], [0, -1, 0, -1]] for seed in range(200)]
    assert any((corner == 128).all() for four in corners for corner in four)


def test_mixup_mixes_each_sample_with_its_neighbour() -> None:
    images_B3HW = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    mixed_B3HW, targets_BC = mixup(images_B3HW, torch.eye(5), 0.75)
    assert torch.allclose(mixed_B3HW[:, 0, 0, 0], torch.tensor([0.25, 0.75, 2.25, 2.75, 4.0]))
    assert torch.allclose(targets_BC.sum(1), torch.ones(5))
    assert targets_BC[0, :2].tolist() == [0.75, 0.25]
    assert torch.equal(mixup(images_B3HW, torch.eye(5), 1.0)[0], images_B3HW)


def test_mixup_keeps_the_memory_layout() -> None:
    images_B3HW = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    mixed_B3HW, _ = mixup(images_B3HW, torch.eye(4), 0.3)
    assert mixed_B3HW.is_contiguous(memory_format=torch.channels_last)


def test_mixup_weight_is_one_beta_draw_a_step() -> None:
    weights = [mixup_weight(0, epoch, step, 0.2) for epoch in range(20) for step in range(50)]
    assert mixup_weight(0, 0, 0, 0.2) == weights[0]
    assert len(set(weights)) > 990
    assert abs(np.mean(weights) - 0.5) < 0.04
    assert abs(np.var(weights) - 0.25 / 1.4) < 0.01  # of Beta(a, a): 1 / (4 (2 a + 1))
    assert mixup_weight(0, 0, 0, 0.0) == 1.0
