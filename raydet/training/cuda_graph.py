"""A training step as one launch: captured in a CUDA graph once, replayed with new data (torch.cuda.CUDAGraph).

A graph repeats the same kernels on the same addresses with the same numbers. So all that changes from step to step lies
in tensors made before: the batch is copied into a fixed one, whose boxes are padded to a fixed number an image, the
gradients have a buffer of their own, and numbers of the schedule are written into device memory. What is captured never
asks the device for anything.

Steps before the capture, and those of a batch of another size (the last one of an epoch), run as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet.data import Batch
from raydet.training.memory import side_by_side

WARM_UP = 3
"""Steps before the capture: in these kernels are compiled, algorithms chosen and the optimiser's slots made."""
_BOXES = 32  # least number of boxes an image that a graph has room for; doubled when a batch has more

StepFunction = Callable[[list[Batch]], None]
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Runs nothing yet; returns what repeats the work."""


def capture_cuda(work: Callable[[], None]) -> Callable[[], None]:
    """Capture `work` in a CUDA graph; return its replay."""
    graph = torch.cuda.CUDAGraph()
    # Other threads go on with their own affairs, such as pinning the loader's next batch.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


class Gradients:
    """The gradients of all parameters, one after the other in one buffer that never moves."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        # In the parameters' own strides: fused steps walk both as one.
        self.flat, parts = side_by_side(self.parameters, parameters[0].device)
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part

    def take(self, loss: Tensor, seed: Tensor | None = None, *, add: bool) -> None:
        """Differentiate `loss`, times `seed` if given; add its gradients to those here, or put them in their place."""
        new = torch.autograd.grad(loss, self.parameters, seed)
        here = [p.grad for p in self.parameters if p.grad is not None]
        if add:
            torch._foreach_add_(here, new)
        else:
            torch._foreach_copy_(here, new)


class Replayed:
    """A step on a global batch that is captured at its first call after the warm-up."""

    def __init__(self, work: StepFunction, capture: Capture, device: torch.device) -> None:
        self._work, self._capture, self._device = work, capture, device
        self._steps = 0
        self._room = _BOXES
        self._fixed: list[Batch] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, micro_batches: list[Batch]) -> None:
        """Do the work on these batches."""
        micro_batches = [batch.to(self._device, non_blocking=True) for batch in micro_batches]
        self._steps += 1
        if self._steps <= WARM_UP:
            _aside(self._work, micro_batches)
            return
        micro_batches = self._padded(micro_batches)
        if self._replay is None:
            self._fixed = [_copied(batch) for batch in micro_batches]
            self._replay = self._capture(lambda: self._work(self._fixed))
        elif not _same_shapes(self._fixed, micro_batches):
            self._work(micro_batches)
            return
        else:
            for fixed, batch in zip(self._fixed, micro_batches, strict=True):
                for ours, theirs in zip(_used(fixed), _used(batch), strict=True):
                    ours.copy_(theirs, non_blocking=True)
        self._replay()

    def _padded(self, micro_batches: list[Batch]) -> list[Batch]:
        """Give each image room for as many boxes as the graph has; forget the graph if that is too few."""
        most = max((0 if b.classes_BM is None else b.classes_BM.shape[1] for b in micro_batches), default=0)
        if most > self._room:
            self._room = 1 << (most - 1).bit_length()
            self._replay = None
        return [_with_room(batch, self._room) for batch in micro_batches]


def _aside(work: StepFunction, micro_batches: list[Batch]) -> None:
    """Run on a stream of its own, as torch asks of what will be captured; on a CPU, just run."""
    if micro_batches[0].images_B3HW.device.type != "cuda":
        work(micro_batches)
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work(micro_batches)
    torch.cuda.current_stream().wait_stream(stream)


def _with_room(batch: Batch, room: int) -> Batch:
    if batch.boxes_BM4 is None or batch.classes_BM is None:
        return batch
    missing = room - batch.classes_BM.shape[1]
    boxes_BM4, classes_BM = F.pad(batch.boxes_BM4, (0, 0, 0, missing)), F.pad(batch.classes_BM, (0, missing), value=-1)
    return replace(batch, boxes_BM4=boxes_BM4, classes_BM=classes_BM)


def _used(batch: Batch) -> list[Tensor]:
    """What a training step reads of a batch."""
    parts = (batch.images_B3HW, batch.seeds_B, batch.labels_B, batch.boxes_BM4, batch.classes_BM)
    return [part for part in parts if part is not None]


def _copied(batch: Batch) -> Batch:
    def copy(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.clone()

    return replace(
        batch,
        images_B3HW=batch.images_B3HW.clone(),
        seeds_B=batch.seeds_B.clone(),
        labels_B=copy(batch.labels_B),
        boxes_BM4=copy(batch.boxes_BM4),
        classes_BM=copy(batch.classes_BM),
    )


def _same_shapes(ours: list[Batch], theirs: list[Batch]) -> bool:
    return [p.shape for b in ours for p in _used(b)] == [p.shape for b in theirs for p in _used(b)]
