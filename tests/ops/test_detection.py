"""From logits to detections: effdet's decisions, and a selection that is exact on the way of either device."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.models.anchors import make_anchors
from raydet.ops import detection
from raydet.ops.boxes import decode
from raydet.ops.detection import BatchDetections, ImageDetections, detect
from tests.ops.harness import on_host

SETTINGS = {"top_k": 5000, "score_threshold": 0.0, "nms_iou": 0.5, "max_detections": 100}
INF, NAN = math.inf, math.nan


def outputs(seed: int, classes: int, side: int = 128, images: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    anchors_A4 = make_anchors((side, side), 3, 7, 4.0)
    logits_BAC = torch.randn(images, len(anchors_A4), classes, generator=generator) * 2 - 4
    return logits_BAC, torch.randn(images, len(anchors_A4), 4, generator=generator) * 0.3, anchors_A4


def same(one: BatchDetections, other: BatchDetections) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=["filtered as on a CPU", "dense as on a GPU"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of selection, on the CPU."""
    if request.param == "dense as on a GPU":
        monkeypatch.setattr(detection, "_those_that_pass", detection._all_of_the_best_anchors)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [5, 90])
def test_detections_equal_effdets(classes: int) -> None:
    pytest.importorskip("effdet")
    from effdet.anchors import generate_detections

    logits_BAC, codes_BA4, anchors_A4 = outputs(0, classes)
    found = detect(logits_BAC, codes_BA4, anchors_A4, **SETTINGS).images()
    yxyx = anchors_A4[:, [1, 0, 3, 2]]
    for logits_AC, codes_A4, ours in zip(logits_BAC, codes_BA4, found, strict=True):
        best, index = logits_AC.reshape(-1).topk(5000)
        theirs = generate_detections(
            best[:, None],
            codes_A4[index // classes][:, [1, 0, 3, 2]],
            yxyx,
            index // classes,
            index % classes,
            None,
            None,
            max_det_per_image=100,
        )
        # The same operations in the same order.
        assert torch.equal(ours.boxes_K4, theirs[:, :4]) and torch.equal(ours.scores_K, theirs[:, 4])
        assert torch.equal(ours.classes_K + 1, theirs[:, 5].long())


def test_a_threshold_drops_the_rest_and_keeps_the_order(way: None) -> None:
    batch = outputs(1, 3)
    whole, some = (detect(*batch, **(SETTINGS | {"score_threshold": t})).images() for t in (0.0, 0.5))
    for a, b in zip(whole, some, strict=True):
        count = int((a.scores_K > 0.5).sum())
        assert 0 < len(b.scores_K) <= 100 and torch.equal(a.boxes_K4[:count], b.boxes_K4[:count])
        assert (b.scores_K > 0.5).all() and (b.scores_K.diff() <= 0).all()


def test_a_score_that_equals_the_threshold_is_dropped(way: None) -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    logits_BAC = torch.full((1, len(anchors_A4), 1), -20.0)
    logits_BAC[0, 0], logits_BAC[0, 300] = 0.0, 1e-6  # sigmoid 0.5 and the next float32 but one
    found = detect(logits_BAC, torch.zeros(1, len(anchors_A4), 4), anchors_A4, **(SETTINGS | {"score_threshold": 0.5}))
    assert found.counts_B.tolist() == [1] and found.scores_BD[0, 0] > 0.5


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_nothing_above_the_threshold_is_no_detection(way: None, threshold: float) -> None:
    logits_BAC, codes_BA4, anchors_A4 = outputs(2, 3)
    found = detect(logits_BAC - 100, codes_BA4, anchors_A4, **(SETTINGS | {"score_threshold": threshold}))
    assert found.counts_B.tolist() == [0, 0] and (found.classes_BD == -1).all() and not found.boxes_BD4.any()
    assert [tuple(t.shape) for t in found.images()[0]] == [(0, 4), (0,), (0,)]


def test_fewer_pairs_than_top_k_are_no_error(way: None) -> None:
    """effdet fails here: "selected index k out of range"."""
    batch = outputs(3, 1)
    whole = detect(*batch, **(SETTINGS | {"top_k": batch[0][0].numel()}))
    assert same(detect(*batch, **(SETTINGS | {"top_k": 10**9})), whole) and (whole.counts_B == 100).all()


def test_overlapping_boxes_of_two_classes_both_stay(way: None) -> None:
    anchors_A4 = make_anchors((64, 64), 3, 5, 4.0)
    logits_BAC = torch.full((1, len(anchors_A4), 2), -20.0)
    logits_BAC[0, 99, 0], logits_BAC[0, 99, 1], logits_BAC[0, 102, 0] = 3.0, 2.0, 1.0
    codes_BA4 = torch.zeros(1, len(anchors_A4), 4)
    codes_BA4[0, 102] = torch.tensor([0.0, 0.0, -0.23, -0.23])  # the next larger scale, shrunk onto the first
    (found,) = detect(logits_BAC, codes_BA4, anchors_A4, **(SETTINGS | {"score_threshold": 0.1})).images()
    assert found.classes_K.tolist() == [0, 1]
    torch.testing.assert_close(found.boxes_K4[0], decode(torch.zeros(4), anchors_A4[99]), rtol=0, atol=0)
    settings = SETTINGS | {"score_threshold": 0.1, "class_agnostic": True}
    (found,) = detect(logits_BAC, codes_BA4, anchors_A4, **settings).images()
    assert found.classes_K.tolist() == [0]


def test_boxes_that_leave_the_image_do_not_meet_those_of_another_class() -> None:
    """torchvision's batched_nms lets them: class 1 at x = -58 lands on class 0 at the right edge."""
    anchors_A4 = torch.tensor([[40.0, 0.0, 100.0, 60.0], [-60.0, 0.0, 0.0, 60.0]])
    logits_BAC = torch.tensor([[[3.0, -20.0], [-20.0, 2.0]]])
    (found,) = detect(logits_BAC, torch.zeros(1, 2, 4), anchors_A4, **(SETTINGS | {"score_threshold": 0.5})).images()
    assert found.classes_K.tolist() == [0, 1]


def sorted_pairs(logits_BAC: Tensor, top_k: int, least: float) -> tuple[Tensor, Tensor]:
    """The definition: all pairs that take part, sorted by (logit, lower index)."""
    all_BP = logits_BAC.float()
    all_BP = torch.where(all_BP.isnan().any(2, keepdim=True) | (all_BP < least), -INF, all_BP).flatten(1)
    logits_BK, pairs_BK = (t[:, :top_k] for t in all_BP.sort(dim=1, descending=True, stable=True))
    return logits_BK, torch.where(logits_BK > -INF, pairs_BK, 0)


def normal(b: int, a: int, c: int) -> Tensor:
    return torch.randn(b, a, c, generator=torch.Generator().manual_seed(a)) * 3 - 4


def with_odd_numbers(b: int, a: int, c: int) -> Tensor:
    odd = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1e-40, -1000.0])
    return torch.where(torch.rand(b, a, c) < 0.2, odd[torch.randint(0, len(odd), (b, a, c))], normal(b, a, c))


