"""What several files of this folder share."""

import onnx
import pytest
import torch

from raydet.onnx.targets import build
from tests.onnx import nets


@pytest.fixture(scope="session")
def images_B3HW() -> torch.Tensor:
    return nets.patterns(64, seed=1000)[0]


@pytest.fixture(scope="session")
def full_range(images_B3HW: torch.Tensor) -> onnx.ModelProto:
    """The format of before, whose weights are as they were trained."""
    net = nets.exported("onnxruntime")[0]
    return build(net, images_B3HW, target="onnxruntime", batches=[images_B3HW], full_range=True)
