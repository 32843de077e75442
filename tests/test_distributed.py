"""What workers exchange, between two real processes; alone, nothing changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet.config import Config
from raydet.distributed import Peers
from tests.workers import run_workers


def _exchange(cfg: Config, folder: Path, peers: Peers, tell: Callable[[dict[str, float]], None]) -> None:
    model = nn.BatchNorm1d(2)
    assert model.running_mean is not None and model.num_batches_tracked is not None
    model.running_mean.fill_(float(peers.rank))
    model.num_batches_tracked.fill_(7)
    peers.average_buffers(model, nn.Linear(1, 1))
    seen = {
        "mean": model.running_mean.tolist(),
        "variance": model.running_var.tolist() if model.running_var is not None else None,
        "counter": int(model.num_batches_tracked),
        "sum": peers.sum_(torch.tensor([peers.rank + 1.0])).item(),
        "gathered": peers.gather(f"from {peers.rank}"),
        "shared": peers.share({"rank": peers.rank}),
    }
    (folder / f"{peers.rank}.json").write_text(json.dumps(seen))


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
    peers, model = Peers(), nn.BatchNorm1d(2)
    peers.average_buffers(model)
    assert peers.sum_(torch.ones(1)).item() == 1 and peers.gather("a") == ["a"] and peers.share(3) == 3
