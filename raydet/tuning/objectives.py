"""What a search may want small besides a high score: measured on a finished trial's net, where it was trained."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raydet.config import Config, override
from raydet.training.state import build_model

_ROUNDS = 20


def _size_mb(model: nn.Module, images_B3HW: Tensor) -> float:
    """Megabytes of the weights as they are stored, 4 bytes each."""
    return float(sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 1e6)


def _latency_ms(model: nn.Module, images_B3HW: Tensor) -> float:
    """Milliseconds of one image through the net, the median of 20; on CPUs of the time a core was busy with it.

    A neighbour on the same machine lengthens wall time, and not the core's own.
    """
    on_gpu = images_B3HW.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    before, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(_ROUNDS + 3):
            started = clock()
            model(images_B3HW)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(clock() - started)
    finally:
        torch.set_num_threads(before)
    return statistics.median(times[3:]) * 1e3


OBJECTIVES: dict[str, Callable[[nn.Module, Tensor], float]] = {"latency_ms": _latency_ms, "size_mb": _size_mb}
"""Name -> how it is measured."""


@torch.no_grad()
def measure(cfg: Config, names: tuple[str, ...]) -> dict[str, float]:
    """Return each named objective of the net that `cfg` (resolved) trains; its weights do not matter.

    The net is measured in floats: fake-quantizers would be timed and not INT8.
    """
    if not names:
        return {}
    device = torch.device("cuda" if cfg.scaling.use_gpu and torch.cuda.is_available() else "cpu")
    model = build_model(override(cfg, {"quantization": None}), cfg.model.num_classes or 1).eval().to(device)
    model = model.to(memory_format=torch.channels_last)
    size: Any = cfg.model.image_size
    images_B3HW = torch.zeros(1, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    return {name: OBJECTIVES[name](model, images_B3HW) for name in names}
