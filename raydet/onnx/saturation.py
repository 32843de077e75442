"""Weights whose products no x86 CPU cuts off: INT8 files that compute the same with VNNI and without.

A CPU without VNNI (AVX2 or AVX-512 alone: AMD before Zen 4, Intel before Cascade Lake) multiplies unsigned by signed
bytes with `vpmaddubsw`, which adds each two neighbouring products in 16 bits and saturates: 255 * 127 + 255 * 127 =
64,770 becomes 32,767. ONNX Runtime's kernels for uint8 activations and int8 weights use it (microsoft/onnxruntime,
onnxruntime/core/mlas/lib/platform.cpp and amd64/ConvSymKernelAvx2.asm): a right file then gives wrong results. Two
weights of one sign whose sum is at most 128 cannot saturate, 255 * 128 = 32,640. `fit_pairs` makes that true of every
pair: a channel that has a larger one gets coarser steps, or the pair is clipped, whichever changes its weights least.

Depthwise convolutions have kernels of their own, which add in 32 bits: they keep their weights.

Chosen for speed on both kinds of CPU; figures in docs/benchmarks/quantization_epyc-2core_2026-11-30.md. Given up:

- uint8 weights (`session.x64quantprecision=1` makes them, and fails on our graphs): exact too, without any change of a
  weight, but slower on AVX2, and VNNI has no such instruction;
- 7 bits for all weights (`reduce_range`): twice the step everywhere, where a third more is enough.

M output channels, K products of a sum (rows, columns, input channels of a kernel), P pairs.
"""

import functools
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raydet.onnx.graph import Array, Graph, attribute, of_type

if TYPE_CHECKING:
    import onnx

PAIR_LIMIT = 128
"""Largest sum of two neighbouring weights of one sign: 255 * 128 fits 16 bits, 255 * 129 does not."""
_GROWTHS = np.linspace(1.04, 2.0, 25)
"""By how much a channel's steps may grow. At 2 no level exceeds 64, so every pair fits."""
_RULE = (
    "bits_of_two_products: what the sum of two neighbouring products may take; where that is 32 and activations are "
    "uint8, x86 CPUs without VNNI saturate at 16 and compute something else"
)
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def fit_weights(graph: Graph) -> None:
    """Change the int8 weights of `graph` so that no pair of products saturates; their scales follow."""
    fitted: dict[tuple[str, str], tuple[str, Array]] = {}
    for node, dequantize, levels in list(_integer_layers(graph)):
        key = dequantize.input[0], node.op_type
        if key not in fitted:  # a head's weights serve all levels of the pyramid, each with scales of its own
            levels_MK = _by_channel(node, levels)
            pairs = [_neighbours(levels_MK)]
            if node.op_type == "Conv" and levels.shape[1] == 3:
                # An image may get a fourth channel of zeros (`raydet.onnx.onnxruntime_int8`): blue then has the pair
                # for itself.
                pairs.append(np.arange(levels_MK.shape[1]).reshape(-1, 3)[:, :2])
            levels_MK, growth_M = fit_pairs(levels_MK, pairs)
            fitted[key] = graph.constant(_as_stored(node, levels_MK, levels.shape)), growth_M
        dequantize.input[0], growth_M = fitted[key]
        scale = graph.constants[dequantize.input[1]]
        dequantize.input[1] = graph.constant((scale * growth_M).astype(np.float32))


def fit_pairs(levels_MK: Array, pairs: list[Array]) -> tuple[Array, Array]:
    """Return int8 levels_MK without a pair that saturates, and float64 growth_M, 1 to 2: new steps are so much larger.

    Of all growths the one that changes a channel's weights least, in the sum of squares.

    Args:
        levels_MK: int8, weight / step.
        pairs: indices_P2 into K; several arrays where kernels pair the weights in several ways.
    """
    best_MK, growth_M = _clipped(levels_MK.astype(np.float32), pairs), np.ones(len(levels_MK))
    error_M = ((best_MK - levels_MK) ** 2).sum(1)
    large_R = np.flatnonzero(error_M)  # the others are as they should be
    wanted_RK = levels_MK[large_R].astype(np.float32)
    for growth in _GROWTHS:
        found_RK = _clipped(np.rint(wanted_RK / growth), pairs)
        error_R = ((found_RK * growth - wanted_RK) ** 2).sum(1)
        better_R = error_R < error_M[large_R]
        rows = large_R[better_R]
        best_MK[rows], error_M[rows], growth_M[rows] = found_RK[better_R], error_R[better_R], growth
    return best_MK.astype(np.int8), growth_M


