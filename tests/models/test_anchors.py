"""Anchors: against effdet's, against their description, and at the edges."""

import pytest
import torch

from raydet.models.anchors import ASPECTS, SCALES, grid_cells, make_anchors

EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("image_hw", [(256, 256), (512, 128), (128, 384)])
def test_anchors_equal_effdets(image_hw: tuple[int, int]) -> None:
    pytest.importorskip("effdet")
    from effdet.anchors import Anchors
    from effdet.config import get_efficientdet_config

    config = get_efficientdet_config("efficientdet_d0")
    config.image_size = image_hw
    theirs = Anchors.from_config(config).boxes[:, [1, 0, 3, 2]]
    # A coordinate is a centre and half a side, below 1024, rounded once by us and a few times by them.
    torch.testing.assert_close(make_anchors(image_hw, 3, 7, 4.0), theirs, rtol=0, atol=4 * 1024 * EPS / 2)


@pytest.mark.parametrize(("image_hw", "levels", "scale"), [((128, 128), (3, 7), 4.0), ((64, 192), (4, 6), 3.0)])
def test_a_cell_has_anchors_of_all_scales_and_aspects_about_its_centre(
    image_hw: tuple[int, int], levels: tuple[int, int], scale: float
) -> None:
    anchors_A4 = make_anchors(image_hw, *levels, scale).double()
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, *(scale * stride * 2 ** (i / SCALES) * side for side in aspect))
        for stride, (rows, columns) in (
            (1 << n, cells) for n, cells in enumerate(grid_cells(image_hw, *levels), levels[0])
        )
        for row in range(rows)
        for column in range(columns)
        for i in range(SCALES)
        for aspect in ASPECTS
    ]
    centre_size_A4 = torch.cat([(anchors_A4[:, :2] + anchors_A4[:, 2:]) / 2, anchors_A4[:, 2:] - anchors_A4[:, :2]], 1)
    # Two coordinates below 1024, each rounded once.
    torch.testing.assert_close(centre_size_A4, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1024 * EPS)


def test_anchors_of_a_column_have_equal_x_and_those_of_a_row_equal_y() -> None:
    anchors_A4, first = make_anchors((64, 128), 3, 6, 4.0), 0
    for rows, columns in grid_cells((64, 128), 3, 6):
        grid_RCK4 = anchors_A4[first : first + rows * columns * 9].view(rows, columns, 9, 4)
        assert (grid_RCK4[..., 0::2] == grid_RCK4[:1, ..., 0::2]).all()
        assert (grid_RCK4[..., 1::2] == grid_RCK4[:, :1, :, 1::2]).all()
        first += rows * columns * 9
    assert first == len(anchors_A4)


def test_cells_are_rows_and_columns_of_each_level() -> None:
    assert grid_cells((64, 128), 3, 6) == [(8, 16), (4, 8), (2, 4), (1, 2)]


def test_a_size_that_the_levels_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(500, 512\) must be a multiple of 128 \(level P7\)"):
        make_anchors((500, 512), 3, 7, 4.0)
    with pytest.raises(ValueError, match="multiple of 64"):
        grid_cells((128, 96), 3, 6)
