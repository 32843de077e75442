"""Target assignment on a GPU: the kernels decide as the CPU does, always alike, in a graph and without waiting."""

import pytest
import torch

from raydet.ops import choose
from raydet.ops.assignment import Targets, assign_anchors
from tests.gpu.marks import NEEDS_GPU
from tests.ops.scenes import CUTS, SCENES, assert_equal, assert_equal_but_for_logarithms, grid, scene, some_boxes

pytestmark = NEEDS_GPU


@pytest.fixture(autouse=True)
def kernels_only() -> None:
    choose("cuda")


def on_cpu(targets: Targets) -> Targets:
    return Targets(*(t.cpu() for t in targets))


def expected(*arguments: object) -> Targets:
    choose("torch")
    targets = assign_anchors(*arguments)  # type: ignore[arg-type]
    choose("cuda")
    return targets


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize(
    "name", [name for name in SCENES if name != "extremes"]
)  # it has subnormal areas: flushed to 0
def test_the_kernels_decide_as_the_cpu(name: str, distinct: bool) -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene(name)
    for cut in CUTS:
        one = assign_anchors(anchors_A4.cuda(), boxes_BM4.cuda(), classes_BM.cuda(), cut, distinct)
        assert_equal_but_for_logarithms(on_cpu(one), expected(anchors_A4, boxes_BM4, classes_BM, cut, distinct))


@pytest.mark.parametrize("distinct", [False, True])
def test_boxes_without_an_area_or_of_an_infinite_one_change_nothing(distinct: bool) -> None:
    anchors_A4, _, boxes_BM4, classes_BM = scene("extremes")
    classes_BM[0, 2:4] = -1  # the two whose overlaps are below 1.2e-38
    one = assign_anchors(anchors_A4.cuda(), boxes_BM4.cuda(), classes_BM.cuda(), 0.5, distinct)
    assert_equal_but_for_logarithms(on_cpu(one), expected(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct))


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("most", [7, 100, 300])
def test_a_large_batch_is_decided_as_on_the_cpu_and_always_alike(most: int, distinct: bool) -> None:
    anchors_A4, cells = grid((512, 512))
    boxes_BM4, classes_BM = some_boxes(16, most, 512, seed=most, largest=0.2)
    classes_BM[::3, most // 2 :] = -1
    on_gpu = (anchors_A4.cuda(), boxes_BM4.cuda(), classes_BM.cuda(), 0.5, distinct)
    first = assign_anchors(*on_gpu)
    assert_equal_but_for_logarithms(on_cpu(first), expected(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct, cells))
    for _ in range(20):
        assert_equal(assign_anchors(*on_gpu), first)


def test_more_images_than_a_grid_has_rows_are_taken() -> None:
    anchors_A4, _ = grid((32, 32), (3, 5))
    boxes_BM4, classes_BM = some_boxes(70000, 1, 32)
    one = assign_anchors(anchors_A4.cuda(), boxes_BM4.cuda(), classes_BM.cuda())
    assert_equal_but_for_logarithms(on_cpu(one), expected(anchors_A4, boxes_BM4, classes_BM))


def test_pytorch_on_a_gpu_decides_as_the_kernels() -> None:
    tensors = tuple(t.cuda() for t in (grid((256, 256))[0], *some_boxes(4, 20, 256)))
    for distinct in (False, True):
        one, other = expected(*tensors, 0.5, distinct), assign_anchors(*tensors, 0.5, distinct)
        assert_equal_but_for_logarithms(on_cpu(one), on_cpu(other))


@pytest.mark.parametrize("backend", ["cuda", "torch"])
@pytest.mark.parametrize("distinct", [False, True])
def test_assignment_never_waits_for_the_gpu(distinct: bool, backend: str) -> None:
    anchors_A4, cells = grid((256, 256))
    tensors = tuple(t.cuda() for t in (anchors_A4, *some_boxes(4, 20, 256)))
    choose("torch" if backend == "torch" else "cuda")
    assign_anchors(*tensors, 0.5, distinct, cells)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    assign_anchors(*tensors, 0.5, distinct, cells)


@pytest.mark.parametrize("distinct", [False, True])
def test_a_captured_graph_assigns_what_its_inputs_hold_at_replay(distinct: bool) -> None:
    anchors_A4, boxes_BM4, classes_BM = (t.cuda() for t in (grid((256, 256))[0], *some_boxes(4, 20, 256)))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct)  # compiles, on a stream of its own
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct)
    for seed in (1, 2, 2):
        new_BM4, new_BM = some_boxes(4, 20, 256, seed=seed, largest=0.1)
        new_BM[0, 5:] = -1
        boxes_BM4.copy_(new_BM4)
        classes_BM.copy_(new_BM)
        graph.replay()
        torch.cuda.synchronize()
        plain = assign_anchors(anchors_A4, boxes_BM4, classes_BM, 0.5, distinct)
        assert_equal(captured, plain)
