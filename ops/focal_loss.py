"""Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002, eq. 5) without a one-hot target.

With p = sigmoid(x), s = softplus(x) = -log(1 - p) and the smoothed target t (0 becomes e/2, 1 becomes 1 - e/2), the
cross entropy is s - t x, and one logit costs

    background  (1 - alpha) p^gamma (s - t x)          gradient (1 - alpha) p^gamma (gamma (1 - p) (s - t x) + p - t)
    its class   alpha (1 - p)^gamma (s - t x)          gradient alpha (1 - p)^gamma (-gamma p (s - t x) + p - t)

log p = x - s, so p and p^gamma are one exp each and never overflow. All is computed in float32 (float64 for float64).

CPU: at most one logit of an anchor is not background. So all of them are computed as background, in chunks that stay in
the cache, and the A labelled ones are corrected after. Where a gradient is wanted it is found on the way and kept.
GPU: focal_loss.cu. The value reads the logits once; the gradient reads them again and writes once, keeping nothing.

Given up: a second derivative (refused). The kept gradient, as much memory as the logits, is scaled where it lies.
Half types keep none: rounded before the loss scale is multiplied in, a small gradient would be 0.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from raydet.ops import raw

_CHUNK = 1 << 17  # logits; four float32 buffers of it fill 2 MiB, the L2 cache of a server core
_THREADS = 256
# Always as many, so that the sum is made in one order everywhere. 8 blocks for each of an H200's 132 multiprocessors,
# all it can hold: 16 bytes a thread are then 4.3 MB in flight, and 4.8 TB/s x 700 ns want 3.4 MB.
_BLOCKS = 1056
# The gradient is not summed: more blocks than fit at once even out the load on any GPU, at some vectors a thread.
_MOST_GRADIENT_BLOCKS = 8 * _BLOCKS
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

STREAMING = {"focal_loss": ("ld",), "focal_loss_gradient": ("ld", "st")}
"""Kernels that must load or store 16 bytes an instruction; tests/ops/test_compile.py looks."""


def kernels() -> list[raw.Kernel]:
    """Return every variant, for the tests that compile them."""
    return [variant(dtype) for dtype in _DTYPES for variant in (_value_kernel, _gradient_kernel)]


def focal_loss(logits_AC: Tensor, labels_A: Tensor, alpha: float, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """Sum over A anchors and C classes, float32 scalar (float64 for float64). Divide by the positives yourself.

    Args:
        logits_AC: before the sigmoid; float16, bfloat16, float32 or float64. Leading dimensions are free: [..., C].
        labels_A: int64, logits' shape less the last dimension; a class in [0, C), -1 background, -2 counts for nothing.
            Any other is an error on the CPU. A GPU is not asked, for it would have to be waited for: background there.
        alpha: weight of the labelled logits, 0 to 1; all others weigh 1 - alpha.
        gamma: exponent that plays easy examples down, >= 0.
        label_smoothing: e above, 0 to 1.

    Raises:
        TypeError: dtypes. ValueError: shapes that do not fit, devices that differ, a number or a label out of range.
    """
    _check_tensors(logits_AC, labels_A)
    for name, number, most in (("alpha", alpha, 1), ("gamma", gamma, None), ("label_smoothing", label_smoothing, 1)):
        if not 0 <= number <= (torch.finfo().max if most is None else most):  # so put that NaN is refused too
            raise ValueError(f"{name} must be {'>= 0 and finite' if most is None else '0 to 1'}, got {number}")
    wants_grad = logits_AC.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    settings = float(alpha), float(gamma), float(label_smoothing)
    loss: Tensor = _value_op(logits_AC, labels_A, *settings, wants_grad)[0]
    return loss


def _check_tensors(logits: Tensor, labels: Tensor) -> None:
    if logits.dtype not in _DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise TypeError(f"logits must be one of {allowed}, got {logits.dtype}; convert them with .float()")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be torch.int64, got {labels.dtype}; convert them with .long()")
    if logits.ndim == 0 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}: "
            "they must have the logits' shape less its last dimension, the classes"
        )
    if labels.device != logits.device:
        raise ValueError(f"labels are on {labels.device}, logits on {logits.device}; move them with .to(logits.device)")


@torch.library.custom_op("raydet::focal_loss", mutates_args=())
def _value_op(
    logits: Tensor, labels: Tensor, alpha: float, gamma: float, smoothing: float, wants_grad: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss, and the gradient where `_keeps`, else nothing."""
    kept = _kept_like(logits, wants_grad)
    if raw.runs_kernel(logits, "logits"):
        return _value_by_kernel(logits, labels, alpha, gamma, smoothing), kept
    return _in_pytorch(logits, labels, alpha, gamma, smoothing, kept if kept.numel() else None), kept


