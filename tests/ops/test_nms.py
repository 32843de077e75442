"""Suppression: torchvision's decisions class by class, and the same from PyTorch and the kernel in every order."""

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, nms

from raydet.ops.nms import batched_nms
from tests.ops.harness import ORDERS, on_host
from tests.ops.scenes import crowd

Found = tuple[Tensor, Tensor, Tensor]
EPS = torch.finfo(torch.float32).eps
INF, NAN = math.inf, math.nan


def same(one: Found, other: Found) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def everywhere(boxes_BK4: Tensor, scores_BK: Tensor, classes_BK: Tensor, *rest: Any, **more: Any) -> Found:
    """What PyTorch finds, once the kernel has found the same, and the same bits in every order."""
    expected, runs = batched_nms(boxes_BK4, scores_BK, classes_BK, *rest, **more), []
    for order in ORDERS:
        with on_host(order):
            runs.append(batched_nms(boxes_BK4, scores_BK, classes_BK, *rest, **more))
    assert all(same(run, runs[0]) for run in runs)
    assert torch.equal(runs[0][0], expected[0]) and torch.equal(runs[0][2], expected[2])
    # Soft scores have been through two libraries' exp, each within 1 ulp, less than 8 times in these tests.
    torch.testing.assert_close(runs[0][1], expected[1], rtol=16 * EPS if (*rest, None)[2] else 0.0, atol=0.0)
    return expected


def one(boxes: list[list[float]], scores: list[float], classes: list[int] | None = None) -> tuple[Tensor, ...]:
    """A batch of one image."""
    return torch.tensor([boxes]), torch.tensor([scores]), torch.tensor([classes or [0] * len(scores)])


def class_by_class(
    boxes_K4: Tensor, scores_K: Tensor, classes_K: Tensor, threshold: float, most: int, min_score: float = 0.0
) -> list[int]:
    """The definition: torchvision's nms on each class alone, what is left sorted by (score, lower index)."""
    kept: list[int] = []
    for c in classes_K.unique().tolist():
        mine = ((classes_K == c) & (scores_K > min_score)).nonzero().squeeze(1)
        kept += mine[nms(boxes_K4[mine], scores_K[mine], threshold)].tolist()
    return sorted(kept, key=lambda k: (-float(scores_K[k]), k))[:most]


def assert_as_class_by_class(
    found: Found, boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, most: int, min_score: float = 0.0
) -> None:
    keep_BD, kept_scores_BD, counts_B = found
    assert keep_BD.shape == kept_scores_BD.shape == (len(boxes), most) and counts_B.shape == (len(boxes),)
    for b in range(len(boxes)):
        expected = class_by_class(boxes[b], scores[b], classes[b], threshold, most, min_score)
        count = len(expected)
        assert counts_B[b] == count and keep_BD[b, :count].tolist() == expected
        assert torch.equal(kept_scores_BD[b, :count], scores[b, expected])
        assert (keep_BD[b, count:] == -1).all() and (kept_scores_BD[b, count:] == 0).all()


@pytest.mark.parametrize(
    ("images", "candidates", "classes", "threshold", "most"),
    [(3, 257, 3, 0.5, 100), (2, 5000, 1, 0.5, 100), (1, 5000, 90, 0.3, 100), (64, 40, 5, 0.7, 10), (1, 1, 1, 0.5, 100),
     (2, 1500, 4, 0.3, 1000), (2, 700, 2, 0.0, 30), (1, 700, 2, 1.0, 1000), (2, 256, 1, 0.2, 1)],
)  # fmt: skip
def test_decisions_equal_torchvisions_class_by_class(
    images: int, candidates: int, classes: int, threshold: float, most: int
) -> None:
    batch = crowd(candidates, images, candidates, classes)
    assert_as_class_by_class(everywhere(*batch, threshold, most), *batch, threshold, most)


# Whole numbers from a small grid: equal boxes, equal scores, boxes without area, overlaps that equal the threshold.
box = st.tuples(*[st.integers(-3, 3)] * 2, *[st.integers(0, 4)] * 2).map(
    lambda b: [1.0 * b[0], 1.0 * b[1], 1.0 * b[0] + b[2], 1.0 * b[1] + b[3]]
)
candidate = st.tuples(box, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(-1, 1))


