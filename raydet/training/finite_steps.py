"""Steps whose loss or gradient is not finite: taken back on all workers alike, counted, and named by their images.

A loss that is not finite makes every gradient NaN, which the sum over workers carries to all of them: a step exchanges
nothing more than before, and no worker can disagree. On a GPU the verdict stays on the device, in the form in which
fused optimizers take GradScaler's, so that nothing waits for it; it is read where the losses are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.training.state import State


@dataclass(frozen=True)
class SkippedStep:
    """A step that was taken back."""

    epoch: int
    """From 0."""
    step: int
    """Within the epoch, from 0."""
    rows: list[int]
    """Of this worker's images."""


class FiniteSteps:
    """Keeps what a step changes before its gradient is known, and gives it back where that is not finite."""

    def __init__(self, state: State, workers: WorkerGroup) -> None:
        self._state, self._workers = state, workers
        self._changing = [state.sums, state.statistics]
        self._before = [tensor.clone() for tensor in self._changing]
        self._bad = torch.zeros((), device=workers.device)
        self._bad_loss = torch.zeros((), device=workers.device)
        self._steps: list[tuple[int, int, list[Tensor]]] = []
        self._flags: list[Tensor] = []

    def begin(self) -> None:
        """Keep what the step will change."""
        torch._foreach_copy_(self._before, self._changing)
        self._bad_loss.zero_()

    def seed(self, loss: Tensor) -> Tensor:
        """Return what the gradient starts from: 1, or NaN for a loss that is not finite."""
        finite = loss.detach().isfinite()
        self._bad_loss.logical_or_(~finite)
        return torch.where(finite, 1.0, torch.nan).to(loss.dtype)

    def verdict(self, norm: Tensor) -> Tensor:
        """Give back what a step has changed whose gradient has this norm, if that is not finite.

        Returns:
            float32: 1 if the step must not be made, else 0. It keeps its place in memory.
        """
        self._bad.copy_(~norm.isfinite())
        for now, before in zip(self._changing, self._before, strict=True):
            now.copy_(torch.where(self._bad > 0, before, now))
        return self._bad

    def note(self, micro_batches: list[Batch]) -> None:
        """Take down which images the step that was just made had."""
        self._steps.append((self._state.epoch, self._state.epoch_steps, [batch.rows_B for batch in micro_batches]))
        self._flags.append(torch.stack([self._bad, self._bad_loss]))

    def skipped_last(self) -> bool:
        """Whether the last step was taken back; on a GPU this waits for it."""
        return bool(self._bad)

    def read(self) -> tuple[int, list[SkippedStep]]:
        """Return the number of steps that were taken back since the last call, and those that speak of a fault.

        Under fp16 an overflow belongs to the search for a loss scale; only a loss that is not finite is a fault there,
        or an overflow at a scale that is no more than 1.
        """
        if not self._flags:
            return 0, []
        flags = self._workers.max_(torch.stack(self._flags)).bool().tolist()
        scaler = self._state.scaler
        searching = scaler.is_enabled() and scaler.get_scale() > 1
        found = []
        for (epoch, step, rows), (bad, bad_loss) in zip(self._steps, flags, strict=True):
            fault = bad and (bad_loss or not searching)
            self._state.skipped_in_row = self._state.skipped_in_row + 1 if fault else 0
            if fault:
                found.append(SkippedStep(epoch, step, [int(row) for part in rows for row in part.tolist()]))
        self._steps, self._flags = [], []
        return sum(bad for bad, _ in flags), found