@_value_op.register_fake
def _(
    logits: Tensor, labels: Tensor, alpha: float, gamma: float, smoothing: float, wants_grad: bool
) -> tuple[Tensor, Tensor]:
    return logits.new_empty((), dtype=_computed(logits)), _kept_like(logits, wants_grad)


@torch.library.custom_op("raydet::focal_loss_gradient", mutates_args=())
def _gradient_op(
    grad_output: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float, smoothing: float
) -> Tensor:
    """Return the gradient of the logits. It has none itself: torch then refuses a second derivative."""
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if raw.runs_kernel(logits, "logits"):
        _gradient_by_kernel(grad_output, logits, labels, grad, alpha, gamma, smoothing)
    else:
        _in_pytorch(logits, labels, alpha, gamma, smoothing, grad, grad_output)
    return grad


@_gradient_op.register_fake
def _(grad_output: Tensor, logits: Tensor, labels: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, *ctx.settings = inputs[:5]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else zeros, as many as logits, would be made as the gradient of what is kept
    ctx.save_for_backward(logits, labels)
    # Not saved, for a saved tensor must not be changed; and a traced one is no memory that could be used again.
    ctx.kept = output[1] if type(output[1]) is Tensor else None


def _backward(ctx: Any, grad_loss: Tensor | None, grad_kept: None) -> tuple[Tensor | None, ...]:
    kept, ctx.kept = ctx.kept, None
    if grad_loss is None:
        return (None,) * 6
    if kept is not None and kept.numel() and not torch.is_grad_enabled():
        # Its memory becomes the gradient; a second pass over the same graph computes it again.
        return kept.mul_(grad_loss), None, None, None, None, None
    return _gradient_op(grad_loss, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


_value_op.register_autograd(_backward, setup_context=_save)


def _computed(logits: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, logits.dtype)


def _kept_like(logits: Tensor, wants_grad: bool) -> Tensor:
    keeps = wants_grad and logits.device.type == "cpu" and logits.dtype == _computed(logits) and raw.on_host is None
    return torch.empty_like(logits, memory_format=torch.contiguous_format) if keeps else logits.new_empty(0)


@cache
def _value_kernel(dtype: torch.dtype) -> raw.Kernel:
    computed, number, defines = _build(dtype)
    tensors = {"logits": dtype, "labels": torch.int64, "partials": computed, "ticket": torch.int32, "loss": computed}
    return raw.Kernel("focal_loss.cu", "focal_loss", {**tensors, **_numbers(number)}, defines)


@cache
def _gradient_kernel(dtype: torch.dtype) -> raw.Kernel:
    computed, number, defines = _build(dtype)
    tensors = {"logits": dtype, "labels": torch.int64, "grad_output": computed, "grad": dtype}
    return raw.Kernel("focal_loss.cu", "focal_loss_gradient", {**tensors, **_numbers(number)}, defines)


def _build(dtype: torch.dtype) -> tuple[torch.dtype, raw.Kind, tuple[tuple[str, str], ...]]:
    """Return what is computed in, as tensor and as number, and the macros of the kernels for logits of `dtype`."""
    computed = torch.promote_types(torch.float32, dtype)
    number: raw.Kind = "float64" if computed == torch.float64 else "float32"
    return computed, number, (("SCALAR", raw.CXX[dtype]), ("ACC", raw.CXX[computed]))


def _numbers(number: raw.Kind) -> dict[str, raw.Kind]:
    return {"rows": "int64", "classes": "int32", "alpha": number, "gamma": number, "background_target": number}


def _value_by_kernel(logits: Tensor, labels: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    loss = logits.new_zeros((), dtype=_computed(logits))
    if logits.numel():
        partials, ticket = loss.new_empty(_BLOCKS), loss.new_zeros(1, dtype=torch.int32)
        tensors = raw.aligned(logits), raw.aligned(labels), partials, ticket, loss
        sizes = labels.numel(), logits.shape[-1]
        _value_kernel(logits.dtype)((_BLOCKS,), (_THREADS,), *tensors, *sizes, alpha, gamma, smoothing / 2)
    return loss


def _gradient_by_kernel(
    grad_output: Tensor, logits: Tensor, labels: Tensor, grad: Tensor, alpha: float, gamma: float, smoothing: float
) -> None:
    if not logits.numel():
        return
    grid = min(-(-logits.nbytes // (16 * _THREADS)), _MOST_GRADIENT_BLOCKS)
    tensors = raw.aligned(logits), raw.aligned(labels), raw.aligned(grad_output), grad
    sizes = labels.numel(), logits.shape[-1]
    _gradient_kernel(logits.dtype)((grid,), (_THREADS,), *tensors, *sizes, alpha, gamma, smoothing / 2)


def _in_pytorch(
    logits: Tensor,
    labels: Tensor,
    alpha: float,
    gamma: float,
    smoothing: float,
    grad: Tensor | None,
    scale: Tensor | None = None,
) -> Tensor:
    """Return the loss; write the gradient, times `scale`, into `grad`."""
    if not logits.numel():
        return logits.new_zeros((), dtype=_computed(logits))
    x_AC, labels_A = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    ignores = x_AC.is_cuda or _has_ignored(labels_A, x_AC.shape[1])
    rows = x_AC.shape[0] if x_AC.is_cuda else min(x_AC.shape[0], max(1, _CHUNK // x_AC.shape[1]))
    grad_AC = None if grad is None else grad.view_as(x_AC)
    space = x_AC.new_empty(4, rows, x_AC.shape[1], dtype=_computed(logits))
    loss = x_AC.new_zeros((), dtype=torch.float64)
    for start in range(0, x_AC.shape[0], rows):
        part = slice(start, start + rows)
        ignored = labels_A[part] == -2 if ignores else None
        out = None if grad_AC is None else grad_AC[part]
        loss += _as_background(x_AC[part], ignored, (1 - alpha, gamma, smoothing / 2), space, out, scale)
    loss += _correction(x_AC, labels_A, (alpha, gamma, smoothing / 2), grad_AC, scale)
    return loss.to(_computed(logits))


def _has_ignored(labels_A: Tensor, classes: int) -> bool:
    least, most = (int(label) for label in torch.aminmax(labels_A))
    if least < -2 or most >= classes:
        raise ValueError(
            f"labels must be a class in [0, {classes}), -1 for background or -2 to count for nothing, "
            f"got {least if least < -2 else most}"
        )
    return least == -2


def _as_background(
    x: Tensor,
    ignored: Tensor | None,
    settings: tuple[float, float, float],
    space: Tensor,
    grad: Tensor | None,
    scale: Tensor | None,
) -> Tensor:
    """Return the loss of a chunk of logits, all taken as background; write its gradient into `grad`."""
    share, gamma, target = settings
    log_p, cost, weight, spare = space[:, : x.shape[0]]
    if ignored is not None or x.dtype != spare.dtype:
        x = _zero_rows(spare.copy_(x), ignored)  # a finite logit where none counts: 0 x inf would be NaN
    tail = torch.abs(x, out=log_p).neg_().exp_().log1p_()
    torch.clamp(x, min=0, out=cost).add_(tail)
    torch.sub(x, cost, out=log_p)
    if target:
        cost.sub_(x, alpha=target)
    weight = _zero_rows(torch.mul(log_p, gamma, out=weight).exp_().mul_(share), ignored)
    loss = torch.mul(weight, cost, out=spare).sum()
    if grad is not None:
        p = log_p.exp_()
        slope = cost.addcmul_(cost, p, value=-1).mul_(gamma).add_(p)
        if target:
            slope.sub_(target)
        if scale is not None:
            weight.mul_(scale)
        # Half types are rounded here, once, with the scale inside.
        torch.mul(slope, weight, out=grad) if slope.dtype == grad.dtype else grad.copy_(slope.mul_(weight))
    return loss


def _zero_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """Set the rows that are true in `rows` to 0, in place."""
    if rows is None:
        return x
    if x.is_cuda:  # which rows they are, the host would have to wait for
        return x.masked_fill_(rows.unsqueeze(1), 0.0)
    return x.index_fill_(0, rows.nonzero().squeeze(1), 0.0)


def _correction(
    x_AC: Tensor, labels_A: Tensor, settings: tuple[float, float, float], grad_AC: Tensor | None, scale: Tensor | None
) -> Tensor:
    """Return what labelled logits cost more than they did as background; put their gradient in place of the other."""
    alpha, gamma, target = settings
    labelled = (labels_A >= 0) & (labels_A < x_AC.shape[1])
    # A CPU looks at the labelled rows alone, one in a hundred. How many there are, a GPU's host would have to wait for.
    rows = torch.arange(len(labels_A), device=labels_A.device) if x_AC.is_cuda else labelled.nonzero().squeeze(1)
    labelled, cells = labelled[rows], (rows, labels_A[rows].clamp(0, x_AC.shape[1] - 1))
    x = x_AC[cells].to(_computed(x_AC)).masked_fill(~labelled, 0.0)
    zero = torch.zeros_like(x)
    s, cost = torch.logaddexp(x, zero), torch.logaddexp(-x, zero) + target * x  # cost = s - (1 - target) x, unrounded
    p, q = (x - s).exp(), (-s).exp()
    as_background = (1 - alpha) * (gamma * (x - s)).exp() * (s - target * x)
    weight = alpha * (-gamma * s).exp()
    if grad_AC is not None:
        slope = weight * (-gamma * p * cost - q + target) * (1.0 if scale is None else scale)  # p - t = -q + target
        grad_AC[cells] = torch.where(labelled, slope.to(grad_AC.dtype), grad_AC[cells])
    return torch.where(labelled, (weight * cost).double() - as_background.double(), 0.0).sum()
