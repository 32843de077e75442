"""The graph for TensorRT: symmetric Q/DQ where the model has quantizers, weights stored as int8, BatchNorm folded.

Source: NVIDIA's placement and explicit quantization (https://docs.nvidia.com/deeplearning/tensorrt, "Working with
quantized types"): zero points are 0, a convolution's branch is added to the quantized shortcut within its kernel.
Folding is exact: with y = f (conv + bias - mean) + beta, the scale of channel c becomes |f_c| times what it was and
the levels stay, or change their sign with f_c.

Given up: TensorRT itself has not been run; what is tested is that ONNX Runtime computes what PyTorch does.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from raydet.onnx.graph import Graph, attribute, of_type

if TYPE_CHECKING:
    import onnx


def symmetric(proto: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return the traced ModelProto with every BatchNorm folded into its convolution."""
    graph = Graph.read(proto)
    producers, consumers = graph.producers(), graph.consumers()
    for norm in list(of_type(graph.nodes, "BatchNormalization")):
        conv = producers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or len(consumers[conv.output[0]]) != 1:
            continue  # no convolution's alone: stays a float operator
        dequantize = producers.get(conv.input[1])
        if dequantize is not None and dequantize.input[0] in graph.constants:
            _fold(graph, conv, dequantize, norm)
    return graph.write()


def _fold(graph: Graph, conv: Any, dequantize: Any, norm: Any) -> None:
    gamma_C, beta_C, mean_C, variance_C = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
    factor_C = gamma_C / np.sqrt(variance_C + attribute(norm, "epsilon", 1e-5))
    levels, scale, zero = (graph.constants[name] for name in dequantize.input)
    bias_C = graph.constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else 0.0
    bias_C = (bias_C - mean_C) * factor_C + beta_C
    signs = np.sign(factor_C).astype(np.int16).reshape(-1, *(1,) * (levels.ndim - 1))
    levels = np.clip(levels.astype(np.int16) * signs, -128, 127).astype(np.int8)
    # A channel that BN shuts off has levels 0 of whatever scale; 0 is none that runtimes divide by.
    scale_C = np.where(factor_C == 0, 1.0, scale.astype(np.float64) * np.abs(factor_C)).astype(np.float32)
    weight = f"{norm.output[0]}/weight"
    inputs = [graph.constant(a) for a in (levels, scale_C, np.zeros(scale_C.shape, zero.dtype))]
    at = graph.nodes.index(conv)
    graph.nodes.insert(at, graph.node("DequantizeLinear", inputs, weight, axis=0))
    conv.input[1] = weight
    del conv.input[2:]
    conv.input.append(graph.constant(bias_C.astype(np.float32)))
    graph.rename(norm.output[0], conv.output[0])
