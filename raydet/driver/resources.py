"""What a machine or cluster has, and how much of it each worker reserves. Ray's CPUs are accounts, not cores."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from raydet.config import Config
from raydet.exceptions import ConfigError

Resources = Mapping[str, float]

_LEAST = 1e-4
"""Ray counts resources in units of this."""


def wanted_address(cfg: Config) -> str | None:
    """Return the cluster to join; None: none, this machine is enough."""
    given = cfg.scaling.address or os.environ.get("RAY_ADDRESS")
    return None if given in ("", "local") else given


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine_bytes(gpu: bool) -> int:
    """Return the memory of a GPU, or of this machine or its container."""
    import torch

    if gpu and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):  # a container's; "max" where there is none
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def per_worker(cfg: Config, nodes: Sequence[Resources], own: bool, workers: int | None = None) -> dict[str, float]:
    """Return the resources to reserve for one worker.

    Args:
        nodes: what each machine of the cluster has.
        own: nothing else runs there, so CPU workers may share all of it.
        workers: so many are to have room. None: those of the run.
    """
    s = cfg.scaling
    gpu = {"GPU": s.gpus_per_worker} if s.use_gpu else {}
    if s.cpus_per_worker is not None:
        return {"CPU": float(s.cpus_per_worker), **gpu}
    # An elastic run must be able to start with the fewest; on a machine of its own it starts with the most.
    share = _share(nodes, workers or s.worker_range[1 if own else 0], gpu)
    wanted = 1 + cfg.data.workers  # loader processes live outside Ray's accounts, so they are reserved here
    return {"CPU": float(share if own and not s.use_gpu else min(wanted, share)), **gpu}


def check_machine(cfg: Config) -> None:
    """Raise ConfigError where this machine has too few GPUs for the fewest workers."""
    if not cfg.scaling.use_gpu:
        return
    import torch

    gpus = torch.cuda.device_count()
    if cfg.scaling.worker_range[0] > gpus:
        raise ConfigError(
            f"scaling.num_workers={cfg.scaling.num_workers} with scaling.use_gpu=true, but there are {gpus} GPUs here; "
            "lower it, set scaling.use_gpu=false, or name a cluster in scaling.address"
        )


def check_room(cfg: Config, nodes: Sequence[Resources], wanted: Resources) -> None:
    """Raise ConfigError where the fewest workers have no room: Ray would wait for it without end."""
    found = room(nodes, wanted)
    if found < cfg.scaling.worker_range[0]:
        need = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        have = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in wanted) for node in nodes)
        raise ConfigError(
            f"scaling.num_workers={cfg.scaling.num_workers}: the cluster has room for {found} workers of {need}; its "
            f"nodes have {have}. Lower scaling.num_workers or scaling.cpus_per_worker, or set scaling.use_gpu=false"
        )


def _share(nodes: Sequence[Resources], workers: int, gpu: Resources) -> float:
    """Return the most CPUs per worker with which so many workers have room; whole numbers, or 1/2, 1/3, ..."""
    most = int(max((node.get("CPU", 0.0) for node in nodes), default=1.0))
    shares: list[float] = [*range(most, 0, -1), *(int(1 / _LEAST / n) * _LEAST for n in range(2, workers + 1))]
    for cpus in shares:
        if room(nodes, {"CPU": cpus, **gpu}) >= workers:
            return cpus
    return 1.0


def room(nodes: Sequence[Resources], wanted: Resources) -> int:
    """Return how many workers find room."""
    return sum(min(int(node.get(name, 0.0) / amount + _LEAST) for name, amount in wanted.items()) for node in nodes)
