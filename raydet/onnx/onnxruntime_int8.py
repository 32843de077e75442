"""The graph for ONNX Runtime on a CPU: unsigned activations, signed weights per channel, INT8 all the way.

The runtime fuses a convolution to QLinearConv only where its input, output, weight and bias all have Q/DQ. The model's
quantizers give some of these grids, and exactly: a symmetric int8 grid is a uint8 grid with the zero point 128. The
others follow from them, so that little is left to measure:

- what SiLU reads: below -L its result is less than half a trained step from 0, above the result's range it is cut;
- what SiLU and sigmoids return, alone, multiplied or averaged: never below -0.28 or 0, so steps half as wide;
- what ReLU6 returns: never negative, so zero point 0 and steps half as wide; saturation then is the ReLU6;
- a gate's input: where the sigmoid is half a step from 0 and 1;
- maps moved and not changed (max-pool, resize, concat, ...): the grid of where they go;
- a factor of the pyramid's fusion: it multiplies the scale with which its map is read, at no cost.

Weights are signed bytes, per channel, so rounded that no two products saturate on a CPU without VNNI
(`raydet.onnx.weight_rounding`).

What is left, a block's branch and the pyramid's partial sums, is measured on batches, or else bounded by the sum's
range and the other term's. Batches also raise -L where nothing gets so low: the demo classifier after QAT then gave
98.9 instead of 97.8 % of the fake-quantized net's answers (n=449).

Given up: `onnxruntime.quantization.quantize_static`, which measures all ranges again (so that it agrees with the
trained ranges only through an override for each tensor), quantizes weights again, and knows none of the points above.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from raydet.onnx.graph import Array, Graph, attribute, of_type
from raydet.onnx.scales import MOVES, Edge, ScalePlan, choose, measure
from raydet.onnx.weight_rounding import fit_weights

if TYPE_CHECKING:
    import onnx

_NARROW = 144
"""Channels up to which a gate is repeated; measured: 32, 96 and 144 gain, 240 and more do not."""
_BIAS_LIMIT = 2**30
"""Half of what an int32 holds, so that sums with it do not wrap round."""


def quantized_graph(
    proto: "onnx.ModelProto", batches: Iterable[Array], *, full_range: bool = False
) -> "onnx.ModelProto":
    """Return the ModelProto in which ONNX Runtime computes in INT8 wherever the model was quantized.

    Args:
        proto: of `tensorrt.symmetric`.
        batches: images_B3HW, normalised; empty: ranges that the model has not are bounded instead of measured.
        full_range: keep all weights as they are; the file is then right with VNNI only (`raydet.onnx.saturation`).
    """
    shapes = _shapes(proto)  # first: the graph's nodes are the proto's own, and are changed below
    measured = measure(proto, batches)
    plan = ScalePlan(Graph.read(proto), measured.ranges)
    _strip(plan)
    plan.index()
    if not full_range:
        fit_weights(plan.graph, measured.grams)
    _exact_ends(plan)
    _fold_shares(plan)
    plan.index()
    choose(plan)
    _drop_clips(plan)
    _insert(plan, _narrow_gates(plan, shapes))
    _fourth_channel(plan.graph)
    return plan.graph.write()


def _strip(plan: ScalePlan) -> None:
    """Take the activations' Q/DQ out; keep which inputs had them, with which scale."""
    graph = plan.graph
    producers, consumers = graph.producers(), graph.consumers()
    for dequantize in list(of_type(graph.nodes, "DequantizeLinear")):
        quantize = producers.get(dequantize.input[0])
        if quantize is None:
            continue  # a weight's
        for node, i in consumers.get(dequantize.output[0], []):
            node.input[i] = quantize.input[0]
            plan.wanted[node.output[0], i] = float(graph.constants[quantize.input[1]])
        graph.nodes.remove(dequantize)
    graph.nodes = [node for node in graph.nodes if node.op_type != "QuantizeLinear"]


