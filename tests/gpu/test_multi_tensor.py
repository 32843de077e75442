"""The EMA and RMSprop on a GPU: the CPU's numbers, in a graph that reads the decay anew."""

import pytest
import torch
from torch import Tensor

from raydet.ops import ema_update, rmsprop_step
from raydet.ops.multi_tensor import PointerTable, Slots
from tests.gpu.marks import NEEDS_GPU

pytestmark = NEEDS_GPU
SHAPES = [(1,), (7,), (0, 3), (32, 3, 3, 3), (13, 5), (3, 9001), (64, 8, 3, 3), (), (3000, 1000)]
F32 = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def with_cupy() -> None:
    pytest.importorskip("cupy")


def some(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def on_gpu(tensors: list[Tensor]) -> list[Tensor]:
    return [t.cuda() for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_average_is_the_cpus(dtype: torch.dtype) -> None:
    averages, values = some(0), some(1, dtype)
    there = on_gpu(averages)
    ema_update(there, on_gpu(values), 0.9)
    for average, value, mine in zip(averages, values, there, strict=True):
        expected = average + (1 - torch.tensor(0.9)) * (value.float() - average)
        assert torch.equal(mine.cpu(), expected)


def test_a_graph_reads_the_decay_anew() -> None:
    averages, values, decay, table = (
        [torch.zeros(5000).cuda()],
        [torch.ones(5000).cuda()],
        torch.ones(()).cuda(),
        PointerTable(),
    )
    ema_update(averages, values, decay, table)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ema_update(averages, values, decay, table)
    for wanted, share in ((0.5, 0.5), (0.5, 1.0), (1.0, 0.0)):
        decay.fill_(share)
        torch.cuda.set_sync_debug_mode("error")
        graph.replay()
        torch.cuda.set_sync_debug_mode("default")
        assert (averages[0] == wanted).all()


def test_rmsprop_is_the_cpus_and_skips_what_overflowed() -> None:
    parts = [some(2), some(3), [t.abs() for t in some(4)], some(5)]
    there, decays = [on_gpu(part) for part in parts], [0.1 if i % 2 else 0.0 for i in range(len(SHAPES))]
    rule = {"alpha": 0.9, "eps": 0.01, "momentum": 0.8}
    rmsprop_step(Slots(*parts, decays), 0.1, **rule, scale=torch.tensor(64.0))
    lr, scale, found = torch.tensor(0.1).cuda(), torch.tensor(64.0).cuda(), torch.zeros(()).cuda()
    before = [t.clone() for t in there[0]]
    rmsprop_step(Slots(*there, decays), lr, **rule, scale=scale, found_inf=found + 1)
    assert all(torch.equal(a, b) for a, b in zip(before, there[0], strict=True))
    torch.cuda.set_sync_debug_mode("error")
    rmsprop_step(Slots(*there, decays), lr, **rule, scale=scale, found_inf=found)
    torch.cuda.set_sync_debug_mode("default")
    for mine, cpus in zip(there[0], parts[0], strict=True):
        torch.testing.assert_close(mine.cpu(), cpus, rtol=16 * F32, atol=16 * F32)
