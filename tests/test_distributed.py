"""What workers exchange, between two real processes; alone, nothing changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet.config import Config
from raydet.distributed import WorkerGroup
from tests.workers import run_workers


def _exchange(cfg: Config, folder: Path, workers: WorkerGroup, tell: Callable[[dict[str, float]], None]) -> None:
    model = nn.BatchNorm1d(2)
    assert model.running_mean is not None and model.num_batches_tracked is not None
    model.running_mean.fill_(float(workers.rank))
    model.num_batches_tracked.fill_(7)
    workers.average_buffers(model, nn.Linear(1, 1))
    seen = {
        "mean": model.running_mean.tolist(),
        "variance": model.running_var.tolist() if model.running_var is not None else None,
        "counter": int(model.num_batches_tracked),
        "sum": workers.sum_(torch.tensor([workers.rank + 1.0])).item(),
        "gathered": workers.gather(f"from {workers.rank}"),
        "shared": workers.share({"rank": workers.rank}),
    }
    (folder / f"{workers.rank}.json").write_text(json.dumps(seen))


@pytest.mark.slow
def test_two_workers_exchange(tmp_path: Path) -> None:
    run_workers(Config(), tmp_path, 2, _exchange)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first == {
        "mean": [0.5, 0.5],
        "variance": [1.0, 1.0],
        "counter": 7,
        "sum": 3.0,
        "gathered": ["from 0", "from 1"],
        "shared": {"rank": 0},
    }


def test_alone_nothing_is_exchanged() -> None:
    workers, model = WorkerGroup(), nn.BatchNorm1d(2)
    workers.average_buffers(model)
    assert workers.sum_(torch.ones(1)).item() == 1 and workers.gather("a") == ["a"] and workers.share(3) == 3
