"""INT8 files compute the same with VNNI and without; what needs VNNI is found, and told where there is none."""

import onnx
import pytest
import torch

from raydet.onnx import saturation
from raydet.onnx.targets import build
from tests.onnx import arithmetic, nets


@pytest.mark.slow
def test_this_cpu_computes_as_it_is_emulated(full_range: onnx.ModelProto, images_B3HW: torch.Tensor) -> None:
    """The emulation of its kind is right, and the other kind's differs: it serves where that kind is not at hand."""
    found = nets.run(full_range, images_B3HW)
    own, other = (
        nets.error(found, arithmetic.run(full_range, images_B3HW, vnni=vnni))
        for vnni in (not saturation.saturates(), saturation.saturates())
    )
    assert own < 0.02 < 0.1 < other


@pytest.mark.slow
def test_both_kinds_of_cpu_give_one_answer(images_B3HW: torch.Tensor) -> None:
    proto = nets.exported("onnxruntime")[1]
    with_vnni, without = (arithmetic.run(proto, images_B3HW, vnni=vnni)[0] for vnni in (True, False))
    assert torch.equal(with_vnni, without)
    assert nets.error(nets.run(proto, images_B3HW), [with_vnni]) < 0.02


def test_layers_that_need_vnni_are_named(full_range: onnx.ModelProto, images_B3HW: torch.Tensor) -> None:
    found = saturation.layers_at_risk(full_range)
    assert "/conv_stem/Conv" in found and not any("depthwise" in name or "conv_dw" in name for name in found)
    assert saturation.layers_at_risk(nets.exported("onnxruntime")[1]) == []
    assert saturation.layers_at_risk(nets.exported("tensorrt")[1]) == []  # signed activations: floats on a CPU
    assert saturation.layers_at_risk(build(nets.classifier(), images_B3HW, target="onnxruntime")) == []


def test_the_arithmetic_that_a_file_needs_is_written_down(full_range: onnx.ModelProto) -> None:
    def bits(proto: onnx.ModelProto) -> tuple[str, int]:
        found = saturation.arithmetic(proto)
        return found["activations"], found["bits_of_two_products"]

    assert bits(nets.exported("onnxruntime")[1]) == ("uint8", 16)
    assert bits(full_range) == ("uint8", 32)
    assert bits(nets.exported("tensorrt")[1]) == ("int8", 32)
