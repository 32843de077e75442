"""Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002, eq. 5) without a one-hot target, gradient found on the way.

With p = sigmoid(x), s = softplus(x) = -log(1 - p) and the smoothed target t (0 becomes e/2, 1 becomes 1 - e/2), the
cross entropy is s - t x, and one logit costs

    background  (1 - alpha) p^gamma (s - t x)          gradient (1 - alpha) p^gamma (gamma (1 - p) (s - t x) + p - t)
    its class   alpha (1 - p)^gamma (s - t x)          gradient alpha (1 - p)^gamma (-gamma p (s - t x) + p - t)

At most one logit of an anchor is not background. So all of them are computed as background, in chunks that stay in the
cache, and the A labelled ones are corrected after. log p = x - s, so p and p^gamma are one exp each and never overflow.
Given up: the gradient is kept from the forward pass (as much memory as the logits), and a second backward is refused.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 1 << 17  # logits; four float32 buffers of it fill 2 MiB, the L2 cache of a server core


def focal_loss(logits_AC: Tensor, labels_A: Tensor, alpha: float, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """Sum over A anchors and C classes, float32 scalar (float64 for float64). Divide by the positives yourself.

    Args:
        logits_AC: before the sigmoid; float16, bfloat16, float32 or float64. Leading dimensions are free: [..., C].
        labels_A: int64, logits' shape less the last dimension; a class in [0, C), -1 background, -2 counts for nothing.
        alpha: weight of the labelled logits, 0 to 1; all others weigh 1 - alpha.
        gamma: exponent that plays easy examples down, >= 0.
        label_smoothing: e above, 0 to 1.

    Raises:
        ValueError: shapes do not fit.
    """
    if labels_A.shape != logits_AC.shape[:-1]:
        raise ValueError(f"labels {tuple(labels_A.shape)} do not fit logits {tuple(logits_AC.shape)}")
    loss: Tensor = _FocalLoss.apply(logits_AC, labels_A, alpha, gamma, label_smoothing)
    return loss


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels_A, alpha, gamma, smoothing):  # type: ignore[no-untyped-def]
        x_AC = logits.detach().reshape(-1, logits.shape[-1])
        labels_A = labels_A.reshape(-1)
        wants_grad = logits.requires_grad
        loss, grad_AC = _all_background(x_AC, labels_A, alpha, gamma, smoothing, wants_grad)
        loss = loss + _correction(x_AC, labels_A, alpha, gamma, smoothing, grad_AC)
        if wants_grad:
            ctx.save_for_backward(grad_AC.reshape(logits.shape))
        return loss.to(torch.promote_types(torch.float32, logits.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        (grad,) = ctx.saved_tensors
        return grad * grad_output.to(grad.dtype), None, None, None, None


def _all_background(
    x_AC: Tensor, labels_A: Tensor, alpha: float, gamma: float, smoothing: float, wants_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss (float64) and gradient of all logits taken as background; ignored anchors count for nothing."""
    grad_AC = torch.empty_like(x_AC, memory_format=torch.contiguous_format) if wants_grad else x_AC.new_empty(0)
    ignores = x_AC.is_cuda or bool((labels_A == -2).any())  # a GPU is not asked: that would be a synchronisation
    rows = x_AC.shape[0] if x_AC.is_cuda else max(1, _CHUNK // max(1, x_AC.shape[1]))
    loss = x_AC.new_zeros((), dtype=torch.float64)
    for start in range(0, x_AC.shape[0], rows):
        part = slice(start, start + rows)
        x = x_AC[part].to(torch.promote_types(torch.float32, x_AC.dtype))
        if ignores:
            kept = (labels_A[part] != -2).unsqueeze(1)
            # A finite logit in their place: 0 x inf would be NaN.
            x = x.masked_fill(~kept, 0.0)
        cost = torch.nn.functional.softplus(x, threshold=_linear_from(x))
        log_p = x - cost
        weight = torch.mul(log_p, gamma).exp_().mul_(1 - alpha)
        if smoothing:
            cost.sub_(x, alpha=smoothing / 2)
        if ignores:
            weight.mul_(kept)
        loss += (weight * cost).sum()
        if wants_grad:
            p = log_p.exp_()
            slope = torch.addcmul(cost, cost, p, value=-1).mul_(gamma).add_(p)
            if smoothing:
                slope.sub_(smoothing / 2)
            torch.mul(slope, weight, out=grad_AC[part]) if slope.dtype == grad_AC.dtype else grad_AC[part].copy_(
                slope.mul_(weight)
            )
    return loss, grad_AC


def _linear_from(x: Tensor) -> float:
    """Where softplus(x) - x is below the rounding of x, so that x itself is exact."""
    return 40.0 if x.dtype == torch.float64 else 20.0


def _correction(
    x_AC: Tensor, labels_A: Tensor, alpha: float, gamma: float, smoothing: float, grad_AC: Tensor
) -> Tensor:
    """What the labelled logits cost more than they did as background; their gradient is put in place of the other."""
    if x_AC.numel() == 0:
        return x_AC.new_zeros((), dtype=torch.float64)
    labelled_A1 = (labels_A >= 0).unsqueeze(1)
    class_A1 = labels_A.clamp(min=0).unsqueeze(1)
    x = x_AC.gather(1, class_A1).to(torch.promote_types(torch.float32, x_AC.dtype)).masked_fill(~labelled_A1, 0.0)
    s = torch.nn.functional.softplus(x, threshold=_linear_from(x))
    p, q, e = (x - s).exp(), (-s).exp(), smoothing / 2
    as_background = (1 - alpha) * (gamma * (x - s)).exp() * (s - e * x)
    cost = torch.nn.functional.softplus(-x, threshold=_linear_from(x)) + e * x  # s - (1 - e) x, exact for large x
    weight = alpha * (-gamma * s).exp()
    if grad_AC.numel():
        slope = weight * (-gamma * p * cost - q + e)  # p - t = -(1 - p) + e
        old = grad_AC.gather(1, class_A1)
        grad_AC.scatter_(1, class_A1, torch.where(labelled_A1, slope.to(old.dtype), old))
    return torch.where(labelled_A1, (weight * cost).double() - as_background.double(), 0.0).sum()
