"""The numbers that DALI's graph is fed with."""

import numpy as np
import pytest
from PIL import Image

from raydet.data.images.autoaugment import _POLICY, Operation, _magnitude
from raydet.data.images.dali_inputs import _KINDS, _make_weights, _numbers, _unchanged

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "count"), [(1, 1), (1, 50), (7, 50), (50, 7), (300, 1), (100, 99), (64, 64), (3, 2)])
def test_make_weights_undo_what_black_takes(interpolation: str, side: int, count: int) -> None:
    margin = 6 * max(2, side // count + 2)
    line = np.zeros((1, side + 2 * margin), np.float32)
    line[0, margin : margin + side] = 100.0
    box = (margin, 0, margin + side, 1)
    resized_N = np.asarray(Image.fromarray(line).resize((count, 1), _FILTERS[interpolation], box=box))[0]
    found_N = _make_weights(interpolation, 0.0, float(side), side, count)
    assert found_N.shape == (count,)
    assert np.allclose(resized_N * found_N, 100.0, atol=0.01)


def test_make_weights_of_a_region_inside_are_one() -> None:
    assert (_make_weights("bilinear", 20.0, 80.5, 100, 30) == 1).all()
    ends = _make_weights("bilinear", 0.0, 80.5, 100, 30)
    assert ends[0] > 1 and (ends[1:] == 1).all()


def test_every_operation_of_the_policy_has_a_kind() -> None:
    assert {name for pair in _POLICY for name, _, _ in pair} <= set(_KINDS)


def test_a_mask_keeps_the_highest_bits() -> None:
    assert [int(_numbers(Operation("Posterize", bits), 8)[0]) for bits in (8.0, 4.0, 1.0)] == [255, 240, 128]


def test_inverting_begins_at_zero_and_solarizing_at_its_level() -> None:
    assert _numbers(Operation("Invert"), 8)[1] == 0
    assert _numbers(Operation("Solarize", _magnitude("Solarize", 3, False)), 8)[1] == 171
    assert _unchanged()[1] == 256


@pytest.mark.parametrize("degrees", [-30.0, 10.0, 90.0])
def test_turning_keeps_the_centre_and_the_scale(degrees: float) -> None:
    matrix_23 = _numbers(Operation("Rotate", degrees), 64)[3:9].reshape(2, 3)
    assert np.allclose(matrix_23 @ [32, 32, 1], [32, 32], atol=1e-4)
    assert np.linalg.det(matrix_23[:, :2]) == pytest.approx(1)
