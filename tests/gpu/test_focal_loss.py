"""The focal loss on a GPU: equal to its definition and to the CPU, the same bits each time, in a CUDA graph."""

import pytest
import torch
from torch import Tensor

from raydet.ops import choose, focal_loss
from tests.gpu.marks import NEEDS_GPU
from tests.ops.focal_cases import both, example

pytestmark = NEEDS_GPU
SETTINGS = (0.25, 1.5, 0.1)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (65, 1), (9, 8), (333, 90), (2, 49104, 90), (3, 1001)]


@pytest.fixture(autouse=True)
def by_kernel() -> None:
    choose("cuda")  # without CuPy an error, not the way around it


def value_and_grad(logits: Tensor, labels: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    given = logits.detach().clone().requires_grad_()
    value = focal_loss(given, labels, *SETTINGS)
    (value * scale).backward()
    assert given.grad is not None
    return value.detach(), given.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_definition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    logits, labels = example(shape, dtype)
    value, grad, expected, expected_grad = both(logits.cuda(), labels.cuda(), *SETTINGS)
    # As on the host (tests/ops), and 2 units in the last place for each of the GPU's three fast exp.
    computed, own = torch.finfo(value.dtype).eps, torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), expected, rtol=128 * computed, atol=128 * computed)
    torch.testing.assert_close(
        grad.double(), expected_grad, rtol=own + 512 * computed, atol=own * 1e-3 + 128 * computed
    )


@pytest.mark.parametrize("extreme", [89.0, 104.0, 1000.0, 6e4])
def test_both_tails_stay_finite_and_right(extreme: float) -> None:
    logits = torch.tensor([[extreme, -extreme], [-extreme, extreme], [extreme, extreme]], device="cuda")
    value, grad, expected, expected_grad = both(logits, torch.tensor([0, 0, -1], device="cuda"), 0.25, 1.5, 0.0)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-6, atol=1e-30)


def test_ignored_rows_may_hold_anything() -> None:
    logits, labels = example((400, 7), torch.float32)
    labels[::3] = -2
    spoilt = logits.clone()
    spoilt[::3] = torch.nan
    one, other = (value_and_grad(given.cuda(), labels.cuda()) for given in (logits, spoilt))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_run_gives_the_same_bits(dtype: torch.dtype) -> None:
    logits, labels = (given.cuda() for given in example((2, 5000, 90), dtype))
    first = value_and_grad(logits, labels)
    other_stream = torch.cuda.Stream()
    for run in range(20):
        with torch.cuda.stream(other_stream if run % 2 else torch.cuda.current_stream()):
            value, grad = value_and_grad(logits, labels)
        torch.cuda.synchronize()
        assert torch.equal(value, first[0]) and torch.equal(grad, first[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strided_and_misaligned_logits_give_the_same(dtype: torch.dtype) -> None:
    wide, labels = (given.cuda() for given in example((90, 41), dtype))
    rows = labels.new_full((40,), 5)
    given = wide.flatten()[1:3601].view(40, 90)
    one, other = (value_and_grad(logits, rows) for logits in (given, given.clone()))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    one, other = (value_and_grad(logits, rows[:1].expand(41)) for logits in (wide.t(), wide.t().contiguous()))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_the_loss_scale_is_in_the_gradient_before_it_is_rounded() -> None:
    logits = torch.full((3, 2), -9.0, dtype=torch.float16, device="cuda")
    _, grad = value_and_grad(logits, torch.full((3,), -1, device="cuda"), 2.0**20)
    assert (grad != 0).all()


def test_a_step_is_captured_in_a_graph_and_replayed_on_new_logits() -> None:
    logits, labels = (given.cuda() for given in example((2, 5000, 90), torch.bfloat16))
    static = logits.clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and loads, which a capture forbids
        focal_loss(static, labels, *SETTINGS).backward()
    torch.cuda.current_stream().wait_stream(side)
    static.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = focal_loss(static, labels, *SETTINGS)
        value.backward()
    assert static.grad is not None
    for factor in (1.0, -0.5):
        with torch.no_grad():
            static.copy_(logits * factor)
        graph.replay()
        expected, expected_grad = value_and_grad(static, labels)
        assert torch.equal(value.detach(), expected) and torch.equal(static.grad, expected_grad)


def test_the_host_never_waits() -> None:
    logits, labels = (given.cuda() for given in example((500, 90), torch.bfloat16))
    value_and_grad(logits, labels)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    value_and_grad(logits, labels)


def test_without_kernels_it_is_the_same_to_rounding() -> None:
    logits, labels = (given.cuda() for given in example((500, 90), torch.float32))
    labels[3] = 10**6  # background on a GPU, by either way
    by_kernel = value_and_grad(logits, labels)
    choose("torch")
    torch.cuda.set_sync_debug_mode("error")
    plain = value_and_grad(logits, labels)
    torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(by_kernel, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=512 * 2**-23, atol=128 * 2**-23)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_step_gives_the_same(dtype: torch.dtype) -> None:
    logits, labels = (given.cuda() for given in example((500, 90), dtype))

    def step(x: Tensor) -> Tensor:
        return focal_loss(x * 2, labels, *SETTINGS) / 3

    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        given = logits.clone().requires_grad_()
        run(given).backward()
        results.append(given.grad)
    assert results[0] is not None and results[1] is not None and torch.equal(results[0], results[1])
