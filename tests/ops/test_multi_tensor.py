"""The EMA and RMSprop over many tensors: against float64, on the host's kernels in several orders."""

import copy

import pytest
import torch
from torch import Tensor

from raydet.ops import ema_update, rmsprop_step
from raydet.ops.multi_tensor import PointerTable, Slots
from tests.ops.harness import ORDERS, on_host

# one element, odd sizes, an empty one, one of several pieces, one in channels-last
SHAPES = [(1,), (7,), (0, 3), (32, 3, 3, 3), (13, 5), (3, 9001), (64, 8, 3, 3), ()]
F32 = torch.finfo(torch.float32).eps


def some(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    tensors[6] = tensors[6].contiguous(memory_format=torch.channels_last)
    return tensors


def unaligned(tensors: list[Tensor]) -> list[Tensor]:
    """The same values, each starting 4 bytes behind a 16-byte boundary."""
    return [torch.cat([torch.zeros(1, dtype=t.dtype), t.reshape(-1)])[1:].view(t.shape) for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", ORDERS)
def test_the_kernels_average_rounds_each_operation_once(dtype: torch.dtype, order: int) -> None:
    averages, values = some(0), some(1, dtype)
    weight = 1 - torch.tensor(0.9998)
    expected = [a + weight * (v.float() - a) for a, v in zip(averages, values, strict=True)]
    with on_host(order):
        ema_update(averages, values, 0.9998)
    for one, other in zip(averages, expected, strict=True):
        assert torch.equal(one, other)


def test_the_average_is_within_an_eps_of_float64() -> None:
    averages, values = some(0), some(1)
    exact = [0.75 * a.double() + 0.25 * v.double() for a, v in zip(averages, values, strict=True)]
    ema_update(averages, values, 0.75)
    for one, other in zip(averages, exact, strict=True):
        # a difference, a product and a sum of numbers below 8, each rounded once
        torch.testing.assert_close(one.double(), other, rtol=2 * F32, atol=8 * F32)


def test_tensors_that_start_anywhere_are_averaged_too() -> None:
    values, plain = unaligned([t for t in some(1) if t.dim() != 4]), [t for t in some(0) if t.dim() != 4]
    averages = unaligned(plain)
    with on_host():
        ema_update(averages, values, 0.5)
        ema_update(plain, [v.clone() for v in values], 0.5)
    assert all(torch.equal(a, b) for a, b in zip(averages, plain, strict=True))


def test_counters_are_copied_in_the_same_launch() -> None:
    averages, values = (
        [torch.zeros(3), torch.tensor(4), torch.arange(9000)],
        [torch.ones(3), torch.tensor(2**40), torch.arange(9000) * 3],
    )
    with on_host(2):
        ema_update(averages, values, 0.5)
    assert averages[0].tolist() == [0.5] * 3 and averages[1].item() == 2**40 and torch.equal(averages[2], values[2])


@pytest.mark.parametrize("kernel", [False, True])
def test_a_decay_in_memory_is_read_at_each_step(kernel: bool) -> None:
    averages, values, decay, table = [torch.zeros(4)], [torch.ones(4)], torch.tensor(0.5), PointerTable()
    for wanted, share in ((0.5, 0.5), (0.5, 1.0), (1.0, 0.0)):
        decay.fill_(share)
        if kernel:
            with on_host():
                ema_update(averages, values, decay, table)
        else:
            ema_update(averages, values, decay, table)
        assert averages[0].tolist() == [wanted] * 4


def test_the_table_follows_a_tensor_that_moved() -> None:
    averages, values, table = [torch.zeros(4)], [torch.ones(4)], PointerTable()
    with on_host():
        ema_update(averages, values, 0.5, table)
        kept, averages[0] = averages[0], torch.zeros(4)
        ema_update(averages, values, 0.25, table)
    assert averages[0].tolist() == [0.75] * 4 and kept.tolist() == [0.5] * 4


def test_nothing_to_average_is_no_error() -> None:
    ema_update([], [], 0.9)
    with on_host():
        ema_update([torch.zeros(0)], [torch.zeros(0)], 0.9)


def test_what_cannot_be_averaged_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="averages has 1 tensors, values has 2"):
        ema_update([torch.zeros(1)], [torch.zeros(1)] * 2, 0.9)
    with on_host():
        with pytest.raises(ValueError, match="cannot be walked"):
            ema_update([torch.zeros(2, 3)], [torch.zeros(3, 2).t()], 0.9)
        with pytest.raises(ValueError, match="has gaps"):
            ema_update([torch.zeros(4)[::2]], [torch.zeros(4)[::2]], 0.9)
        with pytest.raises(TypeError, match=r"values must share one dtype .* got torch.float16, torch.float32"):
            ema_update([torch.zeros(1)] * 2, [torch.zeros(1), torch.zeros(1).half()], 0.9)
        with pytest.raises(TypeError, match=r"averages must be float32.* got torch.float16"):
            ema_update([torch.zeros(1).half()], [torch.zeros(1)], 0.9)


RULE = {"alpha": 0.9, "eps": 0.01, "momentum": 0.8}


def slots(seed: int) -> Slots:
    squares = [t.abs() for t in some(seed + 2)]
    decays = [0.1 if i % 2 else 0.0 for i in range(len(SHAPES))]
    return Slots(some(seed), some(seed + 1), squares, some(seed + 3), decays)


def definition(given: Slots, lr: float, scale: float) -> list[Tensor]:
    """One step in float64, as the formulas read."""
    moved = []
    for p, g, s, v, decay in zip(
        given.parameters, given.gradients, given.squares, given.velocities, given.weight_decays, strict=True
    ):
        p, g, s, v = p.double(), g.double() / scale + decay * p.double(), s.double(), v.double()
        s = RULE["alpha"] * s + (1 - RULE["alpha"]) * g**2
        v = RULE["momentum"] * v + g / (s.sqrt() + RULE["eps"])
        moved.append(p - lr * v)
    return moved


@pytest.mark.parametrize("order", [None, *ORDERS])
def test_rmsprop_equals_its_definition_on_both_ways(order: int | None) -> None:
    given, scale = slots(0), torch.tensor(128.0)
    expected = definition(given, 0.1, 128.0)
    if order is None:
        rmsprop_step(given, 0.1, **RULE, scale=scale, found_inf=torch.tensor(0.0))
    else:
        with on_host(order):
            rmsprop_step(given, 0.1, **RULE, scale=scale, found_inf=torch.tensor(0.0))
    for one, other in zip(given.parameters, expected, strict=True):
        # p and lr v are below 8; v comes of some ten roundings, of which the root and the quotient pass theirs on
        torch.testing.assert_close(one.double(), other, rtol=8 * F32, atol=8 * F32)


def test_every_order_gives_the_same_bits() -> None:
    results = []
    for order in ORDERS:
        given = slots(3)
        with on_host(order):
            rmsprop_step(given, 0.1, **RULE)
        results.append([*given.parameters, *given.squares, *given.velocities])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kernel", [False, True])
def test_an_overflow_changes_nothing(kernel: bool) -> None:
    given = slots(5)
    given.gradients[3].fill_(float("inf"))
    before = copy.deepcopy(given)
    if kernel:
        with on_host():
            rmsprop_step(given, 0.1, **RULE, found_inf=torch.tensor(1.0))
    else:
        rmsprop_step(given, 0.1, **RULE, found_inf=torch.tensor(1.0))
    for name in ("parameters", "squares", "velocities"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(given, name), getattr(before, name), strict=True))


def test_gradients_are_left_as_they_are() -> None:
    given = slots(6)
    before = copy.deepcopy(given.gradients)
    with on_host():
        rmsprop_step(given, 0.1, **RULE, scale=torch.tensor(2.0))
    rmsprop_step(given, 0.1, **RULE, scale=torch.tensor(2.0))
    assert all(torch.equal(a, b) for a, b in zip(given.gradients, before, strict=True))


def test_half_precision_parameters_are_refused() -> None:
    half = [torch.zeros(2).half()]
    with pytest.raises(TypeError, match="keep master weights in float32"):
        rmsprop_step(Slots(half, half, half, half, [0.0]), 0.1, **RULE)
