"""Variation of colours and mixing of pictures. torchvision draws from torch's generator, so that is seeded per sample.

torchvision is imported at first use: 3 to 5 s that a run without AutoAugment and colour jitter need not pay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image

_MIXUP_STREAM = 0x6D6978  # keeps mixup's draws apart from the samples'


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's CPU generator starts from `seed`; afterwards it is as before."""
    # Not torch.manual_seed: it would also reset the GPU's generator, which fork_rng(devices=[]) does not bring back.
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def vary(
    image: Image.Image, seed: int, autoaugment: Literal["imagenet"] | None = None, color_jitter: float = 0.0
) -> Image.Image:
    """Return the RGB picture after colour jitter and AutoAugment (ImageNet policy, arXiv:1805.09501, grey fill 128).

    Args:
        seed: decides every draw, 0 to 2**63 - 1.
        color_jitter: brightness, contrast and saturation are each scaled by U(1 - it, 1 + it); 0: off.
    """
    if autoaugment is None and color_jitter == 0:
        return image
    with seeded(seed):
        for transform in _transforms(autoaugment, color_jitter):
            image = transform(image)
    return image


@lru_cache(maxsize=8)
def _transforms(autoaugment: str | None, color_jitter: float) -> list[Callable[[Image.Image], Image.Image]]:
    from torchvision.transforms import v2

    jitter = [v2.ColorJitter(color_jitter, color_jitter, color_jitter)] if color_jitter else []
    policy = [v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=[128] * 3)] if autoaugment else []
    return [*jitter, *policy]


def prepare(autoaugment: str | None, color_jitter: float) -> None:
    """Import what `vary` will need, once and before loader processes fork, rather than in each of them."""
    if autoaugment is not None or color_jitter:
        _transforms(autoaugment, color_jitter)


def mixup(
    images_B3HW: torch.Tensor, targets_BC: torch.Tensor, weight: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight x each sample + (1 - weight) x its neighbour (i with i ^ 1), images and targets alike.

    Pairs are neighbours so that they stay together however the global batch is split into even parts
    (mixup, arXiv:1710.09412, pairs at random; the order is random already). A last one without neighbour stays itself.
    """
    count = len(images_B3HW)
    other_B = torch.arange(count, device=images_B3HW.device) ^ 1
    other_B = other_B.clamp(max=count - 1)
    return (
        torch.lerp(images_B3HW[other_B], images_B3HW, weight),
        torch.lerp(targets_BC[other_B], targets_BC, weight),
    )


def mixup_weight(seed: int, epoch: int, step: int, alpha: float) -> float:
    """Return mixup's weight of one step, Beta(alpha, alpha), the same on all ranks; 1.0 when alpha is 0."""
    if alpha == 0:
        return 1.0
    return float(np.random.default_rng([seed, epoch, step, _MIXUP_STREAM]).beta(alpha, alpha))
