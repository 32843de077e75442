"""One training step."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raydet.config import Config
from raydet.data import Batch
from raydet.distributed import Peers
from raydet.tasks.base import Task
from raydet.training.cuda_graph import Capture, Gradients, Replayed, capture_cuda
from raydet.training.optim import clip_gradients
from raydet.training.precision import autocast
from raydet.training.state import State

# torch 2.15 renamed the argument and warns of the old name.
_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
_NO_BUFFER_SYNC = {"forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers": False}


class Trainer:
    """One optimiser step on this worker; holds what is derived from the State and never saved."""

    def __init__(self, cfg: Config, task: Task, state: State, peers: Peers, capture: Capture | None = None) -> None:
        """Make ready for steps.

        Args:
            capture: what captures a step for replaying. None: a CUDA graph if precision.cuda_graph, else nothing.
        """
        self.cfg, self.task, self.state, self.peers = cfg, task, state, peers
        self.trained = [p for p in state.model.parameters() if p.requires_grad]
        self.network: nn.Module = torch.compile(state.model) if cfg.precision.compile else state.model  # type: ignore[assignment]
        if capture is None and cfg.precision.cuda_graph:
            capture = capture_cuda
        self._gradients = None if capture is None else Gradients(self.trained)
        self._run = self._work if capture is None else Replayed(self._work, capture)
        self._numbers = _Numbers(None if capture is None else peers.device, state.optimizer)
        if peers.world > 1 and capture is None:
            self.network = DistributedDataParallel(
                self.network,
                device_ids=[peers.device] if peers.device.type == "cuda" else None,
                **_NO_BUFFER_SYNC,  # type: ignore[arg-type]  # statistics are averaged at boundaries instead, see Peers.average_buffers
                gradient_as_bucket_view=True,
            )

    def step(self, micro_batches: list[Batch], lr: float) -> None:
        """Train on one global batch, of which `micro_batches` are this worker's share."""
        state = self.state
        decay = 1.0 if state.average is None else state.average.decay(state.step + 1)
        self._numbers.set(lr, decay, self.task.draws(state.epoch, state.epoch_steps))
        if self._gradients is not None:
            micro_batches = [batch.to(self.peers.device, non_blocking=True) for batch in micro_batches]
        self._run(micro_batches)
        state.step += 1
        state.epoch_steps += 1

    def _work(self, micro_batches: list[Batch]) -> None:
        """All that the device does in a step. Nothing in here may depend on a number of the host that changes."""
        state, task = self.state, self.task
        targets = [task.targets(batch) for batch in micro_batches]
        weight = self.peers.sum_(torch.stack([task.weight(t) for t in targets]).sum())
        for i, (batch, target) in enumerate(zip(micro_batches, targets, strict=True)):
            with self._no_sync(last=i == len(micro_batches) - 1):
                state.sums += self._backward(batch, target, weight, add=i > 0)
        if self._gradients is not None:
            self.peers.sum_(self._gradients.flat)
        state.scaler.unscale_(state.optimizer)
        clip_gradients(self.trained, self.cfg.optim.grad_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if self._gradients is None:
            state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update(self._numbers.decay)

    def _backward(self, batch: Batch, target: Any, weight: torch.Tensor, add: bool) -> torch.Tensor:
        images_B3HW, target = self.task.training_inputs(batch, target, self._numbers.draws)
        seeds_B = batch.seeds_B.to(self.peers.device, non_blocking=True)
        with autocast(self.cfg.precision, self.peers.device):
            outputs = self.network(images_B3HW, seeds_B)
        losses = self.task.loss(outputs, target, weight)
        if self._gradients is not None:
            self._gradients.take(self.state.scaler.scale(losses[0]), add=add)
        else:
            # DistributedDataParallel averages gradients, but these losses are shares of a sum.
            self.state.scaler.scale(losses[0] * self.peers.world).backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def _no_sync(self, last: bool) -> AbstractContextManager[None]:
        wrapped = isinstance(self.network, DistributedDataParallel)
        return self.network.no_sync() if wrapped and not last else nullcontext()  # type: ignore[operator,no-any-return]


class _Numbers:
    """What the schedule says of a step: plain numbers, or tensors on the device that a captured step reads."""

    def __init__(self, device: torch.device | None, optimizer: torch.optim.Optimizer) -> None:
        self._device, self._optimizer = device, optimizer
        self.decay: float | torch.Tensor = 1.0
        self.draws: Sequence[float | torch.Tensor] = ()
        self._lr: torch.Tensor | None = None
        if device is not None:
            self.decay, self._lr = torch.ones((), device=device), torch.zeros((), device=device)
            for group in optimizer.param_groups:
                group["lr"] = self._lr
                if "capturable" in group:
                    group["capturable"] = True

    def set(self, lr: float, decay: float, draws: Sequence[float]) -> None:
        """Take over the numbers of the next step."""
        if self._lr is None or not isinstance(self.decay, torch.Tensor):
            self.decay, self.draws = decay, draws
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            return
        self._lr.fill_(lr)
        self.decay.fill_(decay)
        if not self.draws:
            self.draws = [torch.zeros((), device=self._device) for _ in draws]
        for ours, value in zip(self.draws, draws, strict=True):
            assert isinstance(ours, torch.Tensor)
            ours.fill_(value)