def _clipped(levels_MK: Array, pairs: list[Array]) -> Array:
    """Return the levels with every pair cut to PAIR_LIMIT, half of the rest from each, the larger first."""
    levels_MK = levels_MK.copy()
    for first_P, second_P in (pairs_P2.T for pairs_P2 in pairs):
        a_MP, b_MP = levels_MK[:, first_P], levels_MK[:, second_P]
        total_MP = a_MP + b_MP
        over_MP = np.maximum(np.abs(total_MP) - PAIR_LIMIT, 0)
        larger_MP = np.abs(a_MP) >= np.abs(b_MP)
        most_MP, least_MP = np.ceil(over_MP / 2), np.floor(over_MP / 2)
        sign_MP = np.sign(total_MP)
        levels_MK[:, first_P] = a_MP - sign_MP * np.where(larger_MP, most_MP, least_MP)
        levels_MK[:, second_P] = b_MP - sign_MP * np.where(larger_MP, least_MP, most_MP)
    return levels_MK


def layers_at_risk(proto: "onnx.ModelProto") -> list[str]:
    """Return the names of the layers of a Q/DQ graph that give other results on a CPU that saturates."""
    graph = Graph.read(proto)
    producers = graph.producers()
    found = []
    for node, _, levels in _integer_layers(graph):
        source = producers.get(node.input[0])
        if source is None or source.op_type != "DequantizeLinear" or len(source.input) < 3:
            continue  # computed in floats
        zero_point = graph.constants.get(source.input[2])
        if zero_point is None or zero_point.dtype != np.uint8:
            continue
        levels_MK = _by_channel(node, levels)
        sums_MP = levels_MK[:, _neighbours(levels_MK)].sum(2, dtype=np.int16)
        if (np.abs(sums_MP) > PAIR_LIMIT).any():
            found.append(node.name or node.output[0])
    return found


def saturating_layers(proto: "onnx.ModelProto") -> list[str]:
    """Return the names of the layers that this CPU computes wrongly."""
    return layers_at_risk(proto) if saturates() else []


def arithmetic(proto: "onnx.ModelProto") -> dict[str, Any]:
    """Return what arithmetic a graph needs of a runtime, for an exported file's metadata."""
    if not any(of_type(proto.graph.node, "QuantizeLinear")):
        return {"activations": "float32", "weights": "float32"}
    graph = Graph.read(proto)
    quantized = {graph.constants[node.input[2]].dtype.name for node in of_type(graph.nodes, "QuantizeLinear")}
    kind = {"activations": ", ".join(sorted(quantized)), "weights": "int8"}
    return {**kind, "bits_of_two_products": 32 if "int8" in quantized or layers_at_risk(proto) else 16, "rule": _RULE}


def _integer_layers(graph: Graph) -> Iterator[tuple[Any, Any, Array]]:
    """Yield the nodes that kernels of matrix products compute with int8 weights, their DequantizeLinear, the levels."""
    producers = graph.producers()
    for node in of_type(graph.nodes, "Conv", "Gemm", "MatMul"):
        dequantize = producers.get(node.input[1])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        levels = graph.constants.get(dequantize.input[0])
        if levels is not None and levels.dtype == np.int8 and attribute(node, "group", 1) == 1:
            yield node, dequantize, levels


def _by_channel(node: Any, levels: Array) -> Array:
    """Return stored weights as levels_MK, K in the order in which kernels add."""
    if node.op_type == "Conv":
        return levels.transpose(0, 2, 3, 1).reshape(len(levels), -1)
    return levels if attribute(node, "transB", 0) else levels.T


def _as_stored(node: Any, levels_MK: Array, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Conv":
        out, channels, rows, columns = shape
        levels_MK = levels_MK.reshape(out, rows, columns, channels).transpose(0, 3, 1, 2)
    elif not attribute(node, "transB", 0):
        levels_MK = levels_MK.T
    return np.ascontiguousarray(levels_MK)


def _neighbours(levels_MK: Array) -> Array:
    """Return which of the K products are added in pairs, indices_P2: a last one without a neighbour is in none."""
    products_K = np.arange(levels_MK.shape[1])
    return products_K[: len(products_K) // 2 * 2].reshape(-1, 2)


@functools.cache
def saturates() -> bool:
    """Say whether ONNX Runtime adds products of uint8 and int8 in 16 bits on this CPU."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((4, 1), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["levels", "weights"], ["sum"])],
        "saturates",
        [helper.make_tensor_value_info("levels", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("sum", TensorProto.INT32, [1, 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sum_11,) = session.run(None, {"levels": np.full((1, 4), 255, np.uint8)})
    return bool(sum_11.item() != 4 * 255 * 127)


def cpu_features() -> list[str]:
    """Return which instruction sets this CPU has that INT8 speed depends on; its architecture where none is found."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = set()
    return [name for name in _FEATURES if name in words] or [platform.machine()]
