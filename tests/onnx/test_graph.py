import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from raydet.exceptions import ExportError
from raydet.models import build
from raydet.onnx.graph import Graph, trace
from tests.onnx import nets

ALLOWED = {
    "Conv", "Sigmoid", "Mul", "Add", "Clip", "GlobalAveragePool", "Flatten", "Gemm", "MaxPool", "Resize", "Concat",
    "Transpose", "Reshape", "Unsqueeze",
}  # fmt: skip
SIZES = {"efficientnet_demo": 32, "tf_efficientnet_lite0": 33, "efficientdet_demo": 128}


@pytest.fixture(scope="module", params=SIZES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, onnx.ModelProto, int]:
    side = SIZES[request.param]
    net = nets.settled(request.param, side)
    return net, trace(net, torch.zeros(1, 3, side, side)), side


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_float_graph_computes_what_the_model_does_at_any_batch(
    case: tuple[nn.Module, onnx.ModelProto, int], batch: int
) -> None:
    net, proto, side = case
    images_B3HW = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
    found, expected = nets.run(proto, images_B3HW), nets.answers(net, images_B3HW)
    assert [y.shape for y in found] == [y.shape for y in expected]
    assert nets.error(found, expected) < 1e-3


@pytest.mark.slow
def test_a_float_graph_holds_nothing_that_only_computes_constants(
    case: tuple[nn.Module, onnx.ModelProto, int],
) -> None:
    _, proto, _ = case
    assert {node.op_type for node in proto.graph.node} <= ALLOWED


def test_inputs_and_outputs_have_their_names_and_a_free_batch(case: tuple[nn.Module, onnx.ModelProto, int]) -> None:
    net, proto, _ = case
    detector = hasattr(net, "class_net")
    assert [v.name for v in proto.graph.input] == ["images"]
    assert [v.name for v in proto.graph.output] == (["logits", "codes"] if detector else ["logits"])
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_tracing_leaves_the_model_as_it_was(training: bool) -> None:
    net = build("efficientnet_demo", 4).train(training)
    before = copy.deepcopy(net.state_dict())
    trace(net, torch.zeros(1, 3, 32, 32))
    assert all(m.training == training for m in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_reshape_that_mixes_the_batch_is_refused() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(3, -1)

    with pytest.raises(ExportError, match="first dimension is not the batch"):
        trace(Mixing(), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("amounts, value", [([0, 0, 0, 1, 0, 0, 2, 1], 0.5), ([0, 1, 0, 0, 0, 0, 0, 0], 0.0)])
def test_padding_that_a_convolution_cannot_do_stays(amounts: list[int], value: float) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3 + sum(amounts[1::4]), 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            before, after = amounts[:4], amounts[4:]
            pairs = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
            return self.conv(nn.functional.pad(x, pairs, value=value)).mean((2, 3))

    torch.manual_seed(0)
    net, images_B3HW = Padded().eval(), torch.randn(2, 3, 8, 8)
    proto = trace(net, images_B3HW)
    assert "Pad" in {node.op_type for node in proto.graph.node}
    assert nets.error(nets.run(proto, images_B3HW), nets.answers(net, images_B3HW)) < 1e-5


def test_equal_constants_are_stored_once_and_unused_ones_not() -> None:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2])

    empty = helper.make_graph([], "g", [info("images")], [info("logits")])
    graph = Graph.read(helper.make_model(empty))
    first, second, unused = (graph.constant(np.array([1.0, x], np.float32)) for x in (2, 2, 3))
    graph.nodes = [graph.node("Mul", ["images", first], "a"), graph.node("Mul", ["a", second], "logits")]
    kept = Graph.read(graph.write())
    assert set(kept.constants) == {first} and unused not in kept.constants
    assert [node.input[1] for node in kept.nodes] == [first, first]
