"""The kernels of the focal loss, run on the host: against the definition, the CPU path, and each other's order."""

import pytest
import torch
from torch import Tensor

from raydet.ops import focal_loss
from tests.ops.focal_cases import DTYPES, both, definition, example
from tests.ops.harness import ORDERS, on_host


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks, so that a small tensor takes every thread around the grid several times, and tests are quick."""
    monkeypatch.setitem(focal_loss.__globals__, "_BLOCKS", 2)
    monkeypatch.setitem(focal_loss.__globals__, "_MOST_GRADIENT_BLOCKS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [(0.25, 1.5, 0.0), (0.4, 2.0, 0.1), (0.25, 0.0, 0.0)])
def test_kernels_equal_the_definition_and_the_cpu_in_every_order(
    dtype: torch.dtype, settings: tuple[float, float, float], subtests: pytest.Subtests
) -> None:
    for shape in [(1, 1), (7, 3), (65, 1), (9, 8), (333, 90), (2, 57, 5), (3, 1001)]:
        with subtests.test(str(shape)):
            check_every_order(*example(shape, dtype), settings)


def check_every_order(logits: Tensor, labels: Tensor, settings: tuple[float, float, float]) -> None:
    value, grad, expected, expected_grad = both(logits, labels, *settings)
    computed, own = torch.finfo(value.dtype).eps, torch.finfo(logits.dtype).eps
    results = []
    for order in ORDERS:
        with on_host(order):
            results.append(both(logits, labels, *settings)[:2])
    for one in results[1:]:
        assert torch.equal(one[0], results[0][0]) and torch.equal(one[1], results[0][1])
    # As above: exp and log1p of |x| <= 30, each good to |x| eps, in one chain; the gradient is rounded once more.
    for truth, truth_grad in ((expected, expected_grad), (value.double(), grad.double())):
        # Logits of 16 bits have a shorter polynomial for log(1 + e), 8.6e-6 wrong at most.
        shorter = 8.6e-6 if own > computed else 0.0
        torch.testing.assert_close(results[0][0].double(), truth, rtol=64 * computed + shorter, atol=64 * computed)
        torch.testing.assert_close(
            results[0][1].double(), truth_grad, rtol=own + 256 * computed, atol=own * 1e-3 + 64 * computed
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_grid_gives_the_same_bits_in_every_order(dtype: torch.dtype) -> None:
    logits, labels = example((1100, 90), dtype)
    results = []
    for order in ORDERS:
        with on_host(order):
            results.append(focal_loss(logits, labels, 0.25, 1.5, 0.1))
    assert all(torch.equal(results[0], other) for other in results[1:])
    expected = definition(logits, labels, 0.25, 1.5, 0.1)
    torch.testing.assert_close(results[0].double(), expected, rtol=64 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("extreme", [89.0, 104.0, 1000.0, 6e4])
def test_kernels_stay_finite_and_right_at_both_tails(extreme: float) -> None:
    logits = torch.tensor([[extreme, -extreme], [-extreme, extreme], [extreme, extreme]])
    with on_host():
        value, grad, expected, expected_grad = both(logits, torch.tensor([0, 0, -1]), 0.25, 1.5, 0.0)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-6, atol=1e-30)


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_kernel", [True, False])
def test_infinite_logits_count_for_nothing_in_ignored_rows(dtype: torch.dtype, by_kernel: bool) -> None:
    logits, labels = example((40, 7), dtype)
    labels[::3] = -2
    spoilt = logits.clone()
    spoilt[::3, 1::2], spoilt[::3, ::2] = torch.inf, torch.nan
    both_ways = []
    for given in (logits, spoilt):
        given.requires_grad_()
        with on_host() if by_kernel else torch.enable_grad():
            value = focal_loss(given, labels, 0.25, 1.5, 0.1)
            value.backward()
        assert given.grad is not None and (given.grad[::3] == 0).all() and value.isfinite()
        both_ways.append((value.detach(), given.grad))
    assert all(torch.equal(one, other) for one, other in zip(*both_ways, strict=True))


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("by_kernel", [True, False])
def test_an_anchor_of_masked_classes_costs_nothing_there(by_kernel: bool) -> None:
    logits = torch.tensor([[-torch.inf, 0.5, -torch.inf], [0.1, -torch.inf, 0.3]], requires_grad=True)
    with on_host() if by_kernel else torch.enable_grad():
        value = focal_loss(logits, torch.tensor([1, -1]), 0.25, 1.5)
        value.backward()
    assert value.isfinite() and logits.grad is not None
    assert torch.equal(logits.grad == 0, logits.detach() == -torch.inf)


@pytest.mark.usefixtures("few_blocks")
def test_gradcheck_of_the_kernels() -> None:
    logits, labels = example((9, 4), torch.float64, 1.0)
    with on_host():
        assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, 0.3, 1.7, 0.1), logits.requires_grad_())


@pytest.mark.usefixtures("few_blocks")
def test_kernels_take_strided_and_misaligned_logits() -> None:
    wide, labels = example((90, 41), torch.float16)
    for given, plain in ((wide.t(), wide.t().contiguous()), (wide.flatten()[1:3601].view(40, 90), None)):
        rows = labels.new_full((given.shape[0],), 5)
        with on_host():
            value, grad = both(given, rows, 0.25, 1.5, 0.0)[:2]
            again = both(given.clone() if plain is None else plain, rows, 0.25, 1.5, 0.0)[:2]
        assert torch.equal(value, again[0]) and torch.equal(grad, again[1])


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("label", [-(2**62), -3, 7, 2**31, 2**40 + 3])
def test_a_kernel_reads_no_memory_for_a_label_out_of_range(label: int) -> None:
    logits, labels = example((40, 7), torch.float32)
    labels[::2] = label
    with on_host():
        value, grad = both(logits, labels.clamp(-2, 6), 0.25, 1.5, 0.0)[:2]  # builds, and is finite
        outlying = logits.clone().requires_grad_()
        focal_loss(outlying, labels, 0.25, 1.5).backward()
    assert value.isfinite() and outlying.grad is not None
    assert torch.equal(outlying.grad[1::2], grad[1::2]) and outlying.grad.isfinite().all()


@pytest.mark.usefixtures("few_blocks")
def test_a_gradient_is_written_up_to_its_last_element_and_no_further() -> None:
    for count in range(1, 20):
        logits, labels = torch.zeros(count, 1, dtype=torch.float16), torch.full((count,), -1)
        room = torch.full((32,), 7.0, dtype=torch.float16)
        op = focal_loss.__globals__["_gradient_by_kernel"]
        with on_host():
            op(torch.ones(()), logits, labels, room[:count].view(count, 1), 0.25, 1.5, 0.0)
        assert (room[:count] != 7).all() and (room[count:] == 7).all()


@pytest.mark.parametrize("by_kernel", [True, False])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 0, 4)])
def test_nothing_costs_nothing(shape: tuple[int, ...], by_kernel: bool) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    with on_host() if by_kernel else torch.enable_grad():
        value = focal_loss(logits, torch.full(shape[:-1], -1), 0.25, 1.5)
        value.backward()
    assert value == 0 and logits.grad is not None and logits.grad.shape == shape


@pytest.mark.slow
@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_a_compiled_step_gives_the_same(dtype: torch.dtype, by_kernel: bool) -> None:
    logits, labels = example((30, 5), dtype)

    def step(x: Tensor) -> Tensor:
        return focal_loss(x * 2, labels, 0.25, 1.5) / 3

    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        given = logits.clone().requires_grad_()
        with on_host() if by_kernel else torch.enable_grad():
            value = run(given)
            value.backward()
        results.append((value.detach(), given.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] is not None and results[1][1] is not None
    # Compiled, grad_output is inside the gradient; else a CPU multiplies by it after: two roundings.
    torch.testing.assert_close(results[0][1], results[1][1], rtol=4 * torch.finfo(dtype).eps, atol=0)
