import numpy as np
import pytest
import torch
from torch import nn

from raydet.onnx.graph import Graph, of_type, trace
from raydet.onnx.targets import build
from raydet.onnx.tensorrt_qdq import symmetric
from tests.onnx import nets

# It rounds the biases of convolutions, which TensorRT does not.
EXACT = {"disabled_optimizers": ["WeightBiasQuantization"]}


@pytest.fixture(scope="module")
def images_B3HW() -> torch.Tensor:
    return nets.patterns(256, seed=1000)[0]


@pytest.mark.slow
def test_nearly_all_answers_are_those_of_the_fake_quantized_model(images_B3HW: torch.Tensor) -> None:
    net, proto = nets.exported("tensorrt")
    found, expected = nets.run(proto, images_B3HW, **EXACT), nets.answers(net, images_B3HW)
    assert expected[0].argmax(-1).bincount(minlength=nets.CLASSES).min() > 20  # it tells the classes apart
    assert nets.agreement(found[0], expected[0]) >= 0.99


def test_every_convolution_reads_int8_weights_and_integers_whose_zero_is_0() -> None:
    graph = Graph.read(nets.exported("tensorrt")[1])
    producers = graph.producers()
    convs = list(of_type(graph.nodes, "Conv"))
    for conv in convs:
        weight, features = producers[conv.input[1]], producers[conv.input[0]]
        assert weight.op_type == features.op_type == "DequantizeLinear"
        assert graph.constants[weight.input[0]].dtype == np.int8
    for node in of_type(graph.nodes, "QuantizeLinear", "DequantizeLinear"):
        zero = graph.constants[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    assert not list(of_type(graph.nodes, "BatchNormalization"))


@pytest.mark.slow
def test_the_heads_weights_are_stored_once_for_all_levels() -> None:
    net = nets.quantized(nets.settled("efficientdet_demo", 128), torch.randn(4, 3, 128, 128))
    graph = Graph.read(build(net, torch.zeros(1, 3, 128, 128), target="tensorrt"))
    producers = graph.producers()
    convs = [n for n in of_type(graph.nodes, "Conv") if "class_net/conv_rep.0/conv_pw" in n.name]
    assert len(convs) == 3  # levels of the demo
    assert len({producers[conv.input[1]].input[0] for conv in convs}) == 1


class Sandwich(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 5, 3, bias=True)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv_head = nn.Conv2d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv_head(self.bn1(self.conv_stem(x))).flatten(1)
        return y


def test_a_batchnorm_folds_whatever_the_sign_of_its_factor() -> None:
    torch.manual_seed(0)
    net, images_B3HW = Sandwich().eval(), torch.randn(8, 3, 9, 9)
    with torch.no_grad():
        net.bn1.weight.copy_(torch.tensor([1.5, -0.7, 0.0, -2.0, 0.3]))
        for values_C in (net.bn1.bias, net.bn1.running_mean):
            values_C.normal_()
        net.bn1.running_var.uniform_(0.3, 3)
    net = nets.quantized(net, images_B3HW)
    proto = symmetric(trace(net, images_B3HW))
    assert not list(of_type(proto.graph.node, "BatchNormalization"))
    assert nets.error(nets.run(proto, images_B3HW, **EXACT), nets.answers(net, images_B3HW)) < 0.01
    graph = Graph.read(proto)
    for node in of_type(graph.nodes, "DequantizeLinear"):
        assert (graph.constants[node.input[1]] > 0).all()


@pytest.mark.soak
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_b0_shrinks_to_less_than_three_tenths(target: str) -> None:
    net = nets.settled("efficientnet_b0", 64)
    net.classifier = nn.Linear(1280, 1000)
    example_B3HW = torch.randn(4, 3, 64, 64)
    floats = build(net, example_B3HW, target=target)  # type: ignore[arg-type]
    small = build(nets.quantized(net, example_B3HW), example_B3HW, target=target)  # type: ignore[arg-type]
    assert small.ByteSize() <= 0.30 * floats.ByteSize()
