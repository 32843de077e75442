"""Target assignment on a CPU with anchors on grids: always the definition's bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydet.ops import assignment_grid
from raydet.ops.assignment import Targets, assign_anchors
from tests.ops.harness import on_host
from tests.ops.scenes import CUTS, SCENES, assert_equal, assert_equal_but_for_logarithms, grid, scene, some_boxes


@pytest.mark.slow
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_on_grids_the_cpu_gives_the_definitions_bits(name: str, distinct: bool) -> None:
    anchors_A4, cells, boxes_BM4, classes_BM = scene(name)
    for cut in CUTS:
        found = assignment_grid.on_grid(anchors_A4, boxes_BM4, classes_BM, cut, distinct, cells)
        assert found is not None
        assert_equal(Targets(*found), assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct))
        assert_equal(
            assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct, cells),
            assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct),
        )


SIZES = st.one_of(
    st.sampled_from([0.0, 8.0, 32.0, 45.25, 64.0, 128.0]),  # ties, and anchors' own sides
    st.floats(0, 200, width=32),
    st.floats(0, 1, width=32),
    st.sampled_from([-5.0, 1e-20, 1e-24, 1e18, 1e19, 3e38]),
)
PLACES = st.one_of(
    st.integers(-4, 20).map(lambda i: 8.0 * i),
    st.floats(-64, 192, width=32),
    st.sampled_from([0.0, -1e19, 1e-20, 3e38]),
)
BOXES = st.tuples(PLACES, PLACES, SIZES, SIZES).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))
ROWS = st.lists(st.lists(st.tuples(BOXES, st.integers(-1, 3)), min_size=0, max_size=8), min_size=1, max_size=3)
GRIDS = [grid((64, 64), (3, 5)), grid((128, 64), (3, 6)), grid((64, 192), (4, 6))]


@pytest.mark.slow
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(GRIDS), ROWS, st.sampled_from([0.0, 1e-3, 0.3, 0.5, 0.9, 1.0]), st.booleans())
def test_whatever_the_boxes_all_ways_agree(
    anchors: tuple[Tensor, list[tuple[int, int]]],
    images: list[list[tuple[tuple[float, ...], int]]],
    cut: float,
    distinct: bool,
) -> None:
    most = max(map(len, images))
    padded = [image + [((1.0, 2.0, 3.0, 4.0), -1)] * (most - len(image)) for image in images]
    boxes_BM4 = torch.tensor([[b for b, _ in image] for image in padded]).reshape(len(images), most, 4)
    classes_BM = torch.tensor([[c for _, c in image] for image in padded], dtype=torch.int64).reshape(len(images), most)
    anchors_A4, cells = anchors
    expected = assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct)
    found = assignment_grid.on_grid(anchors_A4, boxes_BM4, classes_BM, cut, distinct, cells)
    assert found is not None
    assert_equal(Targets(*found), expected)
    with on_host():
        assert_equal_but_for_logarithms(assign_anchors(anchors_A4, boxes_BM4, classes_BM, cut, distinct), expected)


def test_few_pairs_are_looked_at() -> None:
    anchors_A4, cells = grid((512, 512))
    boxes_BM4, _ = some_boxes(1, 100, 512)
    area_A, boxes_G4 = assignment_grid.area_of(anchors_A4), boxes_BM4[0]
    levels = assignment_grid._levels(anchors_A4, area_A, cells)
    pairs = assignment_grid._pairs(levels, boxes_G4, assignment_grid.area_of(boxes_G4), 0.5, 1 << 30)
    assert pairs is not None
    assert len(pairs[0]) < 100 * 60  # 27 a box, of 49104 anchors


@pytest.mark.parametrize("distinct", [False, True])
def test_where_too_many_pairs_are_left_the_definition_computes_them(
    distinct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment_grid, "_PAIRS", 0)
    anchors_A4, cells, boxes_BM4, classes_BM = scene("crowd")
    assert assignment_grid.on_grid(anchors_A4, boxes_BM4, classes_BM, 0.0, distinct, cells) is None
    assert_equal(
        assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.0, distinct, cells),
        assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.0, distinct),
    )


def test_any_number_of_anchors_may_share_a_cell() -> None:
    every_A4, cells = grid((64, 128), (3, 6))
    boxes_BM4, classes_BM = some_boxes(5, 6, 64)
    for kept in ([0], [4, 2]):
        anchors_A4 = every_A4.view(-1, 9, 4)[:, kept].reshape(-1, 4)
        assert_equal(
            assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, True, cells),
            assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, True),
        )


def test_padding_changes_nothing() -> None:
    anchors_A4, cells = grid()
    boxes_BM4, classes_BM = some_boxes(2, 6, 128)
    wide_BM4 = torch.cat([boxes_BM4, torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)) * 128], 1)
    more_BM = torch.cat([classes_BM, torch.full((2, 5), -1)], 1)
    for grids in (None, cells):
        one, other = (
            assign_anchors(anchors_A4, b, c, cells=grids) for b, c in ((boxes_BM4, classes_BM), (wide_BM4, more_BM))
        )
        assert_equal(one, other)


def test_tensors_may_lie_anyhow_in_memory() -> None:
    anchors_A4, cells, boxes_BM4, classes_BM = scene("ragged")
    strided_BM4, strided_BM = boxes_BM4.transpose(0, 2).contiguous().transpose(0, 2), classes_BM.t().contiguous().t()
    assert_equal(
        assign_anchors(anchors_A4.t().contiguous().t(), strided_BM4, strided_BM, 0.5, True, cells),
        assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, True, cells),
    )


def test_anchors_that_are_not_the_grid_named_are_refused() -> None:
    anchors_A4, cells = grid((64, 128), (3, 5))
    boxes_BM4, classes_BM = some_boxes(1, 2, 64)
    with pytest.raises(ValueError, match=r"anchors_A4 \[0:1152\] must be a grid of 16 rows and 8 columns"):
        assign_anchors(anchors_A4, boxes_BM4, classes_BM, cells=[(columns, rows) for rows, columns in cells])
    anchors_A4[5, 1] += 1
    with pytest.raises(ValueError, match="pass cells=None for anchors that are no grid"):
        assign_anchors(anchors_A4, boxes_BM4, classes_BM, cells=cells)
