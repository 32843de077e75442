"""Steps over all tensors of a model in one launch: its EMA, and RMSprop, for which torch has no fused step.

    average <- average + (1 - decay) (value - average)

    g <- gradient / scale + weight_decay p            (Tieleman & Hinton 2012, with TensorFlow's momentum,
    s <- alpha s + (1 - alpha) g^2                     as torch.optim.RMSprop has it: eps is outside the root)
    v <- momentum v + g / (sqrt(s) + eps)
    p <- p - lr v

SGD and AdamW are left to torch, whose `fused=True` already does this. What a launch saves over torch's list operations
is little (OPS: 0.1 % of a step); it is here because a graph needs the decay, the rate and the verdict on overflow in
device memory, which torch's lists take from the host. On a CPU both are torch's list operations.

Promises: no reduction, so the bits do not depend on the launch. The kernel's average rounds the difference, the product
and the sum; torch's lerp fuses the last two on some machines, and may differ in the last bit.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydet.ops import raw

_PIECE = (
    8192  # elements of a block: small enough that B0 fills the multiprocessors of an H200, large enough for 8 loads
)
_BLOCK = (256,)


def _ema(dtype: torch.dtype) -> raw.Kernel:
    parameters: dict[str, raw.Kind] = {"pairs": torch.int64, "decay": torch.float32}
    return raw.Kernel("multi_tensor.cu", "ema_update", parameters, (("VALUE", raw.CXX[dtype]),))


_EMA = {dtype: _ema(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
_RMSPROP = raw.Kernel(
    "multi_tensor.cu",
    "rmsprop_step",
    {
        "slots": torch.int64,
        "lr": torch.float32,
        "scale": torch.float32,
        "found_inf": torch.float32,
        "alpha": "float32",
        "eps": "float32",
        "momentum": "float32",
    },
)


STREAMING = {"ema_update": ("ld", "st"), "rmsprop_step": ("ld", "st")}
"""Kernels that must load and store 16 bytes an instruction; tests/ops/test_compile.py looks."""


def kernels() -> list[raw.Kernel]:
    """Return all kernels of this file, as they are built."""
    return [*_EMA.values(), _RMSPROP]


class PointerTable:
    """Addresses of the pieces of some lists of tensors, in device memory; made again only when a tensor has moved."""

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._rows: Tensor | None = None

    def of(self, lists: Sequence[Sequence[Tensor]], tails: Sequence[Sequence[int]]) -> Tensor:
        """Return int64 [pieces, words]: a row holds a piece's address in each list, its count, and the tail's words.

        Args:
            lists: the n-th tensors of all lists are walked together, so they must agree in size and layout.
            tails: for the n-th tensors the sign of the count (1 or -1), then what else their rows end with.

        Raises:
            ValueError: tensors that cannot be walked together.
        """
        key = tuple(t.data_ptr() for tensors in lists for t in tensors)
        if self._rows is None or key != self._key:
            together = zip(zip(*lists, strict=True), tails, strict=True)
            rows = [row for tensors, tail in together for row in _pieces(tensors, tail)]
            self._rows = torch.tensor(rows, dtype=torch.int64).to(lists[0][0].device, non_blocking=True)
            self._key = key
        return self._rows


def _pieces(tensors: Sequence[Tensor], tail: Sequence[int]) -> list[list[int]]:
    first, (sign, *words) = tensors[0], tail
    layout = _layout(first)
    for other in tensors:
        if other.device != first.device or _layout(other) != layout:
            raise ValueError(
                f"a tensor of shape {tuple(other.shape)}, strides {other.stride()} on {other.device} cannot be walked "
                f"beside one of {tuple(first.shape)} and {first.stride()} on {first.device}; make their layouts equal"
            )
    return [
        [*(t.data_ptr() + start * t.element_size() for t in tensors), sign * min(_PIECE, first.numel() - start), *words]
        for start in range(0, first.numel(), _PIECE)
    ]


def _layout(tensor: Tensor) -> list[tuple[int, int]]:
    """Sizes and strides, from the innermost dimension on; a dimension of 1 has no stride that means anything."""
    layout = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    filled = 1
    for size, stride in sorted(layout, key=lambda pair: pair[1]):
        if stride != filled and tensor.numel():
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} has gaps; call .contiguous()"
            )
        filled *= size
    return layout


@torch.no_grad()
def ema_update(
    averages: Sequence[Tensor], values: Sequence[Tensor], decay: float | Tensor, table: PointerTable | None = None
) -> None:
    """Move every average towards its value in place; whole numbers are copied.

    Args:
        averages: float32 (on a GPU with kernels; any floating dtype elsewhere) or integers.
        values: one for each, of the same shape and layout; float32, float16 or bfloat16, or the same integers.
        decay: share of the average that stays, 0 to 1; as a float32 tensor without dimensions, on the same device, a
            captured launch reads it again at each replay.
        table: what was learnt about these lists before; keep one for each pair of lists.

    Raises:
        ValueError: lists of two lengths, tensors of two layouts. TypeError: an average that the kernel cannot take.
    """
    if len(averages) != len(values):
        raise ValueError(f"averages has {len(averages)} tensors, values has {len(values)}")
    if not averages:
        return
    if raw.runs_kernel(averages[0], "averages"):
        _launch_ema(averages, values, decay, table or PointerTable())
        return
    moving = [i for i, average in enumerate(averages) if average.is_floating_point()]
    counting = [i for i, average in enumerate(averages) if not average.is_floating_point()]
    ours, theirs = [averages[i] for i in moving], [values[i] for i in moving]
    if ours and not isinstance(decay, Tensor):
        torch._foreach_lerp_(ours, theirs, 1 - decay)
    elif ours:
        way = torch._foreach_sub(theirs, ours)
        torch._foreach_mul_(way, 1 - decay)
        torch._foreach_add_(ours, way)
    if counting:
        torch._foreach_copy_([averages[i] for i in counting], [values[i] for i in counting])


def _launch_ema(
    averages: Sequence[Tensor], values: Sequence[Tensor], decay: float | Tensor, table: PointerTable
) -> None:
    dtypes = {v.dtype for v in values if v.is_floating_point()} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= _EMA.keys():
        raise TypeError(f"values must share one dtype of float32, float16 and bfloat16, got {_names(dtypes)}")
    wrong = {a.dtype for a in averages} - {torch.float32, torch.int64}
    if wrong:
        raise TypeError(f"averages must be float32, and int64 for counters, got {_names(wrong)}")
    device = averages[0].device
    if not isinstance(decay, Tensor):
        decay = torch.full((), decay, dtype=torch.float32, device=device)
    rows = table.of((averages, values), [(1 if a.is_floating_point() else -1,) for a in averages])
    if len(rows):
        _EMA[dtypes.pop()]((len(rows),), _BLOCK, rows, decay)


def _names(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(map(str, dtypes)))


@dataclass(frozen=True)
class Slots:
    """What RMSprop walks, a list each: float32 tensors of one shape and layout for the n-th parameter."""

    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor]
    squares: Sequence[Tensor]
    velocities: Sequence[Tensor]
    weight_decays: Sequence[float]


@torch.no_grad()
def rmsprop_step(
    slots: Slots,
    lr: float | Tensor,
    *,
    alpha: float,
    eps: float,
    momentum: float,
    scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    table: PointerTable | None = None,
) -> None:
    """Take one step in place, in one launch on a GPU; squares and velocities start as zeros.

    Args:
        lr: learning rate; a float32 tensor of the same device is read again at each replay of a captured launch.
        scale: float32 tensor that the gradients are divided by first. None: 1.
        found_inf: float32 tensor; where it is not 0 nothing is changed.
        table: what was learnt about these slots before.

    Raises:
        TypeError: a tensor that is not float32. ValueError: tensors of two layouts.
    """
    if not slots.parameters:
        return
    tensors = (slots.parameters, slots.gradients, slots.squares, slots.velocities)
    wrong = {t.dtype for group in tensors for t in group} - {torch.float32}
    if wrong:
        raise TypeError(f"rmsprop_step takes float32 tensors, got {_names(wrong)}; keep master weights in float32")
    if not raw.runs_kernel(slots.parameters[0], "parameters"):
        _rmsprop_in_torch(slots, lr, alpha, eps, momentum, scale, found_inf)
        return
    device = slots.parameters[0].device
    if not isinstance(lr, Tensor):
        lr = torch.full((), lr, dtype=torch.float32, device=device)
    bits = [struct.unpack("<I", struct.pack("<f", decay))[0] for decay in slots.weight_decays]
    rows = (table or PointerTable()).of(tensors, [(1, word) for word in bits])
    if len(rows):
        _RMSPROP((len(rows),), _BLOCK, rows, lr, scale, found_inf, alpha, eps, momentum)


def _rmsprop_in_torch(
    slots: Slots,
    lr: float | Tensor,
    alpha: float,
    eps: float,
    momentum: float,
    scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """The definition. A step that is to be skipped is made and taken back, for nothing may ask the device."""
    parameters, squares, velocities = list(slots.parameters), list(slots.squares), list(slots.velocities)
    before = [] if found_inf is None else [[t.clone() for t in group] for group in (parameters, squares, velocities)]
    gradients = list(slots.gradients)
    if scale is not None:
        gradients = list(torch._foreach_mul(gradients, 1 / scale))
    decayed = [i for i, decay in enumerate(slots.weight_decays) if decay]
    if decayed:
        decays = [slots.weight_decays[i] for i in decayed]
        pulls = torch._foreach_mul([parameters[i] for i in decayed], decays)
        for i, gradient in zip(decayed, torch._foreach_add([gradients[i] for i in decayed], pulls), strict=True):
            gradients[i] = gradient
    torch._foreach_mul_(squares, alpha)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - alpha)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, eps)
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_addcdiv_(velocities, gradients, roots)
    if isinstance(lr, Tensor):
        torch._foreach_sub_(parameters, torch._foreach_mul(velocities, lr))
    else:
        torch._foreach_add_(parameters, velocities, alpha=-lr)
    for group, kept in zip((parameters, squares, velocities), before, strict=False):
        for now, was in zip(group, kept, strict=True):
            now.copy_(torch.where(found_inf != 0, was, now))  # type: ignore[arg-type]
