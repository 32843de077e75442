"""The focal loss against its definition in float64, at both tails and in every dtype."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydet.ops import focal_loss


def definition(logits_AC: Tensor, labels_A: Tensor, alpha: float, gamma: float, smoothing: float) -> Tensor:
    """arXiv:1708.02002 eq. 5 with a smoothed one-hot target, as written, in float64."""
    x_AC = logits_AC.double()
    hit_AC = F.one_hot(labels_A.clamp(min=0), x_AC.shape[-1]).bool() & (labels_A >= 0).unsqueeze(-1)
    target_AC = hit_AC.double() * (1 - smoothing) + smoothing / 2
    cost_AC = F.binary_cross_entropy_with_logits(x_AC, target_AC, reduction="none")
    log_wrong_AC = torch.where(hit_AC, F.logsigmoid(-x_AC), F.logsigmoid(x_AC))
    weight_AC = torch.where(hit_AC, alpha, 1 - alpha) * torch.exp(gamma * log_wrong_AC)
    return (weight_AC * cost_AC)[labels_A != -2].sum()


def both(logits: Tensor, labels: Tensor, *settings: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ours = logits.clone().requires_grad_()
    value = focal_loss(ours, labels, *settings)
    value.backward()
    truth = logits.double().requires_grad_()
    expected = definition(truth, labels, *settings)
    expected.backward()
    assert ours.grad is not None and truth.grad is not None
    return value.detach(), ours.grad, expected.detach(), truth.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (1023, 90), (2, 513, 5)])
def test_value_and_gradient_equal_the_definition(
    dtype: torch.dtype, smoothing: float, gamma: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(shape) * 6).to(dtype)
    labels = torch.randint(-2, shape[-1], shape[:-1])
    value, grad, expected, expected_grad = both(logits, labels, 0.25, gamma, smoothing)
    computed = torch.promote_types(torch.float32, dtype)
    assert value.dtype == computed
    # A logit's loss is a product of exp and log1p of about |x| <= 30, each good to |x| eps; 16 of them in one chain.
    eps = torch.finfo(computed).eps
    torch.testing.assert_close(value.double(), expected, rtol=64 * eps, atol=64 * eps)
    own = torch.finfo(dtype).eps  # the gradient is rounded once more, to the logits' dtype
    torch.testing.assert_close(grad.double(), expected_grad, rtol=own + 256 * eps, atol=own * 1e-3 + 64 * eps)


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


def test_a_second_derivative_is_refused() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(focal_loss(logits, torch.tensor([0, -1, 1]), 0.25, 1.5), logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        grad.sum().backward()


def test_backward_over_a_kept_graph_gives_the_same_again() -> None:
    logits = torch.randn(30, 4, requires_grad=True)
    value = focal_loss(logits, torch.randint(-1, 4, (30,)), 0.25, 1.5)
    first, second = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        focal_loss(torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), 0.25, 1.5)
