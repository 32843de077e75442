import contextlib
import copy
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from raydet.config import Quantization
from raydet.exceptions import ExportError, NotCalibratedError
from raydet.onnx import graph, targets
from raydet.onnx.targets import Target, build, operators
from raydet.quantization import quantize
from tests.onnx import nets

TARGETS: tuple[Target, ...] = ("tensorrt", "onnxruntime")


@pytest.fixture(scope="module")
def images_B3HW() -> torch.Tensor:
    return nets.patterns(16, seed=0)[0]


@pytest.fixture(scope="module")
def quantized() -> nn.Module:
    return nets.exported("tensorrt")[0]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_float_model_gives_a_float_graph(target: Target, images_B3HW: torch.Tensor) -> None:
    found = operators(build(nets.classifier(), images_B3HW, target=target), optimized=False)
    assert "QuantizeLinear" not in found and found["Conv"] > 0


@pytest.mark.slow
def test_a_graph_without_quantizers_is_refused(
    quantized: nn.Module, images_B3HW: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the library's switch were off: it then writes Round, Clip and Div.
    monkeypatch.setattr(graph, "exporting", lambda model: contextlib.nullcontext())
    with pytest.raises(ExportError, match="exported graph has 0 QuantizeLinear nodes"):
        build(quantized, images_B3HW, target="onnxruntime")


def test_other_than_eight_bits_and_missing_ranges_are_refused(images_B3HW: torch.Tensor) -> None:
    net = nets.quantized(nets.classifier(), images_B3HW, bits=4)
    without_ranges = nets.classifier()
    quantize(without_ranges, Quantization())
    for target in TARGETS:
        with pytest.raises(ExportError, match="has 4 bits"):
            build(net, images_B3HW, target=target)
        with pytest.raises(NotCalibratedError):
            build(without_ranges, images_B3HW, target=target)


@pytest.mark.slow
def test_a_convolution_left_in_floats_is_named(
    quantized: nn.Module, images_B3HW: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "quantized_graph", lambda proto, batches, full_range: proto)
    with pytest.raises(ExportError, match=r"quantized convolutions in floats: /conv_stem/Conv"):
        build(quantized, images_B3HW, target="onnxruntime")


@pytest.mark.slow
def test_the_model_is_left_as_it_was(quantized: nn.Module, images_B3HW: torch.Tensor) -> None:
    net = copy.deepcopy(quantized).train()
    before = copy.deepcopy(net.state_dict())
    build(net, images_B3HW, target="onnxruntime", batches=[images_B3HW])
    assert all(m.training for m in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(getattr(type(m), "use_fb_fake_quant", False) for m in net.modules())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_both_libraries_give_the_same_operators(target: Target, images_B3HW: torch.Tensor) -> None:
    pytest.importorskip("modelopt")
    found = [
        build(nets.quantized(nets.classifier(), images_B3HW, backend=backend), images_B3HW, target=target)
        for backend in ("pytorch-quantization", "modelopt")
    ]
    assert operators(found[0]) == operators(found[1])
    assert nets.error(nets.run(found[0], images_B3HW), nets.run(found[1], images_B3HW)) < 0.1


@pytest.mark.slow
def test_operators_are_counted_in_a_file_as_in_memory(tmp_path: Path) -> None:
    _, proto = nets.exported("tensorrt")
    onnx.save(proto, str(tmp_path / "model.onnx"))
    for optimized in (True, False):
        counts = operators(tmp_path / "model.onnx", optimized)
        assert counts == operators(proto, optimized) == operators(str(tmp_path / "model.onnx"), optimized)
        assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert operators(proto, False)["Conv"] == sum(n.op_type == "Conv" for n in proto.graph.node)
