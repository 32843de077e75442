"""Which 256 values each tensor can have, where the model's quantizers leave it open; for
`raydet.onnx.onnxruntime_int8`.

The nodes are visited from the last to the first: a tensor's readers say which grid it has.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raydet.exceptions import ExportError
from raydet.onnx.graph import INPUT, Array, Graph, attribute, of_type
from raydet.onnx.saturation import int8_layers

if TYPE_CHECKING:
    import onnx

MOVES = ("MaxPool", "Resize", "Transpose", "Reshape", "Unsqueeze", "Concat", "Flatten")
"""Operators that move values and make none."""
_SIGMOID_LIMIT = math.log(253)
"""sigmoid(-this) is half a step of a gate, 1 / 254."""
_SILU_LEAST = -0.27847
"""The smallest value of SiLU."""


@dataclass(frozen=True)
class Grid:
    """The 256 values that a tensor can have: (level - zero_point) * scale."""

    scale: float
    zero_point: int

    @classmethod
    def over(cls, low: float, high: float) -> "Grid":
        """Return the grid of a range, which always holds 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-6) / 255
        return cls(scale, round(-low / scale))

    @property
    def low(self) -> float:
        """The smallest value."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The largest value."""
        return (255 - self.zero_point) * self.scale


Edge = tuple[str, int]
"""One input of one node: the node's output and the input's index."""


@dataclass
class ScalePlan:
    """What is known of the grids."""

    graph: Graph
    measured: dict[str, tuple[float, float]]
    """Tensor -> its smallest and largest value on batches; those that were measured."""
    wanted: dict[Edge, float] = field(default_factory=dict)
    """Where the model quantizes -> the scale of its symmetric int8 grid."""
    factors: dict[Edge, float] = field(default_factory=dict)
    """What an input is multiplied with after it was quantized, where not 1."""
    given: dict[Edge, Grid] = field(default_factory=dict)
    """Where the model does not quantize and the target does."""
    grids: dict[str, Grid] = field(default_factory=dict)
    """Tensor -> its grid."""
    tied: dict[str, list[str]] = field(default_factory=dict)
    """Tensor -> it and those with the same values, moved."""
    producers: dict[str, Any] = field(default_factory=dict)
    consumers: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)

    def index(self) -> None:
        """Look up who makes and who reads what, after nodes have changed."""
        self.producers, self.consumers = self.graph.producers(), self.graph.consumers()

    def is_exact(self, node: Any) -> bool:
        """Say whether the model quantizes both factors of a convolution or product."""
        weight = self.producers.get(node.input[1])
        return (node.output[0], 0) in self.wanted and weight is not None and weight.op_type == "DequantizeLinear"

    def is_shared(self, tensor: str) -> bool:
        """Say whether several inputs read a tensor."""
        return len(self.consumers[tensor]) > 1

    def is_sum(self, tensor: str) -> bool:
        """Say whether a tensor comes from INT8 values added up: of a convolution, or of terms on grids."""
        node = self.producers.get(tensor)
        if node is None:
            return False
        if node.op_type == "Conv":
            return self.is_exact(node)
        return node.op_type == "Add" and any((node.output[0], i) in self.wanted for i in (0, 1))


@dataclass
class Measured:
    """What batches of images say of a graph."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of every sum and convolution's output, the smallest and the largest value."""
    grams: dict[str, Array] = field(default_factory=dict)
    """Of every pointwise layer's weights, by name: gram_KK, the sum of x xᵀ over what they are multiplied with, x_K."""


