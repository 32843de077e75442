"""What one worker wants (to stop, to save) and all learn at the same step: it travels with a number added up anyway."""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from raydet.distributed import WorkerGroup

_LATE = 2
"""Steps after which a GPU is asked what was agreed: by then it knows, and nothing waits for it."""


class Wish(NamedTuple):
    """What is to be done after a step."""

    stop: bool = False
    """Save a checkpoint and end."""
    save: bool = False
    """Save a checkpoint."""


NOTHING = Wish()


class Wishes:
    """What some worker wants. All addresses stay, so that a CUDA graph may hold them."""

    def __init__(self, device: torch.device) -> None:
        self._asked = torch.zeros(len(NOTHING), device=device)
        self._agreed = torch.zeros_like(self._asked)
        self._on_their_way: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        self._wish = NOTHING

    def ask(self, wish: Wish) -> None:
        """Say what this worker wants, before a step."""
        if wish != self._wish:
            self._wish = wish
            self._asked.copy_(torch.tensor(wish, dtype=self._asked.dtype))

    def carried(self, number: Tensor, workers: WorkerGroup) -> Tensor:
        """Return `number` added up over all workers, and their wishes with it."""
        summed = workers.sum_(torch.cat([number.view(1), self._asked.to(number.dtype)]))
        self._agreed.copy_(summed[1:])
        return summed[0]

    def agreed(self) -> Wish:
        """Return what to do; to be asked after each step. All workers get the same answer after the same step.

        On a GPU it is that of a step before, which is here by now; this step's is sent on its way.
        """
        if self._agreed.device.type != "cuda":
            return _wish(self._agreed)
        here, event = torch.empty(len(NOTHING), pin_memory=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
        here.copy_(self._agreed, non_blocking=True)
        event.record()
        self._on_their_way.append((event, here))
        if len(self._on_their_way) <= _LATE:
            return NOTHING
        event, here = self._on_their_way.popleft()
        event.synchronize()
        return _wish(here)


def _wish(flags: Tensor) -> Wish:
    return Wish(*map(bool, flags.tolist()))
