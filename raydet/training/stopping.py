"""One worker's wish to stop, which all learn at the same step: it travels with a number that they add up anyway."""

from collections import deque

import torch
from torch import Tensor

from raydet.distributed import WorkerGroup

_LATE = 2
"""Steps after which a GPU is asked what was agreed: by then it knows, and nothing waits for it."""


class Stopping:
    """Whether some worker wants to stop. All addresses stay, so that a CUDA graph may hold them."""

    def __init__(self, device: torch.device) -> None:
        self._asked = torch.zeros((), device=device)
        self._agreed = torch.zeros((), device=device)
        self._on_their_way: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        self._is_asked = False

    def ask(self, stop: bool) -> None:
        """Say whether this worker wants to stop, before a step."""
        if stop != self._is_asked:
            self._is_asked = stop
            self._asked.fill_(float(stop))

    def carried(self, number: Tensor, workers: WorkerGroup) -> Tensor:
        """Return `number` added up over all workers, and their wishes with it."""
        both = workers.sum_(torch.stack([number, self._asked.to(number.dtype)]))
        self._agreed.copy_(both[1])
        return both[0]

    def note(self) -> None:
        """Have what was agreed in the step that was just made sent to the host."""
        if self._agreed.device.type == "cuda":
            here, event = torch.empty((), pin_memory=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
            here.copy_(self._agreed, non_blocking=True)
            event.record()
            self._on_their_way.append((event, here))

    def agreed(self) -> bool:
        """Whether to stop; of a step some steps ago on a GPU."""
        if self._agreed.device.type != "cuda":
            return bool(self._agreed)
        if len(self._on_their_way) <= _LATE:
            return False
        event, here = self._on_their_way.popleft()
        event.synchronize()
        return bool(here)
