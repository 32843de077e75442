import math

import numpy as np
import onnx
import pytest
from onnx import helper

from raydet.exceptions import ExportError
from raydet.onnx.graph import Graph
from raydet.onnx.scales import Grid, Measured, ScalePlan, choose, measure
from tests.onnx import nets


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, 6.0), (-0.28, 9.0), (-5.0, 0.0), (2.0, 3.0), (0.0, 0.0)])
def test_a_grid_holds_zero_and_its_range_to_half_a_step(low: float, high: float) -> None:
    grid = Grid.over(low, high)
    assert 0 <= grid.zero_point <= 255 and grid.scale > 0
    assert grid.low <= 0 <= grid.high
    assert grid.low <= low + grid.scale / 2 and grid.high >= high - grid.scale / 2
    assert grid.high - grid.low == pytest.approx(max(255 * grid.scale, 1e-6))


def plan(
    nodes: list[tuple[str, list[str], str]],
    wanted: dict[tuple[str, int], float],
    measured: dict[str, tuple[float, float]] | None = None,
    **constants: float,
) -> ScalePlan:
    """Return a plan for these nodes; the graph reads `images` and gives what the last node makes."""

    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)

    made = [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in nodes]
    graph = Graph.read(helper.make_model(helper.make_graph(made, "g", [info("images")], [info(nodes[-1][2])])))
    graph.constants = {name: np.array(value, np.float32) for name, value in constants.items()}
    found = ScalePlan(graph, measured or {}, wanted=wanted)
    found.index()
    choose(found)
    return found


CONV = [("DequantizeLinear", ["levels", "scale", "zero"], "w"), ("Conv", ["images", "w"], "x")]


def test_what_the_model_quantizes_has_its_very_grid() -> None:
    found = plan(
        [*CONV, ("Conv", ["x", "w"], "z"), ("Relu", ["z"], "end")], {("x", 0): 0.1, ("z", 0): 0.2, ("end", 0): 1}
    )
    assert found.grids == {"images": Grid(0.1, 128), "x": Grid(0.2, 128), "z": Grid(1, 128)}


def test_silu_reads_from_where_it_is_half_a_step_up_to_its_results_range() -> None:
    silu = [("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y"), ("Conv", ["y", "w"], "z")]
    found = plan([*CONV, *silu, ("Relu", ["z"], "end")], {("x", 0): 0.1, ("z", 0): 0.05, ("end", 0): 0.1})
    x = found.grids["x"]
    y = found.grids["y"]
    assert (y.low, y.high) == (pytest.approx(-0.2785, abs=y.scale), pytest.approx(127 * 0.05, abs=y.scale))
    assert y.scale < 0.6 * 0.05  # finer than the trained grid, which has as many steps below zero
    assert x.high == pytest.approx(127 * 0.05, abs=x.scale)
    assert x.low / (1 + math.exp(-x.low)) == pytest.approx(-0.025, abs=0.003)
    assert found.grids["s"] == Grid(1 / 255, 0)


