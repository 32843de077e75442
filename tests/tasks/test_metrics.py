"""Average precision: both back ends agree, and with pycocotools used by the book; top-k accuracy."""

import contextlib
import io
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raydet.tasks.metrics import FIGURES, SplitDetections, Truth, average_precision, topk_accuracy

BACKENDS: tuple[Literal["faster", "pycocotools"], ...] = ("faster", "pycocotools")
both = pytest.mark.parametrize("backend", BACKENDS)
Backend = Literal["faster", "pycocotools"]


def made_up(
    seed: int, images: int = 12, classes: int = 4, most: int = 8, crowd: float = 0.1, ties: bool = False, extra: int = 6
) -> tuple[Truth, SplitDetections]:
    """Return boxes of all sizes and detections near them, far from them, doubled and missing."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.arange(1, images + 1) * 7919 + 2**33)
    counts = rng.integers(0, most + 1, images)
    counts[0], counts[1] = 0, max(1, counts[1])
    image = np.repeat(ids, counts)
    boxes = np.concatenate([rng.uniform(0, 300, (len(image), 2)), rng.uniform(4, 200, (len(image), 2))], 1)
    labels = rng.integers(0, classes, len(image))
    is_crowd = rng.random(len(image)) < crowd
    is_crowd[:1] = False
    area = boxes[:, 2] * boxes[:, 3] * rng.uniform(0.5, 1, len(image))
    truth = Truth(ids, [f"class {i}" for i in range(classes)], image, boxes, labels, area, is_crowd)
    hit = rng.random(len(image)) < 0.8
    near = boxes[hit] + rng.normal(0, 6, (hit.sum(), 4))
    near[:, 2:] = np.abs(near[:, 2:]) + 1
    far_ids = rng.choice(ids, images * extra)
    far = np.concatenate([rng.uniform(0, 300, (len(far_ids), 2)), rng.uniform(4, 200, (len(far_ids), 2))], 1)
    near_ids, near_labels = np.tile(image[hit], 2), np.tile(labels[hit], 2)
    scores = rng.random(len(near_ids) + len(far_ids))
    scores = np.round(scores, 1) if ties else scores
    order = rng.permutation(len(scores))
    found = SplitDetections(
        np.concatenate([near_ids, far_ids])[order],
        np.concatenate([near, near + 2, far])[order],
        np.concatenate([near_labels, rng.integers(0, classes, len(far_ids))])[order],
        scores[order],
    )
    return truth, found


def by_the_book(truth: Truth, found: SplitDetections) -> list[float]:
    """Return the twelve figures as pycocotools gives them to whoever uses it as documented."""
    rows: list[dict[str, Any]] = [
        {
            "id": i + 1,
            "image_id": int(truth.image_ids[i]),
            "category_id": int(truth.labels[i]) + 1,
            "bbox": truth.boxes_xywh[i].tolist(),
            "area": float(truth.areas[i]),
            "iscrowd": int(truth.crowd[i]),
        }
        for i in range(len(truth.image_ids))
    ]
    results: list[dict[str, Any]] = [
        {
            "image_id": int(found.image_ids[i]),
            "category_id": int(found.labels[i]) + 1,
            "bbox": found.boxes_xywh[i].tolist(),
            "score": float(found.scores[i]),
        }
        for i in range(len(found.image_ids))
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": int(i)} for i in truth.all_image_ids],
        "annotations": rows,
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(truth.class_names)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [math.nan if s == -1 else float(s) for s in judge.stats]


CASES = {
    "plain": {"crowd": 0.0},
    "crowd": {"crowd": 0.4},
    "ties": {"ties": True},
    "one class": {"classes": 1},
    "one image": {"images": 2, "most": 3},
    "many detections": {"images": 3, "classes": 1, "extra": 150},
    "few boxes": {"images": 30, "most": 1, "classes": 7},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_both_back_ends_equal_pycocotools_by_the_book(case: str, seed: int) -> None:
    truth, found = made_up(seed, **CASES[case])
    expected = by_the_book(truth, found)
    results = [average_precision(truth, found, backend) for backend in BACKENDS]
    for result in results:
        assert list(result.figures) == list(FIGURES)
        np.testing.assert_allclose(list(result.figures.values()), expected, rtol=0, atol=1e-9)
    for name in truth.class_names:
        a, b = (r.per_class[name] for r in results)
        assert a == pytest.approx(b, abs=1e-9, nan_ok=True)
    assert np.nanmean(list(results[0].per_class.values())) == pytest.approx(results[0].figures["AP"], abs=1e-9)


def tiny(boxes: list[list[float]], images: list[int], all_images: list[int], crowd: list[int] | None = None) -> Truth:
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    n = len(boxes)
    return Truth(
        np.array(all_images),
        ["cat", "dog"],
        np.array(images, np.int64),
        xywh,
        np.zeros(n, np.int64),
        xywh[:, 2] * xywh[:, 3],
        np.array(crowd if crowd is not None else [0] * n, np.int64),
    )


def found(boxes: list[list[float]], images: list[int], scores: list[float]) -> SplitDetections:
    return SplitDetections(
        np.array(images), np.array(boxes, np.float64), np.zeros(len(images), np.int64), np.array(scores)
    )


@both
def test_a_case_by_hand(backend: Backend) -> None:
    truth = tiny([[0, 0, 10, 10], [50, 50, 100, 100]], [1, 1], [1])
    # The best one hits the small box exactly; the second, IoU 0.8, hits the large one; the third is wrong.
    result = average_precision(
        truth, found([[0, 0, 10, 10], [50, 50, 100, 80], [5, 200, 9, 9]], [1] * 3, [0.9, 0.8, 0.7]), backend
    )
    # IoU 0.5 to 0.8, 7 thresholds: both found, AP 1. Above: one of two, 51 of 101 recall points have precision 1.
    expected = (7 * 1 + 3 * 51 / 101) / 10
    assert result.figures["AP"] == pytest.approx(expected, abs=1e-9)
    assert result.figures["AP50"] == result.figures["AP75"] == pytest.approx(1)
    assert result.figures["AP_small"] == pytest.approx(1)
    assert result.figures["AP_large"] == pytest.approx(0.7)
    assert math.isnan(result.figures["AP_medium"]) and math.isnan(result.figures["AR_medium"])
    assert result.figures["AR1"] == pytest.approx(0.5)
    assert result.figures["AR100"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert result.per_class["cat"] == pytest.approx(expected) and math.isnan(result.per_class["dog"])


@both
def test_a_wholly_missed_image_counts(backend: Backend) -> None:
    box = [0.0, 0.0, 40.0, 40.0]
    hit = found([box], [1], [0.9])
    assert average_precision(tiny([box], [1], [1]), hit, backend).figures["AP"] == pytest.approx(1)
    missed = average_precision(tiny([box, box], [1, 2], [1, 2]), hit, backend).figures
    assert missed["AP"] == pytest.approx(51 / 101) and missed["AR100"] == pytest.approx(0.5)


@both
def test_no_detections_score_zero(backend: Backend) -> None:
    truth = tiny([[0, 0, 10, 10]], [1], [1, 2])
    figures = average_precision(truth, SplitDetections(), backend).figures
    assert {figures[n] for n in ("AP", "AP50", "AP75", "AP_small", "AR1", "AR10", "AR100", "AR_small")} == {0.0}
    assert math.isnan(figures["AP_large"])


@both
def test_detections_in_a_crowd_are_neither_right_nor_wrong(backend: Backend) -> None:
    truth = tiny([[0, 0, 40, 40], [100, 100, 100, 100]], [1, 1], [1], crowd=[0, 1])
    boxes = [[120, 120, 20, 20], [150, 150, 20, 20], [0, 0, 40, 40]]
    assert average_precision(truth, found(boxes, [1] * 3, [0.9, 0.8, 0.7]), backend).figures["AP"] == pytest.approx(1)


@both
def test_the_libraries_print_nothing(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    average_precision(*made_up(0), backend)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("crowd", [[], [1, 1]])
def test_a_split_without_boxes_is_refused_by_name(crowd: list[int]) -> None:
    truth = tiny([[0, 0, 9, 9]] * len(crowd), [1] * len(crowd), [1], crowd)
    with pytest.raises(ValueError, match="test split has 0 annotated boxes"):
        average_precision(truth, SplitDetections(), split="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_ids": np.array([9])}, r"detections: 1 image ids are not of the val split, e.g. \[9\]"),
        ({"labels": np.array([2])}, "detections.labels must be 0 to 1, got 2 to 2"),
        ({"labels": np.array([-1])}, "detections.labels must be 0 to 1"),
        ({"scores": np.array([0.1, 0.2])}, "detections.scores has 2 rows, detections.image_ids has 1"),
        ({"scores": np.array([np.nan])}, "not finite"),
        ({"boxes_xywh": np.array([[0, 0, np.inf, 1]])}, "not finite"),
        ({"boxes_xywh": np.zeros((1, 5))}, r"must be \[N, 4\], got \[1, 5\]"),
    ],
)
def test_bad_detections_are_refused_with_the_column(changes: dict[str, Any], message: str) -> None:
    good = {"image_ids": np.array([1]), "boxes_xywh": np.ones((1, 4)), "labels": np.array([0]), "scores": np.ones(1)}
    with pytest.raises(ValueError, match=message):
        average_precision(tiny([[0, 0, 9, 9]], [1], [1]), SplitDetections(**(good | changes)))


def test_two_classes_of_one_name_are_told_apart() -> None:
    truth = tiny([[0, 0, 9, 9]], [1], [1])
    twice = Truth(*[["cat", "cat"] if n == "class_names" else getattr(truth, n) for n in Truth.__dataclass_fields__])
    assert set(average_precision(twice, SplitDetections()).per_class) == {"cat (0)", "cat (1)"}


def test_top_k_counts_the_right_ones() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.9]])
    assert topk_accuracy(logits, torch.tensor([1, 1, 0]), (1, 2, 3)).tolist() == [1, 1, 3]


def test_top_k_above_the_number_of_classes_counts_all() -> None:
    assert topk_accuracy(torch.randn(4, 2), torch.tensor([0, 1, 0, 1])).tolist()[1] == 4


def test_top_k_gives_a_constant_or_broken_network_no_credit() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    assert topk_accuracy(torch.zeros(4, 4), labels, (1,)).tolist() == [1]
    assert topk_accuracy(torch.full((4, 4), float("nan")), labels, (1, 5)).tolist() == [0, 0]


def test_top_k_leaves_out_images_without_a_label() -> None:
    assert topk_accuracy(torch.eye(3), torch.tensor([0, -1, 2]), (1,)).tolist() == [2]


def test_top_k_equals_torch_topk() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(64, 20, generator=generator), torch.randint(0, 20, (64,), generator=generator)
    for k in (1, 3, 5):
        expected = (logits.topk(k).indices == labels[:, None]).any(1).sum()
        assert topk_accuracy(logits, labels, (k,))[0] == expected


def test_top_k_of_no_images_is_zero() -> None:
    assert topk_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).tolist() == [0, 0]
