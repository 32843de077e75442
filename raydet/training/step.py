"""One training step in two forms: `eager_step` runs as it is, `graph_step` is captured in a CUDA graph and replayed."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet.config import Config
from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.tasks.base import Task
from raydet.training.cuda_graph import Capture, Gradients, Replayed, StepFunction, capture_cuda
from raydet.training.finite_steps import FiniteSteps
from raydet.training.optim import clip_gradients
from raydet.training.precision import autocast
from raydet.training.state import State
from raydet.training.wishes import NOTHING, Wish, Wishes

# torch 2.15 renamed the argument and warns of the old name.
_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
_NO_BUFFER_SYNC = {"forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers": False}


class Trainer:
    """Trains on one global batch after the other; holds what is derived from the State and never saved."""

    def __init__(
        self, cfg: Config, task: Task, state: State, workers: WorkerGroup, capture: Capture | None = None
    ) -> None:
        """Prepare for steps.

        Args:
            capture: what captures a step for replaying. None: a CUDA graph if precision.cuda_graph, else nothing.
        """
        self.cfg, self.task, self.state, self.workers = cfg, task, state, workers
        self.trained = [p for p in state.model.parameters() if p.requires_grad]
        self.network: nn.Module = torch.compile(state.model) if cfg.precision.compile else state.model  # type: ignore[assignment]
        if capture is None and cfg.precision.cuda_graph:
            capture = capture_cuda
        # A CPU's verdict on a step is here at once; a captured step, or one on a GPU, must not ask for it.
        self._asks = capture is None and workers.device.type == "cpu"
        self._run: StepFunction
        self._capture = capture
        if capture is not None:
            self.gradients = Gradients(self.trained)
        elif workers.world_size > 1:
            self.network = _data_parallel(self.network, workers.device)
        self.reset()

    def reset(self) -> None:
        """Start afresh from the State, which was set to another."""
        self.finite = FiniteSteps(self.state, self.workers)
        self.wishes = Wishes(self.workers.device)
        if self._capture is None:
            self.numbers = StepNumbers(self.state.optimizer)
            self._run = self.eager_step
        else:
            self.numbers = StepNumbers(self.state.optimizer, self.workers.device)
            self._run = Replayed(self.graph_step, self._capture, self.workers.device)

    def step(self, micro_batches: list[Batch], lr: float, wish: Wish = NOTHING) -> None:
        """Train on one global batch, of which `micro_batches` are this worker's share.

        Args:
            wish: what this worker wants after the step; `wishes.agreed()` is what all do.
        """
        state = self.state
        self.wishes.ask(wish)
        decay = 1.0 if state.average is None else state.average.decay(state.step + 1)
        self.numbers.set(lr, decay, self.task.random_numbers(state.epoch, state.epoch_steps))
        self._run(micro_batches)
        self.finite.note(micro_batches)
        state.step += 1
        state.epoch_steps += 1

    def eager_step(self, micro_batches: list[Batch]) -> None:
        """Run a step: losses are divided by the weight of the global batch, so gradients of its parts add up."""
        self.finite.begin()
        targets = [self.task.targets(batch) for batch in micro_batches]
        weight = self._global_weight(targets)
        for i, (batch, target) in enumerate(zip(micro_batches, targets, strict=True)):
            with self._no_sync(but_for=i == len(micro_batches) - 1):
                losses = self._losses(batch, target, weight)
                # DistributedDataParallel averages gradients, but these losses are shares of a sum.
                scaled = self.state.scaler.scale(losses[0] * self.workers.world_size)
                scaled.backward(self.finite.seed(losses[0]))  # type: ignore[no-untyped-call]
            self.state.sums += losses.detach()
        self._update()
        self.state.optimizer.zero_grad(set_to_none=True)

    def graph_step(self, micro_batches: list[Batch]) -> None:
        """Run the same step so that a graph can capture it.

        Gradients lie in one buffer that never moves, summed over workers at once. Nothing in here may depend on a
        number of the host that changes.
        """
        self.finite.begin()
        targets = [self.task.targets(batch) for batch in micro_batches]
        weight = self._global_weight(targets)
        for i, (batch, target) in enumerate(zip(micro_batches, targets, strict=True)):
            losses = self._losses(batch, target, weight)
            scaled = self.state.scaler.scale(losses[0])
            self.gradients.take(scaled, self.finite.seed(losses[0]), add=i > 0)
            self.state.sums += losses.detach()
        self.workers.sum_(self.gradients.flat)
        self._update()

    def _global_weight(self, targets: list[Any]) -> Tensor:
        """Return what the losses of the global batch are divided by: its positives, or its images."""
        weight = torch.stack([self.task.weight(target) for target in targets]).sum()
        return self.wishes.carried(weight, self.workers)

    def _losses(self, batch: Batch, target: Any, weight: Tensor) -> Tensor:
        """Return the losses of a micro-batch as shares of the global batch's, the one to minimise first."""
        images_B3HW, target = self.task.training_inputs(batch, target, self.numbers.random)
        seeds_B = batch.seeds_B.to(self.workers.device, non_blocking=True)
        with autocast(self.cfg.precision, self.workers.device):
            outputs = self.network(images_B3HW, seeds_B)
        return self.task.loss(outputs, target, weight)

    def _update(self) -> None:
        """Move the weights along their gradients, then the EMA; neither where a gradient is not finite."""
        scaler, optimizer, average = self.state.scaler, self.state.optimizer, self.state.average
        scaler.unscale_(optimizer)
        bad = self.finite.verdict(clip_gradients(self.trained, self.cfg.optim.grad_clip))
        if self._asks and bool(bad):
            return
        decay = self.numbers.decay
        if not self._asks:
            decay = torch.where(bad > 0, 1.0, decay)
            if not scaler.is_enabled():  # as GradScaler tells fused optimizers of an overflow
                optimizer.grad_scale, optimizer.found_inf = None, bad  # type: ignore[attr-defined]
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update(decay)

    def _no_sync(self, but_for: bool) -> AbstractContextManager[None]:
        """Let the last micro-batch of a step alone exchange gradients."""
        wrapped = isinstance(self.network, DistributedDataParallel)
        return self.network.no_sync() if wrapped and not but_for else nullcontext()  # type: ignore[operator,no-any-return]


