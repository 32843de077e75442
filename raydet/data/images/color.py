"""Variation of colours and mixing of images. All draws are numpy's, seeded by the sample or the step."""

from typing import Literal

import numpy as np
import torch

from raydet.data.images import autoaugment as aa

_MIXUP_STREAM = 0x6D6978  # keeps mixup's draws apart from the samples'


def variation(
    seed: int, autoaugment: Literal["imagenet"] | None = None, color_jitter: float = 0.0
) -> tuple[aa.Operation, ...]:
    """Return what is done with one image: colour jitter, then AutoAugment.

    Args:
        seed: decides every draw, 0 or more.
        color_jitter: brightness, contrast and saturation are each scaled by U(1 - it, 1 + it); 0: off.
    """
    if autoaugment is None and color_jitter == 0:
        return ()
    rng = np.random.default_rng(seed)
    jitter = aa.draw_jitter(rng, color_jitter) if color_jitter else ()
    return jitter + (aa.draw(rng) if autoaugment else ())


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
