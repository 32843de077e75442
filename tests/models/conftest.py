"""What the tests of the models share: one thread, and weights that a wrong copy would show."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def _randomise(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            # Down to 1e-2: with larger variances an eps of 1e-5 and one of 1e-3 give the same outputs.
            module.running_var.uniform_(0.01, 2)
            module.weight.uniform_(0.2, 1)
            module.bias.normal_(0, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith("edge_weights"):
            parameter.uniform_(-0.3, 1)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.2)
    return model.eval()


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Return a function that gives a model statistics and biases as training would, and puts it in eval mode."""
    return _randomise
