"""The focal loss against its definition in float64, at both tails and in every dtype; what torch asks; mistakes."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from raydet.ops import choose, focal_loss, raw
from tests.ops.focal_cases import DTYPES, both, definition, example


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_equal_the_definition(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape, gamma, smoothing in product([(1, 1), (7, 3), (1023, 90), (2, 513, 5)], [0.0, 1.5, 2.0], [0.0, 0.1]):
        logits = (torch.randn(shape) * 6).to(dtype)
        labels = torch.randint(-2, shape[-1], shape[:-1])
        value, grad, expected, expected_grad = both(logits, labels, 0.25, gamma, smoothing)
        assert_as_defined(value, grad, expected, expected_grad, f"{shape}, gamma {gamma}, smoothing {smoothing}")


def assert_as_defined(value: Tensor, grad: Tensor, expected: Tensor, expected_grad: Tensor, case: str) -> None:
    computed = torch.promote_types(torch.float32, grad.dtype)
    assert value.dtype == computed, case
    # A logit's loss is a product of exp and log1p of about |x| <= 30, each good to |x| eps; 16 of them in one chain.
    eps = torch.finfo(computed).eps
    assert torch.allclose(value.double(), expected, rtol=64 * eps, atol=64 * eps), case
    own = torch.finfo(grad.dtype).eps  # the gradient is rounded once more, to the logits' dtype
    assert torch.allclose(grad.double(), expected_grad, rtol=own + 256 * eps, atol=own * 1e-3 + 64 * eps), case


@pytest.mark.parametrize("extreme", [89.0, 104.0, 1000.0, 6e4])
def test_both_tails_stay_finite_and_right(extreme: float) -> None:
    logits = torch.tensor([[extreme, -extreme], [-extreme, extreme], [extreme, extreme]])
    labels = torch.tensor([0, 0, -1])
    value, grad, expected, expected_grad = both(logits, labels, 0.25, 1.5, 0.0)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-6, atol=1e-30)


def test_ignored_anchors_count_for_nothing_even_with_infinite_logits() -> None:
    logits = torch.tensor([[1.0, 2.0], [float("inf"), float("-inf")]], requires_grad=True)
    alone = focal_loss(logits[:1], torch.tensor([1]), 0.25, 1.5)
    value = focal_loss(logits, torch.tensor([1, -2]), 0.25, 1.5)
    value.backward()
    assert value == alone
    assert logits.grad is not None and (logits.grad[1] == 0).all() and logits.grad[0].abs().sum() > 0


def test_no_anchor_at_all_costs_nothing() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    value = focal_loss(logits, torch.zeros(0, dtype=torch.int64), 0.25, 1.5)
    value.backward()
    assert value == 0 and logits.grad is not None and logits.grad.shape == (0, 5)


def test_strides_do_not_matter() -> None:
    torch.manual_seed(0)
    wide = torch.randn(90, 400)
    labels = torch.randint(-2, 90, (400,))
    assert focal_loss(wide.t(), labels, 0.25, 1.5) == focal_loss(wide.t().contiguous(), labels, 0.25, 1.5)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    logits = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, -1, -1, -2, 0, -1])
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, 0.3, 1.7, 0.1), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_derivative_is_refused(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 2, dtype=dtype, requires_grad=True)
    value = focal_loss(logits, torch.tensor([0, -1, 1]), 0.25, 1.5)
    (grad,) = torch.autograd.grad(value, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        (grad.float().sum() + logits.float().sum()).backward()


def test_backward_over_a_kept_graph_gives_the_same_again() -> None:
    logits = torch.randn(30, 4, requires_grad=True)
    value = focal_loss(logits, torch.randint(-1, 4, (30,)), 0.25, 1.5)
    first, second = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
    (third,) = torch.autograd.grad(value, logits, torch.tensor(3.0))
    torch.testing.assert_close(third, 3 * first, rtol=4 * torch.finfo(torch.float32).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_loss_scale_is_in_the_gradient_before_it_is_rounded(dtype: torch.dtype) -> None:
    logits, labels = torch.full((3, 2), -9.0, dtype=dtype), torch.tensor([-1, 1, -1])
    logits[1, 1] = 9.0  # so that all gradients are of 1e-10, which float16 has not
    logits.requires_grad_()
    (focal_loss(logits, labels, 0.25, 1.5) * 2.0**20).backward()
    truth = logits.detach().double().requires_grad_()
    (definition(truth, labels, 0.25, 1.5, 0.0) * 2.0**20).backward()
    assert logits.grad is not None and truth.grad is not None and (logits.grad != 0).all()
    # 2e-4 is a normal number of float16: rounded to eps / 2, and |x| eps of float32 before.
    torch.testing.assert_close(logits.grad.double(), truth.grad, rtol=torch.finfo(dtype).eps / 2 + 2e-6, atol=0)


def test_no_gradient_is_found_where_none_is_wanted() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    labels = torch.tensor([0, 3, -1, -2, 1])
    with torch.no_grad():
        value = focal_loss(logits, labels, 0.25, 1.5)
    assert not value.requires_grad
    assert torch.ops.raydet.focal_loss(logits.detach(), labels, 0.25, 1.5, 0.0, False)[1].numel() == 0
    assert torch.equal(value, focal_loss(logits, labels, 0.25, 1.5).detach())


# ---- what torch does with an operation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wants_grad", [True, False])
def test_both_operations_keep_torchs_rules(dtype: torch.dtype, wants_grad: bool) -> None:
    logits, labels = example((6, 3), dtype)
    checked = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    value = (logits.requires_grad_(wants_grad), labels, 0.25, 1.5, 0.1, wants_grad)
    torch.library.opcheck(torch.ops.raydet.focal_loss.default, value, test_utils=checked)
    scale = torch.ones((), dtype=torch.promote_types(dtype, torch.float32))
    gradient = (scale, logits.detach(), labels, 0.25, 1.5, 0.1)
    torch.library.opcheck(torch.ops.raydet.focal_loss_gradient.default, gradient, test_utils=checked)


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_shapes_are_known_without_data(device: str) -> None:
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.empty(2, 7, 5, dtype=torch.bfloat16, device=device, requires_grad=True)
        value = focal_loss(logits, torch.empty(2, 7, dtype=torch.int64, device=device), 0.25, 1.5)
        if device == "meta":  # without a GPU torch's backward does not go as far
            value.backward()
            assert logits.grad is not None and (logits.grad.shape, logits.grad.dtype) == ((2, 7, 5), torch.bfloat16)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float32, device)


# ---- mistakes


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        focal_loss(torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), 0.25, 1.5)


ZEROS, LABELS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: focal_loss(LABELS.view(4, 1), LABELS, 0.25, 1.5), TypeError, r"logits must be .*got torch.int64"),
        (lambda: focal_loss(ZEROS.to(torch.complex64), LABELS, 0.25, 1.5), TypeError, r"got torch.complex64"),
        (lambda: focal_loss(ZEROS, LABELS.int(), 0.25, 1.5), TypeError, r"labels must be torch.int64, got .*\.long"),
        (lambda: focal_loss(torch.zeros(()), LABELS, 0.25, 1.5), ValueError, r"do not fit logits \(\)"),
        (lambda: focal_loss(ZEROS, LABELS.to("meta"), 0.25, 1.5), ValueError, r"labels are on meta, logits on cpu"),
        (lambda: focal_loss(ZEROS, LABELS, 1.5, 1.5), ValueError, r"alpha must be 0 to 1, got 1\.5"),
        (lambda: focal_loss(ZEROS, LABELS, float("nan"), 1.5), ValueError, r"alpha must be 0 to 1, got nan"),
        (lambda: focal_loss(ZEROS, LABELS, 0.25, -1.0), ValueError, r"gamma must be >= 0 and finite, got -1"),
        (lambda: focal_loss(ZEROS, LABELS, 0.25, float("inf")), ValueError, r"gamma must be >= 0 and finite, got inf"),
        (lambda: focal_loss(ZEROS, LABELS, 0.25, 1.5, 2.0), ValueError, r"label_smoothing must be 0 to 1, got 2"),
        (lambda: focal_loss(ZEROS, LABELS + 3, 0.25, 1.5), ValueError, r"class in \[0, 3\), .* got 3"),
        (lambda: focal_loss(ZEROS, LABELS - 3, 0.25, 1.5), ValueError, r"class in \[0, 3\), .* got -3"),
    ],
)
def test_a_mistake_is_named(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_kernels_are_refused_on_a_cpu_by_name() -> None:
    choose("cuda")
    try:
        with pytest.raises(raw.KernelError, match=r"logits is on cpu.*precision\.ops"):
            focal_loss(ZEROS, LABELS, 0.25, 1.5)
    finally:
        choose("auto")