def test_silu_in_floats_reads_what_was_measured_but_not_where_it_is_next_to_nothing() -> None:
    silu = [("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "end")]
    for low, expected in ((-30.0, 0.02), (-2.0, 2 / (1 + math.exp(2)))):
        x = plan([*CONV, *silu], {("x", 0): 0.1}, {"x": (low, 10.0)}).grids["x"]
        assert x.high == pytest.approx(10, abs=x.scale)
        assert -x.low / (1 + math.exp(-x.low)) == pytest.approx(expected, abs=0.003)


def test_a_gate_is_read_from_where_its_sigmoid_is_half_a_step_from_its_ends() -> None:
    gate = [("Sigmoid", ["x"], "s"), ("Mul", ["images", "s"], "y"), ("Conv", ["y", "w"], "z"), ("Relu", ["z"], "end")]
    wanted = {("x", 0): 0.1, ("y", 0): 0.1, ("y", 1): 1 / 127, ("z", 0): 0.1, ("end", 0): 0.1}
    found = plan([*CONV, *gate], wanted)
    assert found.grids["s"] == Grid.over(0, 1)
    assert found.grids["y"] == Grid(0.1, 128)  # images go below zero
    ends = [1 / (1 + math.exp(-x)) for x in (found.grids["x"].low, found.grids["x"].high)]
    assert ends == pytest.approx([1 / 254, 1 - 1 / 254], abs=2e-4)


def test_a_gated_map_goes_no_lower_than_the_map() -> None:
    silu = [("Sigmoid", ["x"], "s"), ("Mul", ["x", "s"], "y")]
    gate = [("GlobalAveragePool", ["y"], "p"), ("Conv", ["p", "w"], "q"), ("Sigmoid", ["q"], "g")]
    rest = [("Mul", ["y", "g"], "gated"), ("Conv", ["gated", "w"], "z"), ("Relu", ["z"], "end")]
    wanted = {("x", 0): 0.1, ("q", 0): 0.03, ("gated", 0): 0.05, ("gated", 1): 1 / 127, ("z", 0): 0.04, ("end", 0): 1}
    found = plan([*CONV, *silu, *gate, *rest], wanted)
    for name, scale in (("y", 0.05), ("p", 0.03), ("gated", 0.04)):
        low, high = found.grids[name].low, found.grids[name].high
        assert (low, high) == (pytest.approx(-0.2785, abs=scale), pytest.approx(127 * scale, abs=scale))


def test_relu6_has_all_levels_from_zero_up_and_never_more_than_six() -> None:
    clip = [("Clip", ["x", "zero_", "six"], "y"), ("Conv", ["y", "w"], "z"), ("Relu", ["z"], "end")]
    for scale, high in ((0.02, 127 * 0.02), (0.1, 6.0)):
        wanted = {("x", 0): 0.1, ("z", 0): scale, ("end", 0): 0.1}
        found = plan([*CONV, *clip], wanted, zero_=0.0, six=6.0)
        assert found.grids["x"] == found.grids["y"] == Grid.over(0.0, high)


def test_maps_that_are_moved_have_one_grid_the_widest() -> None:
    moves = [("MaxPool", ["x"], "a"), ("Conv", ["a", "w"], "b"), ("Conv", ["x", "w"], "c"), ("Add", ["b", "c"], "end")]
    wanted = {("x", 0): 0.1, ("b", 0): 0.2, ("c", 0): 0.3, ("end", 0): 0.1, ("end", 1): 0.1}
    found = plan([*CONV, *moves], wanted)
    assert found.grids["x"] == found.grids["a"] == Grid(0.3, 128)


def test_a_branch_without_a_range_is_bounded_by_the_sum_and_the_shortcut() -> None:
    add = [("Add", ["x", "images"], "y"), ("Conv", ["y", "w"], "z"), ("Relu", ["z"], "end")]
    found = plan([*CONV, *add], {("x", 0): 0.1, ("y", 1): 0.1, ("z", 0): 0.2, ("end", 0): 0.1})
    x = found.grids["x"]
    assert x.low == pytest.approx(-128 * 0.3, abs=x.scale) and x.high == pytest.approx(127 * 0.2 + 128 * 0.1, abs=0.3)


def test_a_range_that_nothing_bounds_is_asked_for_by_name() -> None:
    with pytest.raises(ExportError, match="range of x is not known; give batches"):
        plan([*CONV, ("Relu", ["x"], "end")], {("x", 0): 0.1})


@pytest.mark.slow
def test_ranges_are_measured_over_all_batches() -> None:
    _, proto = nets.exported("tensorrt")
    images_B3HW = nets.patterns(24, 1)[0]
    parts = [measure(proto, [part.numpy()]).ranges for part in images_B3HW.split(8)]
    whole = measure(proto, [part.numpy() for part in images_B3HW.split(8)]).ranges
    assert whole.keys() == {n.output[0] for n in proto.graph.node if n.op_type in ("Conv", "Add")}
    for name, (low, high) in whole.items():
        assert low == min(part[name][0] for part in parts) <= 0 <= high == max(part[name][1] for part in parts)


@pytest.mark.slow
def test_nothing_is_measured_on_no_batch() -> None:
    assert measure(nets.exported("tensorrt")[1], []) == Measured()
