"""How things are timed: in turn, on one clock, with what they move and keep in memory."""

import importlib.util
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one side's rounds: CPU time on a CPU (all threads together), wall time on a GPU."""

    median: float
    least: float
    most: float


def in_turn(sides: Mapping[str, Work], device: torch.device, rounds: int, warm_up: int = 2) -> dict[str, Times]:
    """Time each side once a round, after rounds that do not count: what disturbs one then disturbs the others too."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds + warm_up):
        for side, work in sides.items():
            taken = once(work, device)
            if i >= warm_up:
                seconds[side].append(taken)
    return {side: Times(statistics.median(times), min(times), max(times)) for side, times in seconds.items()}


def once(work: Work, device: torch.device) -> float:
    """Return the seconds that `work` takes, to the end of what it starts on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = perf_counter()
        work()
        torch.cuda.synchronize()
        return perf_counter() - start
    start = process_time()
    work()
    return process_time() - start


def has(package: str) -> bool:
    """Say whether a package is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


def on_device(work: Work, calls: int = 20) -> float:
    """Return the seconds a call takes on the GPU, by events around `calls` of them, so that they queue up."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    work()
    torch.cuda.synchronize()
    start.record()  # type: ignore[no-untyped-call]
    for _ in range(calls):
        work()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls  # type: ignore[no-untyped-call]


def copy_bandwidth(device: torch.device) -> float:
    """Return bytes per second, read and written, of a copy that no cache holds."""
    source = torch.zeros(1 << (29 if device.type == "cuda" else 26), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    if device.type == "cuda":
        seconds = min(on_device(lambda: target.copy_(source), 10) for _ in range(3))
    else:
        seconds = min(once(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * source.numel() * source.element_size() / seconds


def launches(work: Work, device: torch.device) -> int | None:
    """Return how many kernels `work` starts on a GPU; None on a CPU, or where the profiler sees none."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    kernels = [e for e in profiler.events() or [] if e.device_type == DeviceType.CUDA]
    return len(kernels) or None


def temporary_bytes(work: Work, device: torch.device) -> int | None:
    """Return how much more memory than before `work` has of torch at its height, its result included; None: unseen."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    # What torch's allocator was asked for and got back, in order; how large the process is would not show a reuse.
    results = getattr(profiler.profiler, "kineto_results", None)
    if results is None:
        return None
    now = height = 0
    for event in results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            height = max(height, now)
    return height


def shares(work: Work, device: torch.device, most: int = 10) -> dict[str, float]:
    """Return what share of the time of `work` goes to each of torch's operations, the dearest first."""
    cuda = device.type == "cuda"
    kind = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as profiler:
        work()
        if cuda:
            torch.cuda.synchronize()
    events = profiler.key_averages()
    spent = {e.key: float(e.self_device_time_total if cuda else e.self_cpu_time_total) for e in events}
    total = sum(spent.values()) or 1.0
    dearest = sorted(spent, key=lambda key: -spent[key])[:most]
    return {key: spent[key] / total for key in dearest}


def machine(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
