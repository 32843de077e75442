"""Weights are rounded so that no pair of products saturates, and what that changes is made up for."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from raydet.onnx.graph import Graph, of_type
from raydet.onnx.saturation import neighbours
from raydet.onnx.scales import measure
from raydet.onnx.weight_rounding import fit_pairs
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


def test_no_pair_saturates_and_no_channel_changes_more_than_with_seven_bits() -> None:
    before_MK = levels(2)
    after_MK, growth_M = fit_pairs(before_MK, [TWOS])
    assert after_MK.dtype == np.int8 and largest_pair(before_MK, TWOS) > 128 >= largest_pair(after_MK, TWOS)
    assert (growth_M >= 1).all() and (growth_M <= 2).all()
    error_M = ((after_MK * growth_M[:, None] - before_MK) ** 2).sum(1)
    seven_bits_M = ((np.rint(before_MK / 2.0) * 2 - before_MK) ** 2).sum(1)
    assert (error_M <= seven_bits_M + 1e-3).all() and error_M.sum() < 0.8 * seven_bits_M.sum()


def test_a_channel_that_fits_stays_as_it_is() -> None:
    before_MK = levels(0)
    after_MK, growth_M = fit_pairs(before_MK, [TWOS])
    fits_M = np.abs(before_MK.astype(int)[:, TWOS].sum(2)).max(1) <= 128
    assert 3 <= fits_M.sum() < len(before_MK)
    assert (after_MK[fits_M] == before_MK[fits_M]).all() and (growth_M[fits_M] == 1).all()


def test_weights_that_are_paired_in_two_ways_fit_both() -> None:
    other = TWOS[:-1] + 1
    after_MK, _ = fit_pairs(levels(1), [TWOS, other])
    assert max(largest_pair(after_MK, TWOS), largest_pair(after_MK, other)) <= 128


def test_errors_are_made_up_for_where_inputs_are_correlated() -> None:
    rng = np.random.default_rng(0)
    before_MK = levels(3, (40, 301))  # three blocks, the last of them odd
    inputs_NK = rng.normal(size=(600, 20)) @ rng.normal(size=(20, 301)) + 0.3 * rng.normal(size=(600, 301))
    gram_KK = inputs_NK.T @ inputs_NK
    pairs_P2 = neighbours(before_MK)

    def error(found: tuple[Any, Any]) -> Any:
        after_MK, growth_M = found
        assert after_MK.dtype == np.int8 and largest_pair(after_MK, pairs_P2) <= 128
        return np.square((after_MK * growth_M[:, None] - before_MK) @ inputs_NK.T).sum(1)

    plain_M, fed_M = error(fit_pairs(before_MK, [pairs_P2])), error(fit_pairs(before_MK, [pairs_P2], gram_KK))
    assert (fed_M <= plain_M * (1 + 1e-6)).all() and fed_M.sum() < 0.5 * plain_M.sum()


def test_a_layer_whose_inputs_are_all_zero_is_rounded_too() -> None:
    plain, fed = fit_pairs(levels(4), [TWOS]), fit_pairs(levels(4), [TWOS], np.zeros((16, 16)))
    assert all(np.array_equal(a, b) for a, b in zip(plain, fed, strict=True))


def test_what_pointwise_layers_read_is_measured_over_all_batches() -> None:
    net, proto = nets.exported("tensorrt")
    images_B3HW = nets.patterns(8, 1)[0]
    read: dict[str, torch.Tensor] = {}
    layer = net.get_submodule("classifier")
    hook = layer.register_forward_pre_hook(lambda _, inputs: read.update(x_BK=inputs[0].double()))
    with torch.no_grad():
        net(images_B3HW)
    hook.remove()
    (gemm,) = of_type(proto.graph.node, "Gemm")
    weights = Graph.read(proto).producers()[gemm.input[1]].input[0]
    grams = measure(proto, [part.numpy() for part in images_B3HW.split(4)]).grams
    expected_KK = (read["x_BK"].T @ read["x_BK"]).numpy()
    assert len(grams) >= 8 and np.allclose(grams[weights], expected_KK, rtol=0.05, atol=0.02 * expected_KK.max())


@pytest.mark.slow
def test_fitted_weights_cost_little(images_B3HW: torch.Tensor, full_range: onnx.ModelProto) -> None:
    """Against the fake-quantized net: as near as weights of the whole range are."""
    net, proto = nets.exported("onnxruntime")
    expected = nets.answers(net, images_B3HW)
    exact, fitted = (nets.error(arithmetic.run(p, images_B3HW, vnni=True), expected) for p in (full_range, proto))
    assert fitted < 1.1 * exact


@pytest.mark.slow
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
