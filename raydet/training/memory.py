"""The memory of this process: how much there is, and what becomes of what is freed."""

import ctypes
import resource

import torch

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


def most_memory_bytes(device: torch.device) -> float:
    """Return the most memory used so far: of the GPU by torch, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