def very_different(b: int, a: int, c: int) -> Tensor:
    return torch.where(torch.arange(a)[:, None] * c <= torch.arange(b)[:, None, None] * 9, normal(b, a, c), -INF)


@pytest.mark.parametrize(
    "make",
    [normal, with_odd_numbers, very_different, lambda *s: normal(*s).round(), lambda *s: torch.full(s, -4.6),
     lambda *s: torch.full(s, NAN), lambda *s: torch.full(s, -INF)],
    ids=["normal", "odd numbers", "very different", "ties", "all equal", "all NaN", "all -inf"],
)  # fmt: skip
def test_the_best_pairs_are_exact(way: None, make: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    shapes = [((3, 500, 7), 100), ((2, 400, 1), 30), ((64, 11, 3), 40), ((1, 1, 5), 3), ((2, 90, 4), 1)]
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    for (shape, top_k), dtype, least in product(shapes, dtypes, [detection._LEAST, -3.0]):
        logits_BAC = make(*shape).to(dtype)
        found = detection._best_pairs(logits_BAC, top_k, least)
        for one, other in zip(found, sorted_pairs(logits_BAC, top_k, least), strict=True):
            assert torch.equal(one, other), (shape, dtype, least)


def test_both_ways_of_selection_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [(normal(2, 5000, 9) * 8).round() / 8, *outputs(5, 1)[1:]]
    batch[1], batch[2] = torch.zeros(2, 5000, 4), torch.rand(5000, 4) * 50 + torch.tensor([0.0, 0.0, 50.0, 50.0])
    filtered = detect(*batch, **(SETTINGS | {"top_k": 700}))
    monkeypatch.setattr(detection, "_those_that_pass", detection._all_of_the_best_anchors)
    assert same(detect(*batch, **(SETTINGS | {"top_k": 700})), filtered)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_the_kernels_detect_what_pytorch_detects(sigma: float | None) -> None:
    batch = outputs(4, 3, images=5)
    settings = SETTINGS | {"top_k": 300, "score_threshold": 0.3, "soft_nms_sigma": sigma}
    expected = detect(*batch, **settings)
    with on_host(1):
        found = detect(*batch, **settings)
    assert torch.equal(found.counts_B, expected.counts_B) and torch.equal(found.boxes_BD4, expected.boxes_BD4)
    assert torch.equal(found.classes_BD, expected.classes_BD)
    torch.testing.assert_close(found.scores_BD, expected.scores_BD, rtol=1e-5 if sigma else 0, atol=0)


def test_soft_suppression_keeps_an_overlapping_box_with_a_lower_score() -> None:
    anchors_A4 = torch.tensor([[0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 60.0, 60.0]])
    batch = (torch.tensor([[[2.0], [1.0]]]), torch.zeros(1, 2, 4), anchors_A4)
    (found,) = detect(*batch, **SETTINGS, soft_nms_sigma=0.5).images()
    expected = torch.tensor([2.0, 1.0]).sigmoid() * torch.tensor([1.0, math.exp(-1 / 0.5)])
    torch.testing.assert_close(found.scores_K, expected, rtol=1e-6, atol=0)
    (found,) = detect(*batch, **(SETTINGS | {"score_threshold": 0.2}), soft_nms_sigma=0.5).images()
    assert len(found.scores_K) == 1  # 0.73 fell to 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_it_is_computed_with(dtype: torch.dtype) -> None:
    logits_BAC, codes_BA4, anchors_A4 = outputs(6, 4)
    halves = (logits_BAC.to(dtype), codes_BA4.to(dtype))
    assert same(detect(*halves, anchors_A4, **SETTINGS), detect(*(t.float() for t in halves), anchors_A4, **SETTINGS))


def test_a_network_that_gives_nan_gives_no_detections() -> None:
    logits_BAC, codes_BA4, anchors_A4 = outputs(7, 4)
    found = detect(logits_BAC * NAN, codes_BA4 * NAN, anchors_A4, **SETTINGS)
    assert found.counts_B.tolist() == [0, 0]
    assert detect(logits_BAC, codes_BA4 * NAN, anchors_A4, **SETTINGS).counts_B.tolist() == [100, 100]


def test_views_are_read_as_their_copies(way: None) -> None:
    logits_BAC, codes_BA4, anchors_A4 = outputs(8, 4)
    views = (logits_BAC.permute(2, 1, 0).contiguous().permute(2, 1, 0), codes_BA4.mT.contiguous().mT)
    assert same(detect(*views, anchors_A4, **SETTINGS), detect(logits_BAC, codes_BA4, anchors_A4, **SETTINGS))


@pytest.mark.parametrize(("images", "anchors", "classes"), [(0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)])
def test_no_images_anchors_or_classes_are_no_detections(images: int, anchors: int, classes: int) -> None:
    batch = (torch.zeros(images, anchors, classes), torch.zeros(images, anchors, 4), torch.zeros(anchors, 4))
    found = detect(*batch, **SETTINGS)
    assert found.boxes_BD4.shape == (images, 100, 4) and found.counts_B.tolist() == [0] * images


def test_images_are_cut_to_what_was_found() -> None:
    boxes_BD4 = torch.arange(16.0).view(2, 2, 4)
    found = BatchDetections(
        boxes_BD4, torch.tensor([[0.9, 0.0], [0.8, 0.7]]), torch.tensor([[1, -1], [0, 2]]), torch.tensor([1, 2])
    )
    first, second = found.images()
    assert isinstance(first, ImageDetections) and torch.equal(second.boxes_K4, boxes_BD4[1])
    assert (first.boxes_K4.tolist(), first.classes_K.tolist()) == ([[0.0, 1.0, 2.0, 3.0]], [1])


@pytest.mark.slow
def test_it_is_traced_as_one_graph() -> None:
    batch = outputs(9, 3)
    torch.library.opcheck(torch.ops.raydet.best_pairs.default, (batch[0], 50, -5.0))
    compiled = torch.compile(lambda *b: detect(*b, **SETTINGS), fullgraph=True, backend="aot_eager")
    assert same(compiled(*batch), detect(*batch, **SETTINGS))


GOOD: dict[str, Any] = {
    "logits_BAC": torch.zeros(2, 6, 3),
    "codes_BA4": torch.zeros(2, 6, 4),
    "anchors_A4": torch.zeros(6, 4),
    **SETTINGS,
}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (
            {"logits_BAC": torch.zeros(6, 3)},
            ValueError,
            r"logits_BAC must be \[images, anchors, classes\], got \[6, 3\]",
        ),
        (
            {"logits_BAC": torch.zeros(2, 6, 3).double()},
            TypeError,
            r"logits_BAC must be .*, got torch.float64; convert",
        ),
        ({"codes_BA4": torch.zeros(2, 5, 4)}, ValueError, r"codes_BA4 must be \[2, 6, 4\] to fit .*, got \[2, 5, 4\]"),
        ({"anchors_A4": torch.zeros(6, 4).half()}, TypeError, r"anchors_A4 must be torch.float32, got torch.float16"),
        ({"anchors_A4": torch.zeros(6, 4, device="meta")}, ValueError, r"anchors_A4 is on meta, logits_BAC on cpu"),
        ({"top_k": 0}, ValueError, r"top_k must be at least 1, got 0"),
        ({"score_threshold": 1.1}, ValueError, r"score_threshold must be in \[0, 1\], got 1.1"),
        ({"nms_iou": -1.0}, ValueError, r"iou_threshold must be in \[0, 1\], got -1.0"),
        ({"max_detections": 0}, ValueError, r"max_detections must be at least 1, got 0"),
        ({"soft_nms_sigma": -1.0}, ValueError, r"soft_sigma must be above 0"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        detect(**(GOOD | changes))