@pytest.mark.slow
@given(
    image=st.lists(candidate, min_size=1, max_size=14),
    threshold=st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 1.0]),
    most=st.integers(1, 15),
    min_score=st.sampled_from([0.0, 0.25, 0.5]),
)
@example(image=[([0.0, 0.0, 4.0, 1.0], 1.0, 0), ([1.0, 0.0, 5.0, 1.0], 0.5, 0)], threshold=0.6, most=2, min_score=0.0)
@example(image=[([0.0, 0.0, 2.0, 1.0], 1.0, 0), ([0.0, 0.0, 1.0, 1.0], 0.5, 0)], threshold=0.5, most=2, min_score=0.0)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_small_crowd_is_decided_as_by_torchvision(
    image: list[tuple[list[float], float, int]], threshold: float, most: int, min_score: float
) -> None:
    boxes, scores, classes = (list(column) for column in zip(*image, strict=True))
    batch = one(boxes, scores, classes)
    found = everywhere(*batch, threshold, most, min_score=min_score)
    assert_as_class_by_class(found, *batch, threshold, most, min_score)


@pytest.mark.slow
def test_images_with_very_different_numbers_of_candidates_do_not_disturb_each_other() -> None:
    batch = crowd(5, 64, 300, 4)
    batch[1][torch.arange(300) >= torch.arange(64).unsqueeze(1) * 5] = 0.0  # image b has 5 b candidates
    assert_as_class_by_class(everywhere(*batch, 0.4, 50), *batch, 0.4, 50)


def test_a_list_longer_than_the_shared_memory_goes_on() -> None:
    side = 26
    x, y = torch.arange(side * side) % side * 10.0, torch.arange(side * side) // side * 10.0
    boxes_K4 = torch.stack([x, y, x + 9, y + 9], 1)
    boxes_BK4 = torch.cat([boxes_K4, boxes_K4 + 0.5]).unsqueeze(0)  # 676 apart, then each again, a little moved
    scores_BK = torch.linspace(1, 0.1, 2 * side * side).unsqueeze(0)
    batch = (boxes_BK4, scores_BK, (torch.arange(side * side) % 5).repeat(2).unsqueeze(0))
    keep_BD, _, counts_B = everywhere(*batch, 0.5, 1500)
    assert counts_B.tolist() == [676] and keep_BD[0, :676].tolist() == list(range(676))


def test_a_chain_in_which_each_suppresses_the_next_keeps_every_other() -> None:
    x = torch.arange(300) * 3.0
    batch = (torch.stack([x, 0 * x, x + 10, 0 * x + 10], 1)[None], 1 - x[None] / 1000, torch.zeros(1, 300).long())
    keep_BD, _, _ = everywhere(*batch, 0.5, 200)  # 3 of 10 apart: 7 / 13; 6 of 10 apart: 4 / 16
    assert keep_BD[0, :150].tolist() == list(range(0, 300, 2)) and (keep_BD[0, 150:] == -1).all()


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_of_equal_scores_the_lower_index_is_first(sigma: float | None) -> None:
    apart = [[10.0 * i, 0.0, 10.0 * i + 5, 5.0] for i in range(6)]
    keep_BD, _, _ = everywhere(*one(apart, [0.5, 0.9, 0.5, 0.9, 0.5, 0.9]), 0.5, 6, sigma)
    assert keep_BD.tolist() == [[1, 3, 5, 0, 2, 4]]


@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize("min_score", [0.0, 0.3, 0.7])
def test_only_scores_above_the_least_take_part(min_score: float, sigma: float | None) -> None:
    under, over = (float(torch.tensor(min_score).nextafter(torch.tensor(t))) for t in (-2.0, 2.0))
    over = max(over, 1e-30)  # the GPU takes what is smaller than 1.2e-38 for 0
    apart = [[10.0 * i, 0.0, 10.0 * i + 5, 5.0] for i in range(8)]
    scores = [NAN, over, -INF, min_score, -1.0, NAN, 1.0, min(under, 0.0)]
    keep_BD, scores_BD, counts_B = everywhere(*one(apart, scores), 0.5, 8, sigma, min_score)
    assert keep_BD[0, : counts_B[0]].tolist() == [6, 1] and not scores_BD.isnan().any()


@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize("odd", [[NAN, 0, 9, 9], [0, 0, 9, NAN], [0, 0, INF, 9], [-INF, -INF, INF, INF], [4, 4, 4, 4],
                                 [9, 0, 0, 9], [9, 9, 0, 0], [INF, 0, INF, 9], [0, 4, 9, 4]])  # fmt: skip
