"""What the focal loss is held to: its definition in float64, as the paper writes it, and inputs for all its tests."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raydet.ops import focal_loss

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def definition(logits_AC: Tensor, labels_A: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    """arXiv:1708.02002 eq. 5 with a smoothed one-hot target, as written, in float64."""
    x_AC = logits_AC.double()
    hit_AC = F.one_hot(labels_A.clamp(min=0), x_AC.shape[-1]).bool() & (labels_A >= 0).unsqueeze(-1)
    target_AC = hit_AC.double() * (1 - smoothing) + smoothing / 2
    cost_AC = F.binary_cross_entropy_with_logits(x_AC, target_AC, reduction="none")
    log_wrong_AC = torch.where(hit_AC, F.logsigmoid(-x_AC), F.logsigmoid(x_AC))
    # Tensors, for torch.where makes float32 of two bare numbers.
    share_AC = torch.where(hit_AC, x_AC.new_tensor(alpha), x_AC.new_tensor(1 - alpha))
    return (share_AC * torch.exp(gamma * log_wrong_AC) * cost_AC)[labels_A != -2].sum()


def both(logits: Tensor, labels: Tensor, *settings: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ours = logits.detach().clone().requires_grad_()
    value = focal_loss(ours, labels, *settings)
    value.backward()
    truth = logits.detach().clone().double().requires_grad_()
    expected = definition(truth, labels, *settings)
    expected.backward()
    assert ours.grad is not None and truth.grad is not None
    return value.detach(), ours.grad, expected.detach(), truth.grad


def example(shape: tuple[int, ...], dtype: torch.dtype, spread: float = 6.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator, dtype=torch.float64) * spread).to(dtype)
    return logits, torch.randint(-2, shape[-1], shape[:-1], generator=generator)
