"""The workers of one run and the few things they exchange. With a single worker nothing is exchanged."""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class WorkerGroup:
    """This worker among all: its rank, their number, its device."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over all workers, in place; return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """Take the largest of `tensor` over all workers, element by element, in place; return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def share(self, thing: Thing) -> Thing:
        """Return what rank 0 gave; what the others give is ignored."""
        if self.world_size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def gather(self, thing: Thing) -> list[Thing]:
        """Return what each worker gave, in order of rank, on every worker."""
        if self.world_size == 1:
            return [thing]
        things: list[Thing | None] = [None] * self.world_size
        dist.all_gather_object(things, thing)
        return things  # type: ignore[return-value]

    @torch.no_grad()
    def average_buffers(self, *models: nn.Module) -> None:
        """Give all workers the mean of their floating-point buffers (BatchNorm's statistics), in one exchange."""
        if self.world_size == 1:
            return
        buffers = [b for model in models for b in model.buffers() if b.is_floating_point()]
        if not buffers:
            return
        flat = torch.cat([b.reshape(-1).double() for b in buffers])
        dist.all_reduce(flat)
        flat /= self.world_size
        for buffer, mean in zip(buffers, torch.split(flat, [b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.reshape(buffer.shape))
