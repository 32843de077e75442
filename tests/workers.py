"""Training without Ray: in this process, and in plain processes that meet over gloo."""

import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raydet.config import Config, from_dict, to_dict
from raydet.distributed import WorkerGroup
from raydet.driver.plan import make_plan
from raydet.runs import checkpoint_store
from raydet.training.worker import train


def trained(cfg: Config, folder: Path, stop_after: int | None = None) -> Path:
    """Train in this process; with `stop_after`, die before that many epochs are told."""
    told: list[dict[str, float]] = []

    def tell(metrics: dict[str, float]) -> None:
        told.append(metrics)
        if len(told) == stop_after:
            raise InterruptedError

    cfg = make_plan(cfg).cfg
    folder.mkdir(parents=True, exist_ok=True)
    if stop_after is None:
        train(cfg, folder, WorkerGroup(), tell)
    else:
        with pytest.raises(InterruptedError):
            train(cfg, folder, WorkerGroup(), tell)
    return folder


def newest(folder: Path) -> checkpoint_store.Checkpoint:
    """Return a run's newest checkpoint."""
    found = checkpoint_store.newest(folder / "checkpoints")
    assert found is not None
    return found


def run_workers(cfg: Config, folder: Path, world_size: int, entry: Callable[..., None] = train) -> None:
    """Run `entry(cfg, folder, workers, tell)` in `world_size` processes and wait for all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (world_size, f"file://{meeting}/store", to_dict(cfg), str(folder), entry)
        # Forked from a process that has imported what they need, once: a new one each takes five seconds to do so.
        set_forkserver_preload(["raydet.training.worker", "torchvision", __name__])
        mp.start_processes(_worker, arguments, world_size, start_method="forkserver")


def _worker(
    rank: int, world_size: int, store: str, cfg: dict[str, object], folder: str, entry: Callable[..., None]
) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    try:
        entry(from_dict(cfg), Path(folder), WorkerGroup(rank, world_size), lambda metrics: None)
    finally:
        dist.destroy_process_group()
    # DistributedDataParallel (torch 2.15) keeps the group alive, and with it gloo's threads. One that lets go of a
    # tensor while the interpreter is taken down may abort the process (seen once); so it is not taken down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