def test_a_box_without_a_size_overlaps_nothing(odd: list[float], sigma: float | None) -> None:
    odd, whole = [float(v) for v in odd], [0.0, 0.0, 9.0, 9.0]
    batch = one([odd, odd, whole, odd, whole], [5.0, 4.0, 3.0, 2.0, 1.0])
    keep_BD, scores_BD, counts_B = everywhere(*batch, 0.5, 5, sigma)
    twice = [4] if sigma else []  # soft suppression keeps the second whole one, last
    assert keep_BD[0, : counts_B[0]].tolist() == [0, 1, 2, 3, *twice] and scores_BD[0, :4].tolist() == [5, 4, 3, 2]


@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize(("images", "candidates"), [(0, 5), (3, 0), (0, 0)])
def test_no_images_or_no_candidates_are_no_detections(images: int, candidates: int, sigma: float | None) -> None:
    batch = (torch.rand(images, candidates, 4), torch.rand(images, candidates), torch.zeros(images, candidates).long())
    keep_BD, scores_BD, counts_B = everywhere(*batch, 0.5, 7, sigma)
    assert keep_BD.tolist() == [[-1] * 7] * images and scores_BD.tolist() == [[0.0] * 7] * images
    assert counts_B.tolist() == [0] * images


def test_boxes_of_far_classes_are_not_rounded_together() -> None:
    """Moved apart by class, as torchvision's batched_nms does below 4000 coordinates, these lose their fractions."""
    boxes = [[0.0, 0.0, 10.0, 10.0], [3.4, 0.0, 13.4, 10.0]] * 2  # 6.6 / 13.4 = 0.4925
    keep_BD, _, _ = everywhere(*one(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 1 << 40, 1 << 40]), 0.5, 4)
    assert keep_BD.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_views_are_read_as_their_copies(sigma: float | None) -> None:
    boxes, scores, classes = crowd(8, 3, 60, 2)
    odd = torch.cat([torch.zeros(1), scores.flatten()])[1:].view(3, 60)  # starts 4 bytes behind a boundary of 16
    views = (boxes.permute(2, 1, 0).contiguous().permute(2, 1, 0), odd, classes.t().contiguous().t())
    assert same(everywhere(*views, 0.5, 20, sigma), batched_nms(boxes, scores, classes, 0.5, 20, sigma))


def softly(boxes: Tensor, scores: Tensor, classes: Tensor, most: int, sigma: float, min_score: float) -> list[Any]:
    """The definition of soft suppression, float64: (index, score) of each pick."""
    iou, left, picks = box_iou(boxes.double(), boxes.double()).nan_to_num(0.0), scores.double().clone(), []
    while len(picks) < most and left.max() > min_score:
        best = int(left.argmax())
        picks.append((best, float(left[best])))
        left *= torch.where(classes == classes[best], (-(iou[best] ** 2) / sigma).exp(), 1.0)
        left[best] = -INF
        left[left <= min_score] = -INF
    return picks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "min_score", "most"), [(0.5, 0.001, 100), (0.1, 0.05, 100), (3.0, 0.0, 300), (1e-3, 0.0, 50)]
)
def test_soft_suppression_equals_its_definition(sigma: float, min_score: float, most: int) -> None:
    boxes, _, classes = crowd(11, 3, 200, 3)
    scores = torch.rand(3, 200, generator=torch.Generator().manual_seed(1))  # no ties, which rounding would decide
    with on_host(0):
        kernels = batched_nms(boxes, scores, classes, 0.5, most, sigma, min_score)
    for keep_BD, scores_BD, counts_B in (kernels, batched_nms(boxes, scores, classes, 0.5, most, sigma, min_score)):
        for b in range(3):
            picks = softly(boxes[b], scores[b], classes[b], most, sigma, min_score)
            assert keep_BD[b, : counts_B[b]].tolist() == [k for k, _ in picks]
            assert_fallen(scores_BD[b, : counts_B[b]], scores[b], classes[b], picks)


def assert_fallen(found_N: Tensor, scores_K: Tensor, classes_K: Tensor, picks: list[tuple[int, float]]) -> None:
    """Within what float32 may lose.

    An overlap is off by 8 EPS (sides and product of each area, their sum, the quotient), the exponent so by 17 of
    itself; all exponents of a score add up to ln(before / after). Each exp with its product adds 3 at most.
    """
    expected_N = torch.tensor([score for _, score in picks], dtype=torch.float64)
    index_N = torch.tensor([k for k, _ in picks])
    fallen_N = (scores_K.double()[index_N] / expected_N).log()
    times_N = (classes_K[index_N].unsqueeze(1) == classes_K[index_N]).tril(-1).sum(1)
    assert ((found_N.double() / expected_N - 1).abs() <= EPS * (17 * fallen_N.abs() + 3 * times_N)).all()


