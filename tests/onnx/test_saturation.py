"""INT8 files compute the same with VNNI and without; what needs VNNI is found, and told where there is none."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from raydet.onnx import saturation
from raydet.onnx.graph import Graph, of_type
from raydet.onnx.targets import build
from tests.onnx import arithmetic, nets

TWOS = np.arange(16).reshape(-1, 2)


def levels(seed: int, shape: tuple[int, int] = (40, 16)) -> Any:
    """Channels of a bell's shape, the largest level 127, and the extremes."""
    rng = np.random.default_rng(seed)
    x_MK = rng.normal(size=shape)
    x_MK = np.rint(x_MK / np.abs(x_MK).max(1, keepdims=True) * 127)
    x_MK[0], x_MK[1], x_MK[2] = 127, -128, 0
    x_MK[3] = np.where(np.arange(shape[1]) % 2, 127, -127)  # large, of two signs
    return x_MK.astype(np.int8)


def largest_pair(levels_MK: Any, pairs_P2: Any) -> int:
    return int(np.abs(levels_MK.astype(int)[:, pairs_P2].sum(2)).max())


@pytest.fixture(scope="module")
def images_B3HW() -> torch.Tensor:
    return nets.patterns(64, seed=1000)[0]


@pytest.fixture(scope="module")
def full_range(images_B3HW: torch.Tensor) -> onnx.ModelProto:
    """The format of before, whose weights are as they were trained."""
    net = nets.exported("onnxruntime")[0]
    return build(net, images_B3HW, target="onnxruntime", batches=[images_B3HW], full_range=True)


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_saturates_and_no_channel_changes_more_than_with_seven_bits(seed: int) -> None:
    before_MK = levels(seed)
    after_MK, growth_M = saturation.fit_pairs(before_MK, [TWOS])
    assert after_MK.dtype == np.int8 and largest_pair(before_MK, TWOS) > 128 >= largest_pair(after_MK, TWOS)
    assert (growth_M >= 1).all() and (growth_M <= 2).all()
    error_M = ((after_MK * growth_M[:, None] - before_MK) ** 2).sum(1)
    seven_bits_M = ((np.rint(before_MK / 2.0) * 2 - before_MK) ** 2).sum(1)
    assert (error_M <= seven_bits_M + 1e-3).all() and error_M.sum() < 0.8 * seven_bits_M.sum()


def test_a_channel_that_fits_stays_as_it_is() -> None:
    before_MK = levels(0)
    after_MK, growth_M = saturation.fit_pairs(before_MK, [TWOS])
    fits_M = np.abs(before_MK.astype(int)[:, TWOS].sum(2)).max(1) <= 128
    assert 3 <= fits_M.sum() < len(before_MK)
    assert (after_MK[fits_M] == before_MK[fits_M]).all() and (growth_M[fits_M] == 1).all()


def test_weights_that_are_paired_in_two_ways_fit_both() -> None:
    other = TWOS[:-1] + 1
    after_MK, _ = saturation.fit_pairs(levels(1), [TWOS, other])
    assert max(largest_pair(after_MK, TWOS), largest_pair(after_MK, other)) <= 128


def test_this_cpu_computes_as_it_is_emulated(full_range: onnx.ModelProto, images_B3HW: torch.Tensor) -> None:
    """The emulation of its kind is right, and the other kind's differs: it serves where that kind is not at hand."""
    found = nets.run(full_range, images_B3HW)
    own, other = (
        nets.error(found, arithmetic.run(full_range, images_B3HW, vnni=vnni))
        for vnni in (not saturation.saturates(), saturation.saturates())
    )
    assert own < 0.02 < 0.1 < other


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


def test_fitted_weights_cost_little(full_range: onnx.ModelProto, images_B3HW: torch.Tensor) -> None:
    """Against the fake-quantized net: nearly as near as all 8 bits are, and nearer than 7 bits."""
    net, proto = nets.exported("onnxruntime")
    expected = nets.answers(net, images_B3HW)
    exact, fitted = (nets.error(arithmetic.run(p, images_B3HW, vnni=True), expected) for p in (full_range, proto))
    assert fitted < 1.25 * exact


def test_a_depthwise_convolution_keeps_its_weights(full_range: onnx.ModelProto) -> None:
    def depthwise(proto: onnx.ModelProto) -> list[Any]:
        graph = Graph.read(onnx.ModelProto.FromString(proto.SerializeToString()))
        producers = graph.producers()
        convs = [
            c for c in of_type(graph.nodes, "Conv") if graph.constants[producers[c.input[1]].input[0]].shape[1] == 1
        ]
        return [graph.constants[producers[c.input[1]].input[0]] for c in convs]

    ours, theirs = depthwise(nets.exported("onnxruntime")[1]), depthwise(full_range)
    assert len(ours) >= 7 and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
