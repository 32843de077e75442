"""The memory of this process: how much there is, and what becomes of what is freed."""

import ctypes
import resource
from collections.abc import Sequence

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let torch's CPU tensors reuse memory instead of fetching it again; return whether the C library allows that.

    glibc gives a large block back to the system when it is freed, so every step faults its activations in again, page
    by page: 22 % of a D0 step (512 px, batch 4; docs/benchmarks, 2026-11-22). Kept, the process stays as large as it
    was at its largest. For the whole process; GPUs' memory is torch's own affair.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # no glibc: macOS, Alpine
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def side_by_side(like: Sequence[Tensor], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Return float32 zeros in one piece, and its parts in the shapes and strides of `like`, which has no gaps."""
    sizes = [-(-tensor.numel() // 4) * 4 for tensor in like]  # each starts at a multiple of 16 bytes
    whole = torch.zeros(sum(sizes), device=device)
    parts = zip(like, torch.split(whole, sizes), strict=True)
    return whole, [part.as_strided(tensor.shape, tensor.stride()) for tensor, part in parts]


def most_memory_bytes(device: torch.device) -> float:
    """Return the most memory used so far: of the GPU by torch, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