def _exact_ends(plan: ScalePlan) -> None:
    """Make products of matrices out of pointwise convolutions that only floats follow: their results are not rounded.

    Such are the heads' last convolutions, and those before a part that is skipped.
    """
    graph = plan.graph
    for conv in list(of_type(graph.nodes, "Conv")):
        if not plan.is_exact(conv) or not _is_pointwise(plan, conv) or not _ends_in_floats(plan, conv.output[0]):
            continue
        before, readers = plan.producers[conv.input[0]], [node for node, _ in plan.consumers[conv.output[0]]]
        levels, scale, zero = (graph.constants[name] for name in plan.producers[conv.input[1]].input)
        inputs = [graph.constant(a) for a in (np.ascontiguousarray(levels[:, :, 0, 0].T), scale, zero)]
        name = conv.output[0]
        weight = graph.node("DequantizeLinear", inputs, f"{name}/weight", axis=1)
        product = graph.node("MatMul", [f"{name}/last", weight.output[0]], f"{name}/product")
        total = graph.node("Add", [product.output[0], conv.input[2]], f"{name}/sum")
        plan.wanted[product.output[0], 0] = plan.wanted.pop((name, 0))
        at = graph.nodes.index(conv)
        if before.op_type == "Transpose" and [r.op_type for r in readers] == ["Transpose"]:
            # As the heads have it: [B, cells, 1, C], turned for the convolution only.
            product.input[0] = plan.producers[before.input[0]].input[0]
            graph.nodes[at : at + 1] = [weight, product, total]
            graph.rename(readers[0].output[0], total.output[0])
        else:
            first = graph.node("Transpose", [conv.input[0]], f"{name}/last", perm=[0, 2, 3, 1])
            back = graph.node("Transpose", [total.output[0]], name, perm=[0, 3, 1, 2])
            graph.nodes[at : at + 1] = [first, weight, product, total, back]


def _is_pointwise(plan: ScalePlan, conv: Any) -> bool:
    levels = plan.graph.constants[plan.producers[conv.input[1]].input[0]]
    ones = {attribute(conv, "group", 1), *attribute(conv, "strides", [1])} == {1}
    return ones and levels.shape[2:] == (1, 1) and not any(attribute(conv, "pads", [0])) and len(conv.input) > 2


def _ends_in_floats(plan: ScalePlan, tensor: str) -> bool:
    """Say whether nothing that comes of a tensor is quantized before it meets weights, or the graph's end."""
    for node, _ in plan.consumers.get(tensor, []):
        if any((node.output[0], k) in plan.wanted for k in range(len(node.input))):
            return False
        if node.op_type in ("Sigmoid", "Mul", "Clip", "Add", *MOVES) and not _ends_in_floats(plan, node.output[0]):
            return False
    return True


def _fold_shares(plan: ScalePlan) -> None:
    """Take the products with the fusion's constant shares out; keep them as factors of the inputs that read them."""
    graph = plan.graph
    for node in list(of_type(graph.nodes, "Mul")):
        name = node.output[0]
        share = graph.constants.get(node.input[1])
        if share is None or share.size != 1 or (name, 0) not in plan.wanted:
            continue
        scale = plan.wanted.pop((name, 0))
        _push(plan, name, max(float(share.reshape(())), 1e-9), scale)  # a scale of 0 is none
        graph.rename(name, node.input[0])
        graph.nodes.remove(node)


def _push(plan: ScalePlan, tensor: str, factor: float, scale: float) -> None:
    for node, i in plan.graph.consumers().get(tensor, []):
        plan.wanted[node.output[0], i] = scale
        if node.op_type in MOVES:
            _push(plan, node.output[0], factor, scale)
        else:
            plan.factors[node.output[0], i] = factor


def _drop_clips(plan: ScalePlan) -> None:
    for clip in list(of_type(plan.graph.nodes, "Clip")):
        if clip.input[0] in plan.grids and plan.grids[clip.input[0]] == plan.grids.get(clip.output[0]):
            plan.graph.rename(clip.output[0], clip.input[0])
            plan.graph.nodes.remove(clip)


def _shapes(proto: "onnx.ModelProto") -> dict[str, list[int]]:
    """Return the shape of each tensor, 0 for the batch."""
    import onnx

    values = onnx.shape_inference.infer_shapes(proto).graph.value_info
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def _narrow_gates(plan: ScalePlan, shapes: dict[str, list[int]]) -> dict[Edge, int]:
    """Return the gates of few channels, and the width of the maps that they scale.

    The runtime multiplies a run of values at a time, as long as the gate is: one pixel's channels. Repeated over a row
    it gives the same product: 1.74 -> 0.34 ns a value for 32 channels at 112 px (one thread of a Xeon with
    AVX512-VNNI, ONNX Runtime 1.31, 2026-11).
    """
    found: dict[Edge, int] = {}
    for node in of_type(plan.graph.nodes, "Mul"):
        edges = [(node.output[0], i) for i in (0, 1)]
        sizes = [shapes.get(name, []) for name in node.input]
        for edge, gate, features in zip(edges, sizes, sizes[::-1], strict=True):
            known = edge in plan.wanted and len(gate) == len(features) == 4
            if known and gate[2:] == [1, 1] and gate[1] <= _NARROW and features[3] > 1:
                found[edge] = features[3]
    return found


