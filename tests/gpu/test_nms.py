"""Suppression on a GPU: the CPU's decisions bit for bit, in one launch a batch that a graph can hold."""

import pytest
import torch
from torch import Tensor

from raydet.ops.nms import batched_nms
from tests.gpu.marks import NEEDS_GPU
from tests.ops.scenes import crowd

pytestmark = NEEDS_GPU
EPS = torch.finfo(torch.float32).eps
Batch = tuple[Tensor, Tensor, Tensor]
SIZES = [  # images, candidates, classes, threshold, most
    (1, 1, 1, 0.5, 100),
    (3, 257, 3, 0.5, 100),
    (8, 5000, 90, 0.5, 100),
    (4, 5000, 1, 0.3, 100),
    (64, 40, 5, 0.7, 10),
    (2, 3000, 2, 1.0, 2000),
    (2, 700, 2, 0.0, 30),
    (3000, 64, 2, 0.5, 20),
]


@pytest.fixture(autouse=True)
def with_cupy() -> None:
    pytest.importorskip("cupy")


def on_gpu(batch: Batch) -> Batch:
    boxes_BK4, scores_BK, classes_BK = (tensor.cuda() for tensor in batch)
    return boxes_BK4, scores_BK, classes_BK


def assert_equal(one: Batch, other: Batch) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.parametrize(("images", "candidates", "classes", "threshold", "most"), SIZES)
def test_the_kernel_decides_as_the_cpu(images: int, candidates: int, classes: int, threshold: float, most: int) -> None:
    batch = crowd(candidates, images, candidates, classes)
    assert_equal(batched_nms(*on_gpu(batch), threshold, most), batched_nms(*batch, threshold, most))


def test_overlaps_that_equal_the_threshold_are_decided_as_on_the_cpu() -> None:
    """Whole numbers from a small grid: every threshold here is met exactly, and by as many candidates as can be."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(-3, 4, (200, 60, 2), generator=generator).float()
    boxes_BK4 = torch.cat([corner, corner + torch.randint(0, 5, (200, 60, 2), generator=generator)], dim=2)
    scores_BK = torch.randint(0, 5, (200, 60), generator=generator) / 4
    batch = (boxes_BK4, scores_BK, torch.randint(-1, 2, (200, 60), generator=generator))
    for threshold in (0.0, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 1.0):
        assert_equal(batched_nms(*on_gpu(batch), threshold, 60), batched_nms(*batch, threshold, 60))


def test_boxes_of_nan_and_infinity_are_decided_as_on_the_cpu() -> None:
    batch = crowd(5, 6, 500, 2)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    places = torch.rand(batch[0].shape, generator=torch.Generator().manual_seed(1)) < 0.05
    batch[0][places] = odd[torch.arange(int(places.sum())) % 4]
    batch[1][:, ::50] = float("nan")
    for sigma in (None, 0.5):
        one, other = batched_nms(*on_gpu(batch), 0.5, 400, sigma, 0.1), batched_nms(*batch, 0.5, 400, sigma, 0.1)
        assert torch.equal(one[0].cpu(), other[0]) and torch.equal(one[2].cpu(), other[2])


@pytest.mark.parametrize(
    ("images", "candidates", "most", "sigma"), [(3, 200, 60, 0.5), (40, 60, 30, 0.5), (2, 700, 40, 3.0)]
)
def test_the_soft_kernel_picks_as_the_cpu(images: int, candidates: int, most: int, sigma: float) -> None:
    """So few that no two scores come close enough for the last bit of exp to decide which is higher."""
    boxes_BK4, _, classes_BK = crowd(candidates, images, candidates, 3)
    scores_BK = torch.rand(images, candidates, generator=torch.Generator().manual_seed(2))
    batch = (boxes_BK4, scores_BK, classes_BK)
    keep_BD, scores_BD, counts_B = (t.cpu() for t in batched_nms(*on_gpu(batch), 0.5, most, sigma, 0.01))
    expected = batched_nms(*batch, 0.5, most, sigma, 0.01)
    assert torch.equal(counts_B, expected[2]) and torch.equal(keep_BD, expected[0])
    # Overlaps are the same bits. An exp is within 2 ulp there and 1 here, its product within half one in both.
    torch.testing.assert_close(scores_BD, expected[1], rtol=4 * most * EPS, atol=0)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_bits_are_the_same_in_every_run_and_on_every_stream(sigma: float | None) -> None:
    batch = on_gpu(crowd(1, 16, 2000, 5))
    first = batched_nms(*batch, 0.5, 100, sigma, 0.01)
    for _ in range(20):
        assert_equal(batched_nms(*batch, 0.5, 100, sigma, 0.01), first)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = batched_nms(*batch, 0.5, 100, sigma, 0.01)
    torch.cuda.current_stream().wait_stream(stream)
    assert_equal(again, first)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_nothing_waits_for_the_gpu(sigma: float | None) -> None:
    batch = on_gpu(crowd(2, 4, 5000, 5))
    batched_nms(*batch, 0.5, 100, sigma)  # compiles the kernel
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    batched_nms(*batch, 0.5, 100, sigma)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_a_captured_launch_reads_its_inputs_anew(sigma: float | None) -> None:
    batch, other = (on_gpu(crowd(seed, 4, 600, 3)) for seed in (3, 4))
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        batched_nms(*batch, 0.5, 50, sigma)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = batched_nms(*batch, 0.5, 50, sigma)
    for tensor, new in zip(batch, other, strict=True):
        tensor.copy_(new)
    graph.replay()
    assert_equal(found, batched_nms(*other, 0.5, 50, sigma))


def test_no_images_and_no_candidates_are_no_detections() -> None:
    for images, candidates in ((0, 5), (3, 0)):
        batch = on_gpu(crowd(0, images, candidates, 1))
        for sigma in (None, 0.5):
            keep_BD, scores_BD, counts_B = batched_nms(*batch, 0.5, 7, sigma)
            assert (keep_BD == -1).all() and not scores_BD.any() and not counts_B.any() and keep_BD.shape == (images, 7)


def test_it_is_compiled_with_what_surrounds_it() -> None:
    batch = on_gpu(crowd(6, 3, 300, 3))
    compiled = torch.compile(lambda b, s, c: batched_nms(b * 2, s, c, 0.5, 40), fullgraph=True, backend="aot_eager")
    assert_equal(compiled(*batch), batched_nms(batch[0] * 2, batch[1], batch[2], 0.5, 40))