def measure(proto: "onnx.ModelProto", batches: Iterable[Array]) -> Measured:
    """Return what is known of a graph's values after all batches."""
    import onnx
    import onnxruntime as ort

    graph = Graph.read(onnx.ModelProto.FromString(proto.SerializeToString()))
    names = [node.output[0] for node in of_type(graph.nodes, "Conv", "Add")]
    layers = list(_pointwise(graph))

    def add_output(node: Any, rank: int) -> str:
        graph.nodes.append(node)
        graph.proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], 1, [None] * rank))
        return str(node.output[0])

    ends = [
        add_output(graph.node(f"Reduce{end}", [name], f"{name}/{end}", keepdims=0), 0)
        for name in names
        for end in ("Min", "Max")
    ]
    grams = [
        add_output(graph.node("Einsum", [tensor, tensor], f"{output}/gram", equation=equation), 2)
        for output, tensor, _, equation in layers
    ]
    measured = Measured()
    session = None
    for images_B3HW in batches:
        session = session or ort.InferenceSession(graph.write().SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run([*ends, *grams], {INPUT: images_B3HW})
        for name, low, high in zip(names, found[: len(ends) : 2], found[1 : len(ends) : 2], strict=True):
            before = measured.ranges.get(name, (0.0, 0.0))
            measured.ranges[name] = (min(before[0], float(low)), max(before[1], float(high)))
        for (_, _, weights, _), gram_KK in zip(layers, found[len(ends) :], strict=True):
            measured.grams[weights] = measured.grams.get(weights, 0) + gram_KK.astype(np.float64)
    return measured


def _pointwise(graph: Graph) -> Iterator[tuple[str, str, str, str]]:
    """Yield output, input, name of the int8 weights, and the equation of the Gram matrix of each pointwise layer."""
    for node, dequantize, levels in int8_layers(graph):
        if node.op_type == "Gemm":
            yield node.output[0], node.input[0], dequantize.input[0], "bk,bl->kl"
        elif node.op_type == "Conv" and levels.shape[2:] == (1, 1) and set(attribute(node, "strides", [1])) == {1}:
            yield node.output[0], node.input[0], dequantize.input[0], "bkhw,blhw->kl"


def choose(plan: ScalePlan) -> None:
    """Fill in plan.grids and plan.given."""
    _tie_moves(plan)
    for node in reversed(plan.graph.nodes):
        name = node.output[0]
        grid = plan.grids.get(name) or _grid(plan, name)
        if grid is not None:
            plan.grids[name] = grid
            _follow(plan, node, grid)
        if node.op_type == "Add":
            _choose_terms(plan, node)
    image = plan.graph.proto.graph.input[0].name
    grid = _grid(plan, image)
    if grid is not None:
        plan.grids[image] = grid


def _tie_moves(plan: ScalePlan) -> None:
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while name in root:
            name = root[name]
        return name

    for node in of_type(plan.graph.nodes, *MOVES):
        for source in node.input if node.op_type == "Concat" else node.input[:1]:
            if find(source) != find(node.output[0]):
                root[find(source)] = find(node.output[0])
    groups: dict[str, list[str]] = {}
    for name in {*plan.producers, *plan.consumers}:
        groups.setdefault(find(name), []).append(name)
    plan.tied = {name: group for group in groups.values() for name in group}


def _grid(plan: ScalePlan, name: str) -> Grid | None:
    """Return the grid of a tensor all of whose readers are done; None: it stays a float."""
    node = plan.producers.get(name)
    edges = [(reader.output[0], i) for tied in plan.tied[name] for reader, i in plan.consumers.get(tied, [])]
    scales = [plan.wanted[edge] for edge in edges if edge in plan.wanted]
    if node is not None and node.op_type == "Clip" and plan.is_sum(node.input[0]) and not plan.is_shared(node.input[0]):
        low, high = (float(plan.graph.constants[bound]) for bound in node.input[1:3])
        if low == 0:
            return Grid.over(0.0, min([high, *(127 * scale for scale in scales)]))
    if scales:
        scale, least = max(scales), _least(plan, name)
        # Steps half as wide as the trained ones: what rounding before a product moves, is not rounded again as far.
        return Grid.over(least, 127 * scale) if least > -128 * scale else Grid(scale, 128)
    given = {plan.given[edge] for edge in edges if edge in plan.given}
    if given:
        return given.pop() if len(given) == 1 else Grid.over(min(g.low for g in given), max(g.high for g in given))
    if node is not None and node.op_type == "Conv" and plan.is_exact(node):
        if name not in plan.measured:
            raise ExportError(f"the range of {name} is not known; give batches to measure it on")
        low, high = plan.measured[name]
        if sorted(reader.op_type for reader, _ in plan.consumers[name]) == ["Mul", "Sigmoid"]:  # SiLU, in floats
            low = max(low, -_silu_limit(high / 510))
        return Grid.over(low, high)
    return None


def _least(plan: ScalePlan, name: str) -> float:
    """Return a bound that no value of a tensor is below, from the operators that make it."""
    node = plan.producers.get(name)
    if node is None:
        return -math.inf
    if node.op_type == "Sigmoid":
        return 0.0
    if node.op_type == "Clip":
        return float(plan.graph.constants[node.input[1]])
    if node.op_type == "Concat":
        return min(_least(plan, source) for source in node.input)
    if node.op_type in (*MOVES, "GlobalAveragePool"):
        return _least(plan, node.input[0])
    if _sigmoid_input(plan, node) is not None:
        return _SILU_LEAST
    for i in (0, 1) if node.op_type == "Mul" else ():
        gate = plan.producers.get(node.input[1 - i])
        if gate is not None and gate.op_type == "Sigmoid":
            return min(_least(plan, node.input[i]), 0.0)
    return -math.inf


def _follow(plan: ScalePlan, node: Any, grid: Grid) -> None:
    """Give a node's inputs the grids that follow from its output's."""
    name, source = node.output[0], node.input[0]
    if node.op_type == "Clip" and grid.zero_point == 0:
        plan.grids[source] = grid  # saturation does what the Clip did
    elif node.op_type == "Mul":
        _choose_silu(plan, node, grid)
    elif node.op_type == "Sigmoid" and (name, 0) not in plan.given and plan.is_sum(source):
        plan.given[name, 0] = Grid.over(-_SIGMOID_LIMIT, _SIGMOID_LIMIT)


def _choose_terms(plan: ScalePlan, node: Any) -> None:
    """Give a sum's terms that have no grid one: their range on batches, or what the sum and the other term leave."""
    name = node.output[0]
    known = [i for i in (0, 1) if (name, i) in plan.wanted]
    if len(known) != 1:
        return
    i, other = 1 - known[0], plan.wanted[name, known[0]] * plan.factors.get((name, known[0]), 1.0)
    low, high = plan.measured.get(node.input[i], (-math.inf, math.inf))
    if name in plan.grids:
        total = plan.grids[name]
        low, high = max(low, total.low - 128 * other), min(high, total.high + 128 * other)
    if not math.isfinite(low - high):
        raise ExportError(f"the range of {node.input[i]} is not known; give batches to measure it on")
    plan.given[name, i] = Grid.over(low, high)


def _choose_silu(plan: ScalePlan, node: Any, result: Grid) -> None:
    """Give x and sigmoid(x) grids, where the node is their product."""
    i = _sigmoid_input(plan, node)
    if i is None or not plan.is_sum(node.input[1 - i]):
        return
    low, _ = plan.measured.get(node.input[1 - i], (-math.inf, math.inf))
    half_a_step = result.high / 254  # of the trained grid
    grid = Grid.over(max(low, -_silu_limit(half_a_step)), result.high)
    plan.given[node.output[0], 1 - i] = plan.given[node.input[i], 0] = grid
    plan.given[node.output[0], i] = Grid(1 / 255, 0)


def _sigmoid_input(plan: ScalePlan, node: Any) -> int | None:
    """Return which input of a product is the sigmoid of the other; None: neither, or the node is no product."""
    for i in (0, 1) if node.op_type == "Mul" else ():
        sigmoid = plan.producers.get(node.input[i])
        if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] == node.input[1 - i]:
            return i
    return None


def _silu_limit(least: float) -> float:
    """Return the x from which on |SiLU(-x)| stays below `least`, of what float32 can tell apart."""
    x_N = np.linspace(1.2785, 20, 2000)  # |SiLU| falls from there on
    below_N = x_N / (1 + np.exp(x_N)) < least
    return float(x_N[below_N.argmax()]) if below_N.any() else 20.0