def _insert(plan: ScalePlan, repeats: dict[Edge, int]) -> None:
    """Write Q/DQ, and biases as int32; repeat these inputs along their last dimension."""
    graph = plan.graph
    nodes = []

    def quantize(name: str) -> None:
        if name in plan.grids:
            grid = plan.grids[name]
            nodes.append(
                graph.node("QuantizeLinear", [name, *_parameters(graph, grid.scale, grid.zero_point)], name + "/q")
            )

    quantize(graph.proto.graph.input[0].name)
    for node in graph.nodes:
        if node.op_type in ("Conv", "Gemm") and plan.is_exact(node):
            nodes.extend(_integer_bias(plan, node))
        for i, name in enumerate(node.input):
            edge = (node.output[0], i)
            if name in plan.grids and _reads_int8(plan, node, i):
                scale = plan.grids[name].scale * plan.factors.get(edge, 1.0)
                levels = name + "/q"
                if edge in repeats:
                    shape = graph.constant(np.array([1, 1, 1, repeats[edge]], np.int64))
                    nodes.append(graph.node("Tile", [levels, shape], levels + "/row"))
                    levels = nodes[-1].output[0]
                inputs = [levels, *_parameters(graph, scale, plan.grids[name].zero_point)]
                nodes.append(graph.node("DequantizeLinear", inputs, f"{node.output[0]}/{i}"))
                node.input[i] = nodes[-1].output[0]
        nodes.append(node)
        quantize(node.output[0])
    graph.nodes = nodes


def _fourth_channel(graph: Graph) -> None:
    """Let the first convolution read four channels, the last of nothing: a pixel is then one word.

    The stem takes 0.47 instead of 0.71 ms an image of 224 px, B0 3 % less (hardware as above).
    """
    image = graph.proto.graph.input[0].name
    producers, consumers = graph.producers(), graph.consumers()
    readers = [conv for node, _ in consumers.get(f"{image}/q", []) for conv, _ in consumers[node.output[0]]]
    if len(readers) != 1 or readers[0].op_type != "Conv":
        return
    weight, features = (producers[readers[0].input[i]] for i in (1, 0))
    levels = graph.constants[weight.input[0]]
    if levels.shape[1] == 3:
        weight.input[0] = graph.constant(np.pad(levels, ((0, 0), (0, 1), (0, 0), (0, 0))))
        inputs = [features.input[0], graph.constant(np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)), features.input[2]]
        graph.nodes.insert(graph.nodes.index(features), graph.node("Pad", inputs, f"{image}/four"))
        features.input[0] = f"{image}/four"


def _parameters(graph: Graph, scale: float, zero_point: int) -> list[str]:
    return [graph.constant(np.array(scale, np.float32)), graph.constant(np.array(zero_point, np.uint8))]


def _reads_int8(plan: ScalePlan, node: Any, i: int) -> bool:
    """Say whether an input whose tensor has a grid is read from there: not where the model reads floats."""
    edge = (node.output[0], i)
    if edge in plan.wanted or edge in plan.given or (node.op_type in MOVES and node.output[0] in plan.grids):
        return True
    producer = plan.producers.get(node.input[i])
    return producer is not None and producer.op_type == "Conv" and plan.is_exact(producer)


def _integer_bias(plan: ScalePlan, node: Any) -> list[Any]:
    """Return the new DequantizeLinear of a bias, in steps of input's scale times weight's; [] without a bias."""
    graph, name = plan.graph, node.output[0]
    if len(node.input) < 3:
        return []
    grid = plan.grids[node.input[0]]
    bias_C = graph.constants[node.input[2]].astype(np.float64)
    weight = plan.producers[node.input[1]]
    levels, scale_C = graph.constants[weight.input[0]], graph.constants[weight.input[1]].astype(np.float64)
    # A channel whose weights are next to nothing has steps too fine for its bias: coarser ones lose nothing.
    least_C = np.abs(bias_C) / (_BIAS_LIMIT * grid.scale)
    if (scale_C < least_C).any():
        wider_C = np.maximum(scale_C, least_C)
        factor_C = (scale_C / wider_C).reshape(-1, *(1,) * (levels.ndim - 1))
        weight.input[0] = graph.constant(np.rint(levels * factor_C).astype(np.int8))
        weight.input[1] = graph.constant(wider_C.astype(np.float32))
        scale_C = wider_C
    step_C = (grid.scale * scale_C).astype(np.float32)
    steps = np.rint(bias_C / step_C).astype(np.int32)
    inputs = [graph.constant(a) for a in (steps, step_C, np.zeros(step_C.shape, np.int32))]
    node.input[2] = f"{name}/bias"
    return [graph.node("DequantizeLinear", inputs, node.input[2], axis=0)]
