"""Layers whose products a CPU without VNNI cuts off, and whether this one does.

A CPU without VNNI (AVX2 or AVX-512 alone: AMD before Zen 4, Intel before Cascade Lake) multiplies unsigned by signed
bytes with `vpmaddubsw`, which adds each two neighbouring products in 16 bits and saturates: 255 * 127 + 255 * 127 =
64,770 becomes 32,767. ONNX Runtime's kernels for uint8 activations and int8 weights use it (microsoft/onnxruntime,
onnxruntime/core/mlas/lib/platform.cpp and amd64/ConvSymKernelAvx2.asm): a right file then gives wrong results. Two
weights of one sign whose sum is at most 128 cannot saturate, 255 * 128 = 32,640.

Depthwise convolutions have kernels of their own, which add in 32 bits.

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
_RULE = (
    "bits_of_two_products: what the sum of two neighbouring products may take; where that is 32 and activations are "
    "uint8, x86 CPUs without VNNI saturate at 16 and compute something else"
)
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def layers_at_risk(proto: "onnx.ModelProto") -> list[str]:
    """Return the names of the layers of a Q/DQ graph that give other results on a CPU that saturates."""
    graph = Graph.read(proto)
    producers = graph.producers()
    found = []
    for node, _, levels in int8_layers(graph):
        source = producers.get(node.input[0])
        if source is None or source.op_type != "DequantizeLinear" or len(source.input) < 3:
            continue  # computed in floats
        zero_point = graph.constants.get(source.input[2])
        if zero_point is None or zero_point.dtype != np.uint8:
            continue
        levels_MK = by_channel(node, levels)
        sums_MP = levels_MK[:, neighbours(levels_MK)].sum(2, dtype=np.int16)
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


def int8_layers(graph: Graph) -> Iterator[tuple[Any, Any, Array]]:
    """Yield the nodes that kernels of matrix products compute with int8 weights, their DequantizeLinear, the levels."""
    producers = graph.producers()
    for node in of_type(graph.nodes, "Conv", "Gemm", "MatMul"):
        dequantize = producers.get(node.input[1])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        levels = graph.constants.get(dequantize.input[0])
        if levels is not None and levels.dtype == np.int8 and attribute(node, "group", 1) == 1:
            yield node, dequantize, levels


def by_channel(node: Any, levels: Array) -> Array:
    """Return stored weights as levels_MK, K in the order in which kernels add."""
    if node.op_type == "Conv":
        return levels.transpose(0, 2, 3, 1).reshape(len(levels), -1)
    return levels if attribute(node, "transB", 0) else levels.T


def neighbours(levels_MK: Array) -> Array:
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