def test_the_soft_kernel_gives_the_same_bits_in_every_order() -> None:
    batch, runs = crowd(12, 3, 700, 2), []
    for order in ORDERS:
        with on_host(order):
            runs.append(batched_nms(*batch, 0.5, 60, 0.5, 0.01))
    assert all(same(run, runs[0]) for run in runs)


def test_an_infinite_score_that_falls_by_everything_is_dropped() -> None:
    boxes = [[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0]]
    assert everywhere(*one(boxes, [INF, INF, 1.0]), 0.5, 3, 1e-3)[0].tolist() == [[0, 2, -1]]  # inf x 0 is NaN


@pytest.mark.slow
def test_soft_suppression_equals_effdets() -> None:
    """effdet goes on to the last box, and its first pick is kept even below the least score; else the same."""
    pytest.importorskip("effdet")
    from effdet.soft_nms import batched_soft_nms

    boxes, _, classes = crowd(13, 1, 300, 3)
    boxes = boxes.round()  # effdet moves classes apart in float32: fractions would be rounded
    scores = torch.rand(1, 300, generator=torch.Generator().manual_seed(2))
    index, softened = batched_soft_nms(boxes[0], scores[0], classes[0], sigma=0.5, score_threshold=0.05)
    keep_BD, scores_BD, counts_B = batched_nms(boxes, scores, classes, 0.5, 300, 0.5, 0.05)
    assert counts_B[0] == len(index) and keep_BD[0, : len(index)].tolist() == index.tolist()
    for found in (scores_BD[0, : len(index)], softened):
        assert_fallen(found, scores[0], classes[0], softly(boxes[0], scores[0], classes[0], 300, 0.5, 0.05))


GOOD: dict[str, Any] = {
    "boxes_BK4": torch.zeros(2, 3, 4),
    "scores_BK": torch.zeros(2, 3),
    "classes_BK": torch.zeros(2, 3).long(),
    "iou_threshold": 0.5,
    "max_detections": 4,
}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"boxes_BK4": torch.zeros(2, 12)}, ValueError, r"boxes_BK4 must be \[images, candidates, 4\], got \[2, 12\]"),
        ({"boxes_BK4": torch.zeros(2, 3, 4).double()}, TypeError, "boxes_BK4 must be torch.float32, got torch.float6"),
        ({"scores_BK": torch.zeros(2, 4)}, ValueError, r"scores_BK must be \[2, 3\] as boxes_BK4 is, got \[2, 4\]"),
        ({"scores_BK": torch.zeros(2, 3, 1)}, ValueError, r"scores_BK must be \[2, 3\] .*, got \[2, 3, 1\]"),
        ({"scores_BK": torch.zeros(2, 3).half()}, TypeError, r"scores_BK must be torch.float32, .* with .to\(torch.fl"),
        ({"classes_BK": torch.zeros(2, 3).int()}, TypeError, "classes_BK must be torch.int64, got torch.int32; conv"),
        ({"classes_BK": torch.zeros(2, 3, device="meta").long()}, ValueError, "classes_BK is on meta, boxes_BK4 on cp"),
        ({"iou_threshold": 1.5}, ValueError, r"iou_threshold must be in \[0, 1\], got 1.5"),
        ({"iou_threshold": NAN}, ValueError, r"iou_threshold must be in \[0, 1\], got nan"),
        ({"min_score": -0.1}, ValueError, r"min_score must be in \[0, 1\], got -0.1"),
        ({"max_detections": 0}, ValueError, r"max_detections must be at least 1, got 0"),
        ({"soft_sigma": 0.0}, ValueError, r"soft_sigma must be above 0, or None .*, got 0.0"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        batched_nms(**(GOOD | changes))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [None, 0.5])
def test_torch_takes_it_for_an_operation_of_its_own(sigma: float | None) -> None:
    batch = crowd(3, 2, 30, 2)
    torch.library.opcheck(torch.ops.raydet.batched_nms.default, (*batch, 0.5, 10, sigma, 0.0))
    compiled = torch.compile(batched_nms, fullgraph=True, backend="aot_eager")
    assert same(compiled(*batch, 0.5, 10, sigma), batched_nms(*batch, 0.5, 10, sigma))
