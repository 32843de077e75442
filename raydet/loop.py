"""The training loop. It knows no Ray: it yields at every boundary, and whoever iterates logs, saves or stops.

A step is the same whatever the number of workers: losses are divided by the positives (or images) of the global batch,
gradients are added up, and every random draw belongs to a sample.
"""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raydet.config import Config
from raydet.data import Batch
from raydet.graph import Capture, Gradients, Replayed, capture_cuda
from raydet.log import clock
from raydet.memory import most_memory_bytes
from raydet.optim import clip_gradients, learning_rate
from raydet.peers import Peers
from raydet.precision import autocast
from raydet.state import State
from raydet.tasks import Task


@dataclass(frozen=True)
class Report:
    """What happened since the last one."""

    kind: Literal["log", "save", "epoch"]
    """log: figures of the last steps; save: a checkpoint is due; epoch: an epoch is done, and all figures of it."""
    metrics: dict[str, float] = field(default_factory=dict)
    save: bool = False
    """A checkpoint is due."""
    best: bool = False
    """The score is the best so far."""
    last: bool = False
    """Training is over."""


class Batches(Protocol):
    """Where training batches come from."""

    steps_per_epoch: int

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Yield, step by step, this worker's share of the global batch as a list of micro-batches."""
        ...


Evaluator = Callable[[nn.Module], dict[str, float]]
"""Scores the model at the end of an epoch."""


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


def epochs(
    cfg: Config, task: Task, state: State, batches: Batches, evaluate: Evaluator, peers: Peers
) -> Iterator[Report]:
    """Train `state` in place to the end of the schedule, yielding at each boundary.

    `state` is exactly what a checkpoint holds: started from a saved one, the rest equals an undisturbed run.

    Raises:
        FloatingPointError: the loss is not finite; names the epoch, the step and the learning rate.
    """
    trainer = Trainer(cfg, task, state, peers)
    while state.epoch < cfg.schedule.total_epochs and not _stale(cfg, state):
        figures: dict[str, float] = {}
        for report in _epoch(cfg, trainer, batches):
            figures = report.metrics or figures
            yield report
        figures |= _epoch_losses(task, state, peers)
        state.epoch, state.epoch_steps = state.epoch + 1, 0
        state.sums.zero_()
        peers.average_buffers(*state.models())
        last = state.epoch >= cfg.schedule.total_epochs
        due = state.epoch >= cfg.run.eval_after and state.epoch % cfg.run.eval_epochs == 0
        best = False
        if due or last:
            figures |= evaluate(state.evaluated)
            best = _note_score(state, figures[task.score])
        last = last or _stale(cfg, state)
        # The best must be saved when it is found: it is gone an epoch later.
        save = last or best or state.epoch % cfg.run.checkpoint_epochs == 0
        yield Report("epoch", figures, save=save, best=best, last=last)


def _note_score(state: State, score: float) -> bool:
    """Take down the score of an evaluation; return whether it is the best so far."""
    best = math.isfinite(score) and (state.best_score is None or score > state.best_score)
    state.best_score = score if best else state.best_score
    state.evaluations_since_best = 0 if best else state.evaluations_since_best + 1
    return best


def _stale(cfg: Config, state: State) -> bool:
    patience = cfg.run.early_stop
    return patience is not None and state.evaluations_since_best >= patience


def _epoch(cfg: Config, trainer: Trainer, batches: Batches) -> Iterator[Report]:
    """Train to the end of the epoch under way; yield the figures of every log_steps steps, and saves that are due."""
    state, peers = trainer.state, trainer.peers
    meter = _Meter(cfg, trainer)
    state.train()
    source = iter(batches.epoch(state.epoch, state.epoch_steps))
    norms_move_to = _norms_move_to(cfg, batches.steps_per_epoch)
    while state.epoch_steps < batches.steps_per_epoch:
        if state.step >= norms_move_to:
            state.freeze_norms()
            norms_move_to = math.inf
        waited = clock()
        micro_batches = next(source)
        meter.waiting += clock() - waited
        done = state.epoch_steps / batches.steps_per_epoch if cfg.schedule.per_step else 0.0
        lr = learning_rate(cfg, state.epoch + done)
        trainer.step(micro_batches, lr)
        ends = state.epoch_steps == batches.steps_per_epoch
        if state.epoch_steps % cfg.run.log_steps == 0 or ends:
            yield Report("log", meter.read(lr))
        if cfg.run.checkpoint_steps and state.step % cfg.run.checkpoint_steps == 0 and not ends:
            peers.average_buffers(*state.models())
            yield Report("save", save=True)
            meter.start_clock()
    # Nothing is left in it, but only an exhausted source lets its loader processes rest.
    next(source, None)


def _norms_move_to(cfg: Config, steps_per_epoch: int) -> float:
    """Return the step from which BatchNorm's statistics stay as they are; infinity: never."""
    share = None if cfg.quantization is None else cfg.quantization.freeze_bn_after
    return math.inf if share is None else share * cfg.schedule.total_epochs * steps_per_epoch


class _Meter:
    """Loss and speed since it was last read. Reading is the only synchronisation with the device."""

    def __init__(self, cfg: Config, trainer: Trainer) -> None:
        self.cfg, self.trainer = cfg, trainer
        self._sums, self._read_at = trainer.state.sums.clone(), trainer.state.step
        self.start_clock()

    def start_clock(self) -> None:
        """Measure speed from here on."""
        self.waiting = 0.0
        self._wall, self._cpu, self._timed_from = clock(), time.process_time(), self.trainer.state.step

    def read(self, lr: float) -> dict[str, float]:
        """Return the figures since the last call, over all workers, and start anew.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        state, peers, names = self.trainer.state, self.trainer.peers, self.trainer.task.loss_names
        summed = peers.sum_(state.sums - self._sums).tolist()
        wall, cpu = clock() - self._wall, time.process_time() - self._cpu
        steps, timed = state.step - self._read_at, state.step - self._timed_from
        values = {f"train_{name}": value / steps for name, value in zip(names, summed, strict=True)}
        if not all(math.isfinite(value) for value in summed):
            raise FloatingPointError(
                f"training loss is {summed[0] / steps} in epoch {state.epoch + 1}, step {state.epoch_steps}, "
                f"at learning rate {lr:g}; lower optim.lr or lengthen schedule.warmup_epochs"
            )
        values |= {"lr": lr, "memory_bytes": most_memory_bytes(peers.device)}
        if timed:
            values |= {
                "images_per_s": timed * self.cfg.global_batch / wall,
                "step_s": wall / timed,
                "step_cpu_s": cpu / timed,
                "data_wait": self.waiting / wall,
            }
        if state.scaler.is_enabled():
            values["loss_scale"] = state.scaler.get_scale()
        self._sums, self._read_at = state.sums.clone(), state.step
        self.start_clock()
        return values


def _epoch_losses(task: Task, state: State, peers: Peers) -> dict[str, float]:
    summed = peers.sum_(state.sums.clone()).tolist()
    return {f"train_{name}": value / state.epoch_steps for name, value in zip(task.loss_names, summed, strict=True)}
