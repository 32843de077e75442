from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from raydet.models.layers import Activation
from raydet.onnx import onnxruntime_int8, saturation
from raydet.onnx.graph import Graph, of_type
from raydet.onnx.targets import build, operators
from tests.onnx import arithmetic, nets

INTEGERS = {
    "QLinearConv", "QLinearSigmoid", "QLinearMul", "QLinearAdd", "QLinearGlobalAveragePool", "QLinearConcat", "QGemm",
    "MatMulIntegerToFloat", "Resize", "NhwcMaxPool", "Tile",
}  # fmt: skip
ENDS = {"QuantizeLinear": 1, "Pad": 1, "Transpose": 2, "Add": 2}
"""The image becomes integers of four channels and is turned, a bias is added to each of the heads' predictions."""
SHAPES = {"Flatten", "Reshape"}


def exported(net: nn.Module, images_B3HW: torch.Tensor, **settings: object) -> onnx.ModelProto:
    quantized = nets.quantized(net, images_B3HW, **settings)
    return build(quantized, images_B3HW, target="onnxruntime", batches=[images_B3HW])


Run = Callable[[onnx.ModelProto, torch.Tensor], list[torch.Tensor]]


@pytest.fixture(params=["this CPU", "the other kind"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a graph on this CPU, with VNNI or without, and in the arithmetic of the other kind."""
    if request.param == "this CPU":
        return nets.run
    return lambda proto, images_B3HW: arithmetic.run(proto, images_B3HW, vnni=saturation.saturates())


@pytest.fixture(scope="module")
def images_B3HW() -> torch.Tensor:
    return nets.patterns(256, seed=1000)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, side, arguments",
    [
        ("efficientnet_demo", 32, {}),
        ("efficientnet_demo", 32, {"act": "relu6"}),
        ("tf_efficientnet_lite0", 33, {}),
        ("efficientdet_demo", 128, {}),
        pytest.param("efficientnet_widese_b0", 64, {}, marks=pytest.mark.soak),
        pytest.param("efficientdet_lite0", 128, {}, marks=pytest.mark.soak),
        pytest.param("efficientnet_b0", 64, {}, marks=pytest.mark.soak),
        pytest.param("tf_efficientnet_b0", 64, {}, marks=pytest.mark.soak),
        pytest.param("efficientdet_d0", 128, {}, marks=pytest.mark.soak),
        pytest.param("tf_efficientdet_d0", 128, {}, marks=pytest.mark.soak),
        pytest.param("tf_efficientdet_lite0", 128, {}, marks=pytest.mark.soak),
    ],
)
def test_the_runtime_computes_with_integers_all_the_way(
    name: str, side: int, arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_int8, "fit_weights", lambda *_: None)  # half of the time, and changes no operator
    net, images_B3HW = nets.settled(name, side, **arguments), torch.randn(4, 3, side, side)
    found = operators(exported(net, images_B3HW))
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert set(found) <= INTEGERS | SHAPES | ENDS.keys()
    assert all(found.get(op, 0) <= count for op, count in ENDS.items())
    assert found["QLinearConv"] + found.get("MatMulIntegerToFloat", 0) >= len(layers)


@pytest.mark.slow
def test_nearly_all_answers_are_those_of_the_fake_quantized_model(images_B3HW: torch.Tensor, run: Run) -> None:
    net, proto = nets.exported("onnxruntime")
    assert nets.agreement(run(proto, images_B3HW)[0], nets.answers(net, images_B3HW)[0]) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("act", ["silu", "relu6"])
def test_ranges_that_were_not_measured_serve_too(act: Activation, images_B3HW: torch.Tensor, run: Run) -> None:
    net = nets.quantized(nets.classifier(act), images_B3HW[:64])
    found = run(build(net, images_B3HW, target="onnxruntime"), images_B3HW)
    assert nets.agreement(found[0], nets.answers(net, images_B3HW)[0]) >= 0.98


@pytest.mark.slow
def test_a_detectors_integers_are_hardly_further_from_its_floats_than_fake_quantization_is(run: Run) -> None:
    net, images_B3HW = nets.settled("efficientdet_demo", 128), torch.randn(4, 3, 128, 128)
    quantized = nets.quantized(net, images_B3HW)
    floats = nets.answers(net, images_B3HW)
    found = run(build(quantized, images_B3HW, target="onnxruntime", batches=[images_B3HW]), images_B3HW)
    assert nets.error(found, floats) < 1.25 * nets.error(nets.answers(quantized, images_B3HW), floats)


def check_batches(proto: onnx.ModelProto, side: int) -> None:
    images_B3HW = torch.randn(32, 3, side, side, generator=torch.Generator().manual_seed(1))
    alone = nets.run(proto, images_B3HW[:1])
    for batch in (3, 32):
        for y, one in zip(nets.run(proto, images_B3HW[:batch]), alone, strict=True):
            assert y.shape == (batch, *one.shape[1:])
            torch.testing.assert_close(y[:1], one, atol=1e-4, rtol=1e-4)


def test_an_image_has_one_answer_in_any_batch() -> None:
    check_batches(nets.exported("onnxruntime")[1], nets.SIDE)


@pytest.mark.slow
def test_a_detector_too_has_one_answer_for_an_image_in_any_batch() -> None:
    check_batches(exported(nets.settled("efficientdet_demo", 128), torch.randn(4, 3, 128, 128)), 128)


@pytest.mark.slow
@pytest.mark.parametrize("skip, floats", [("se", 14), ("stem", 1), ("depthwise", 7), ("classifier", 0)])
def test_only_what_is_skipped_stays_in_floats(skip: str, floats: int, images_B3HW: torch.Tensor) -> None:
    net = nets.classifier()
    proto = exported(net, images_B3HW[:64], skip=(skip,))
    found = operators(proto)
    convs = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert found["QLinearConv"] + found.get("MatMulIntegerToFloat", 0) == convs - floats
    assert found.get("Conv", 0) + found.get("FusedConv", 0) == floats
    expected = nets.answers(nets.quantized(net, images_B3HW[:64], skip=(skip,)), images_B3HW)
    assert nets.agreement(nets.run(proto, images_B3HW)[0], expected[0]) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    "skip", ["predict", *(pytest.param(group, marks=pytest.mark.soak) for group in ("fusion", "fpn", "towers"))]
)
def test_a_detector_with_a_skipped_group_computes_what_it_should(skip: str, run: Run) -> None:
    net, images_B3HW = nets.settled("efficientdet_demo", 128), torch.randn(4, 3, 128, 128)
    quantized = nets.quantized(net, images_B3HW, skip=(skip,))
    floats = nets.answers(net, images_B3HW)
    found = run(build(quantized, images_B3HW, target="onnxruntime", batches=[images_B3HW]), images_B3HW)
    assert nets.error(found, floats) < 1.25 * nets.error(nets.answers(quantized, images_B3HW), floats)


@pytest.mark.slow
def test_gates_repeated_over_a_row_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images_B3HW = nets.classifier(), nets.patterns(16, 0)[0]
    repeated = exported(net, images_B3HW)
    monkeypatch.setattr(onnxruntime_int8, "_NARROW", 0)
    plain = exported(net, images_B3HW)
    assert "Tile" in operators(repeated) and "Tile" not in operators(plain)
    assert torch.equal(nets.run(repeated, images_B3HW)[0], nets.run(plain, images_B3HW)[0])


@pytest.mark.slow
def test_a_fourth_channel_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images_B3HW = nets.exported("onnxruntime")[0], nets.patterns(16, 0)[0]
    four = build(net, images_B3HW, target="onnxruntime")
    monkeypatch.setattr(onnxruntime_int8, "_fourth_channel", lambda graph: None)
    three = build(net, images_B3HW, target="onnxruntime")
    assert operators(four).get("Pad") == 1 and "Pad" not in operators(three)
    assert torch.equal(nets.run(four, images_B3HW)[0], nets.run(three, images_B3HW)[0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-8, 0.0])
def test_a_channel_with_weights_next_to_nothing_keeps_its_bias(size: float) -> None:
    net, images_B3HW = nets.classifier(), nets.patterns(16, 0)[0]
    with torch.no_grad():
        net.conv_stem.weight[0] *= size
        net.bn1.bias[0] = 3.0
        net.bn1.running_var[0] = 100.0
        net.bn1.running_mean[0] = 0.0
    quantized = nets.quantized(net, images_B3HW)
    graph = Graph.read(build(quantized, images_B3HW, target="onnxruntime"))
    stem = next(of_type(graph.nodes, "Conv"))
    levels, scale = (graph.constants[name] for name in graph.producers()[stem.input[2]].input[:2])
    np.testing.assert_allclose(levels[0].astype(np.float64) * scale[0], 3.0, rtol=1e-6)


def test_levels_are_unsigned_and_weights_signed() -> None:
    graph = Graph.read(nets.exported("onnxruntime")[1])
    producers = graph.producers()
    for node in of_type(graph.nodes, "QuantizeLinear"):
        assert graph.constants[node.input[2]].dtype == np.uint8
    for conv in of_type(graph.nodes, "Conv"):
        weight, bias = (graph.constants[producers[name].input[0]] for name in conv.input[1:3])
        assert weight.dtype == np.int8 and bias.dtype == np.int32
