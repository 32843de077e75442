"""Bounds of polygons and run-length codes, beside pycocotools."""

import numpy as np
import pytest
from pycocotools import mask

from raydet.data.formats.coco.outlines import bounds


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    blobs = []
    for height, width in ((1, 1), (1, 9), (9, 1), (7, 11), (64, 48)):
        for share in (0.02, 0.5, 1.0):
            blob = rng.random((height, width)) < share
            blob[rng.integers(height), rng.integers(width)] = True
            blobs.append(blob)
    return [np.asfortranarray(blob.astype(np.uint8)) for blob in blobs]


def runs(blob: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], blob.ravel(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], ends])).tolist()


def test_both_forms_of_a_run_length_code_have_pycocotools_bounds() -> None:
    for blob in masks():
        packed = mask.encode(blob)
        expected = mask.toBbox(packed).tolist()
        size = list(blob.shape)
        assert bounds({"size": size, "counts": packed["counts"].decode()}) == expected
        assert bounds({"size": size, "counts": runs(blob)}) == expected


def test_polygons_have_the_bounds_of_all_their_points() -> None:
    assert bounds([[1, 2, 9, 2, 9, 9], [20, 3, 22, 9, 30, 4]]) == [1, 2, 29, 7]
    assert bounds([[[1, 2], [9, 2], [9.5, 9]]]) == [1, 2, 8.5, 7]


@pytest.mark.parametrize(
    "outline",
    [
        *({}, [], [[]], [1, 2, 3, 4], "0", None, [[1, 2, 3, 4, 5, float("nan")]], [[1, 2, 3, 4, 5]]),
        {"size": [4, 4], "counts": [16]},  # empty
        {"size": [4, 4], "counts": [0, 15]},  # of another size
        {"size": [4, 4], "counts": [1.0, 15.0]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4], "counts": [4]},
        {"size": [4, 4], "counts": "o"},  # asks for another character
        {"size": [4, 4], "counts": "o" * 1000},
        {"size": [4, 4], "counts": "\U0001f600"},
        {"size": [0, 0], "counts": [0, 0]},
    ],
)
def test_what_outlines_nothing_has_no_bounds(outline: object) -> None:
    assert bounds(outline) is None