def _data_parallel(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        **_NO_BUFFER_SYNC,  # type: ignore[arg-type]  # statistics are averaged at boundaries instead, see WorkerGroup.average_buffers
        gradient_as_bucket_view=True,
    )


class StepNumbers:
    """What differs from step to step besides the batch: plain numbers, or tensors that a captured step reads."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device | None = None) -> None:
        """Prepare the optimiser.

        Args:
            device: where the numbers lie as tensors; None: plain numbers.
        """
        self._device, self._optimizer = device, optimizer
        self.decay: float | Tensor = 1.0
        """Decay of the EMA."""
        self.random: Sequence[float | Tensor] = ()
        """The task's random numbers."""
        self._lr: Tensor | None = None
        if device is not None:
            self.decay, self._lr = torch.ones((), device=device), torch.zeros((), device=device)
            for group in optimizer.param_groups:
                group["lr"] = self._lr
                if "capturable" in group:
                    group["capturable"] = True

    def set(self, lr: float, decay: float, random: Sequence[float]) -> None:
        """Set the numbers of the next step; `lr` goes to the optimiser."""
        if self._lr is None or not isinstance(self.decay, Tensor):
            self.decay, self.random = decay, random
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            return
        self._lr.fill_(lr)
        self.decay.fill_(decay)
        if not self.random:
            self.random = [torch.zeros((), device=self._device) for _ in random]
        for ours, value in zip(self.random, random, strict=True):
            assert isinstance(ours, Tensor)
            ours.fill_(value)
