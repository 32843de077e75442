"""Batches of boxes that target assignment is tried on, and how two results are compared."""

import torch
from torch import Tensor

from raydet.models.anchors import grid_cells, make_anchors
from raydet.ops.assignment import Targets

EPS = torch.finfo(torch.float32).eps
Scene = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]


def grid(hw: tuple[int, int] = (128, 128), levels: tuple[int, int] = (3, 7)) -> tuple[Tensor, list[tuple[int, int]]]:
    return make_anchors(hw, *levels, 4.0), grid_cells(hw, *levels)


def some_boxes(images: int, most: int, side: float, seed: int = 0, largest: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(images, most, 2, generator=generator) * side * largest + 2
    corner = torch.rand(images, most, 2, generator=generator) * (side - size)
    classes = torch.randint(0, 90, (images, most), generator=generator)
    return torch.cat([corner, corner + size], -1), classes


def scene(name: str) -> Scene:
    anchors_A4, cells = grid((128, 256) if name == "wide image" else (128, 128))
    boxes_BM4, classes_BM = some_boxes(3, 9, 128)
    if name == "ragged":
        classes_BM[0, 4:], classes_BM[1], classes_BM[2, ::2] = -1, -1, -7
    elif name == "one place":  # all boxes of an image want one anchor, but for the last of the first
        boxes_BM4[:] = boxes_BM4[:, :1].clone()
        boxes_BM4[0, -1] = torch.tensor([0.0, 0.0, 90.0, 120.0])
    elif name == "crowd":  # far smaller than any anchor: IoUs are small, and equal for many anchors
        boxes_BM4, classes_BM = some_boxes(2, 40, 128, largest=0.08)
    elif name == "on the grid":  # whole anchors, and squares between them: every tie there can be
        boxes_BM4[0], boxes_BM4[1] = anchors_A4[700:718:2], anchors_A4[0:9]
        boxes_BM4[2, :, :2] = torch.arange(9)[:, None] * 8.0
        boxes_BM4[2, :, 2:] = boxes_BM4[2, :, :2] + 32.0
        boxes_BM4[2, 0] = torch.tensor([20.0, 20.0, 52.0, 84.0])  # five anchors have IoU 0.5 with it, others more
    elif name == "outside":
        boxes_BM4[0] -= 100.0
        boxes_BM4[1] += 100.0
        boxes_BM4[2] += 5000.0
    elif name == "no box at all":
        boxes_BM4, classes_BM = boxes_BM4[:, :0], classes_BM[:, :0]
    elif name == "extremes":
        boxes_BM4[0] = torch.tensor(
            [
                [0.0, 0.0, 1e-3, 128.0],  # slivers
                [17.0, 3.0, 90.0, 3.0001],
                [0.0, 0.0, 1e-25, 1e-20],  # no float holds what it shares with an anchor
                [0.0, 0.0, 1e-20, 1e-24],  # a subnormal does, and every anchor around it is its best
                [-1e30, -1e30, 1e30, 1e30],  # an infinite area
                [-3e38, 0.0, 3e38, 128.0],
                [50.0, 50.0, 50.0, 90.0],  # empty
                [90.0, 90.0, 50.0, 50.0],  # inverted
                [-9000.0, -9000.0, 9000.0, 9000.0],
            ]
        )
        boxes_BM4[1, 3], boxes_BM4[1, 4] = torch.nan, torch.inf
    elif name == "dust":  # unions below 1e-12 count as that
        anchors_A4, boxes_BM4 = anchors_A4 * 1e-8, boxes_BM4 * 1e-8
    return anchors_A4, cells, boxes_BM4, classes_BM


CUTS = (0.0, 0.3, 0.5, 1.0)
SCENES = (
    *("plain", "wide image", "ragged", "one place", "crowd", "on the grid", "outside", "no box at all", "extremes"),
    "dust",
)


def crowd(seed: int, images: int, candidates: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return candidates for suppression: boxes that overlap by anything from 0 to 1.

    Some come twice, some lie outside to the left, some have equal scores.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, candidates, 2, generator=generator) * 300 - 40
    half = torch.rand(images, candidates, 2, generator=generator) * 40
    boxes_BK4 = torch.cat([centre - half, centre + half], dim=2)
    boxes_BK4[:, 1::7] = boxes_BK4[:, : boxes_BK4[:, 1::7].shape[1]].clone()
    scores_BK = torch.rand(images, candidates, generator=generator)
    scores_BK[:, ::3] = (scores_BK[:, ::3] * 20).round() / 20  # 0 among them: takes no part
    return boxes_BK4, scores_BK, torch.randint(0, classes, (images, candidates), generator=generator)


def assert_equal(one: Targets, other: Targets) -> None:
    assert torch.equal(one.labels_BA, other.labels_BA)
    assert torch.equal(one.positives_B, other.positives_B)
    assert torch.equal(one.codes_BA4.view(torch.int32), other.codes_BA4.view(torch.int32))


def assert_equal_but_for_logarithms(one: Targets, other: Targets) -> None:
    assert torch.equal(one.labels_BA, other.labels_BA)
    assert torch.equal(one.positives_B, other.positives_B)
    assert torch.equal(one.codes_BA4[..., :2], other.codes_BA4[..., :2])
    # the host's logf and torch's are each within an ulp
    torch.testing.assert_close(one.codes_BA4, other.codes_BA4, rtol=2 * EPS, atol=0)
