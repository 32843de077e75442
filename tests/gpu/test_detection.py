"""Detections on a GPU: the CPU's, found without one synchronisation, from eager code and from a graph."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.models.anchors import make_anchors
from raydet.ops import detection
from raydet.ops.detection import BatchDetections, detect
from tests.gpu.marks import NEEDS_GPU

pytestmark = NEEDS_GPU
SETTINGS: dict[str, Any] = {"top_k": 5000, "score_threshold": 0.0, "nms_iou": 0.5, "max_detections": 100}
Outputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def with_cupy() -> None:
    pytest.importorskip("cupy")


def outputs(seed: int, classes: int, side: int = 256, images: int = 4) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    anchors_A4 = make_anchors((side, side), 3, 7, 4.0)
    logits_BAC = torch.randn(images, len(anchors_A4), classes, generator=generator) * 2 - 4
    return logits_BAC, torch.randn(images, len(anchors_A4), 4, generator=generator) * 0.3, anchors_A4


def on_gpu(batch: Outputs) -> Outputs:
    logits_BAC, codes_BA4, anchors_A4 = (tensor.cuda() for tensor in batch)
    return logits_BAC, codes_BA4, anchors_A4


def assert_equal(one: BatchDetections, other: BatchDetections) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("images", "anchors", "classes", "top_k"),
    [(3, 500, 7, 100), (64, 11, 3, 40), (2, 49104, 90, 5000), (2, 400, 1, 30), (1, 1, 5, 3)],
)
def test_the_best_pairs_are_the_cpus(images: int, anchors: int, classes: int, top_k: int, dtype: torch.dtype) -> None:
    logits_BAC = torch.randn(images, anchors, classes, generator=torch.Generator().manual_seed(anchors)) * 3 - 4
    logits_BAC[:, ::17] = logits_BAC[:, ::17].round()  # ties
    logits_BAC[0, anchors // 2, 0] = float("nan")
    for least in (detection._LEAST, -3.0):
        for one, other in zip(
            detection._best_pairs(logits_BAC.to(dtype).cuda(), top_k, least),
            detection._best_pairs(logits_BAC.to(dtype), top_k, least),
            strict=True,
        ):
            assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_detections_are_the_cpus(classes: int, threshold: float) -> None:
    """All but a few: a GPU's exp and sigmoid differ in the last bit, so an overlap may pass in one only."""
    batch, settings = outputs(0, classes), SETTINGS | {"score_threshold": threshold}
    one, other = detect(*on_gpu(batch), **settings).images(), detect(*batch, **settings).images()
    for found, expected in zip(one, other, strict=True):
        assert abs(len(found.scores_K) - len(expected.scores_K)) <= 2
        near = torch.cdist(found.boxes_K4, expected.boxes_K4, p=float("inf")) < 1e-2
        alike = found.classes_K.unsqueeze(1) == expected.classes_K
        assert (near & alike).any(1).float().mean() > 0.95


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_nothing_waits_for_the_gpu(sigma: float | None) -> None:
    batch = on_gpu(outputs(1, 90, 512))
    detect(*batch, **SETTINGS, soft_nms_sigma=sigma)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    detect(*batch, **SETTINGS, soft_nms_sigma=sigma)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_bits_are_the_same_in_every_run(sigma: float | None) -> None:
    batch = on_gpu(outputs(2, 90, 512))
    first = detect(*batch, **SETTINGS, soft_nms_sigma=sigma)
    for _ in range(10):
        assert_equal(detect(*batch, **SETTINGS, soft_nms_sigma=sigma), first)


def test_a_captured_batch_reads_its_inputs_anew() -> None:
    batch, other = (on_gpu(outputs(seed, 7)) for seed in (3, 4))
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        detect(*batch, **SETTINGS)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = detect(*batch, **SETTINGS)
    for tensor, new in zip(batch, other, strict=True):
        tensor.copy_(new)
    graph.replay()
    assert_equal(found, detect(*other, **SETTINGS))


def test_images_come_to_the_host() -> None:
    found = detect(*on_gpu(outputs(5, 7)), **SETTINGS)
    images = found.images()
    assert [len(image.scores_K) for image in images] == found.counts_B.tolist()
    assert all(tensor.device.type == "cpu" for image in images for tensor in image)
