"""Colour changes repeat by seed and leave torch's generators alone; mixup mixes neighbours."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from raydet.data.images.color import mixup, mixup_weight, variation


@pytest.mark.parametrize(("policy", "jitter"), [("imagenet", 0.4), ("imagenet", 0.0), (None, 0.4)])
def test_variation_depends_on_the_seed_alone(policy: Any, jitter: float) -> None:
    varied = [variation(seed, policy, jitter) for seed in range(50)]
    torch.rand(5)
    np.random.rand(5)
    assert [variation(seed, policy, jitter) for seed in range(50)] == varied
    assert len(set(varied)) > 25


def test_jitter_comes_before_autoaugment() -> None:
    names = [[operation.name for operation in variation(seed, "imagenet", 0.4)] for seed in range(50)]
    assert all(some[:3] == ["Brightness", "Contrast", "Color"] for some in names)
    assert {len(some) for some in names} == {3, 4, 5}


def test_variation_leaves_the_global_generators_as_they_were() -> None:
    before, numpys = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    variation(7, "imagenet", 0.4)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpys, np.random.get_state(legacy=False)["state"]["key"])


def test_no_variation_is_no_operation() -> None:
    assert variation(1) == ()


@pytest.mark.slow
def test_variation_does_not_import_torchvision() -> None:
    code = "import numpy as np, sys; from raydet.data.images.color import variation; "
    code += "from raydet.data.images.autoaugment import apply; "
    code += "[apply(np.zeros((4, 4, 3), np.uint8), variation(seed, 'imagenet', 0.4)) for seed in range(40)]; "
    code += "sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
