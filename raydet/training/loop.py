"""The training loop. It knows no Ray: it yields at every boundary, and whoever iterates logs, saves or stops.

A step is the same whatever the number of workers: losses are divided by the positives (or images) of the global batch,
gradients are added up, and every random draw belongs to a sample.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import nn

from raydet.config import Config
from raydet.data import Batch
from raydet.distributed import WorkerGroup
from raydet.exceptions import NonFiniteLoss
from raydet.io.clock import clock
from raydet.runs.run_log import SKIPPED_STEPS
from raydet.tasks.base import Task
from raydet.training.finite_steps import SkippedStep
from raydet.training.memory import most_memory_bytes
from raydet.training.schedule import learning_rate
from raydet.training.scoring import ScoringStopped
from raydet.training.state import State
from raydet.training.step import Trainer
from raydet.training.wishes import Wish


@dataclass(frozen=True)
class TrainingReport:
    """What happened since the last one."""

    kind: Literal["log", "save", "epoch", "skip", "reload"]
    """log: figures of the last steps; save: a checkpoint is due; epoch: an epoch is done, and all figures of it; skip:
    steps were taken back; reload: the state was set back to a checkpoint."""
    metrics: dict[str, float] = field(default_factory=dict)
    save: bool = False
    """A checkpoint is due."""
    best: bool = False
    """The score is the best so far."""
    last: bool = False
    """Training is over."""
    stopped: bool = False
    """Training ends here because it was asked to."""
    skipped: tuple[SkippedStep, ...] = ()
    """Steps that were taken back for a fault, with this worker's images."""


class Batches(Protocol):
    """Where training batches come from."""

    steps_per_epoch: int

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Yield, step by step, this worker's share of the global batch as a list of micro-batches."""
        ...


Evaluator = Callable[[nn.Module], dict[str, float]]
"""Scores the model at the end of an epoch."""
GoBack = Callable[[], None]
"""Sets the state back to the newest checkpoint, or to what it was at the start."""
Stop = Callable[[], bool]
"""Whether this worker was asked to stop."""
_MOST_RELOADS = 3


class _Stopping(Exception):
    """A worker was asked to stop."""


class _NotFinite(Exception):
    """Too many steps in a row were taken back, or the weights themselves are not finite."""


def epochs(
    cfg: Config,
    task: Task,
    state: State,
    batches: Batches,
    evaluate: Evaluator,
    workers: WorkerGroup,
    go_back: GoBack | None = None,
    stop: Stop = lambda: False,
) -> Iterator[TrainingReport]:
    """Train `state` in place to the end of the schedule, yielding at each boundary.

    `state` is exactly what a checkpoint holds: started from a saved one, the rest equals an undisturbed run. Steps
    whose loss or gradient is not finite are taken back; after run.nan_patience of them in a row training goes back, and
    from there on the learning rate is half of what it was.

    Raises:
        NonFiniteLoss: that happened again after three times, or there is no way back; says what to change.
    """
    trainer, due = Trainer(cfg, task, state, workers), _Due(cfg, workers, stop)
    while state.epoch < cfg.schedule.total_epochs and not _stale(cfg, state):
        try:
            yield from _epoch_and_score(cfg, trainer, batches, evaluate, due)
        except _Stopping:
            workers.average_buffers(*state.models())
            yield TrainingReport("save", save=state.is_finite(), stopped=True)
            return
        except _NotFinite as met:
            factor, reloads = state.lr_factor / 2, state.reloads + 1
            if go_back is None or reloads > _MOST_RELOADS:
                raise _given_up(cfg, state, met) from None
            go_back()
            state.lr_factor, state.reloads = factor, reloads
            trainer.reset()
            yield TrainingReport("reload")


def _given_up(cfg: Config, state: State, met: _NotFinite) -> NonFiniteLoss:
    after = f" after {state.reloads} reloads" if state.reloads else ""
    lr = learning_rate(cfg, state.epoch) * state.lr_factor
    return NonFiniteLoss(
        f"{met} in epoch {state.epoch + 1}, step {state.epoch_steps}{after}, at learning rate {lr:g}; the images are "
        "named in diagnostics/skipped_steps.jsonl. Lower optim.lr or lengthen schedule.warmup_epochs: under this "
        "run.name training then continues from the newest checkpoint"
    )


def _epoch_and_score(
    cfg: Config, trainer: Trainer, batches: Batches, evaluate: Evaluator, due: "_Due"
) -> Iterator[TrainingReport]:
    """Train to the end of the epoch under way and score it."""
    state, task, workers = trainer.state, trainer.task, trainer.workers
    figures: dict[str, float] = {}
    for report in _epoch(cfg, trainer, batches, due):
        figures = report.metrics or figures
        yield report
    figures |= _epoch_losses(task, state, workers)
    before = state.skipped, state.sums.clone()
    state.epoch, state.epoch_steps, state.skipped = state.epoch + 1, 0, 0
    state.sums.zero_()
    workers.average_buffers(*state.models())
    _check_finite(state)
    last = state.epoch >= cfg.schedule.total_epochs
    scored = state.epoch >= cfg.run.eval_after and state.epoch % cfg.run.eval_epochs == 0
    best = False
    if scored or last:
        try:
            figures |= evaluate(state.evaluated)
        except ScoringStopped:  # taken up again, the epoch has no step left, but its score
            state.epoch, state.epoch_steps, state.skipped = state.epoch - 1, batches.steps_per_epoch, before[0]
            state.sums.copy_(before[1])
            raise _Stopping from None
        best = _note_score(state, figures[task.score])
    last = last or _stale(cfg, state)
    # The best must be saved when it is found: it is gone an epoch later.
    save = last or best or state.epoch % cfg.run.checkpoint_epochs == 0
    yield TrainingReport("epoch", figures, save=save, best=best, last=last)
    if save:
        due.saved()


def _check_finite(state: State) -> None:
    """Let nothing be saved or scored that is not finite."""
    if not state.is_finite():
        raise _NotFinite("weights are not finite")


def _note_score(state: State, score: float) -> bool:
    """Take down the score of an evaluation; return whether it is the best so far."""
    best = math.isfinite(score) and (state.best_score is None or score > state.best_score)
    state.best_score = score if best else state.best_score
    state.evaluations_since_best = 0 if best else state.evaluations_since_best + 1
    return best


def _stale(cfg: Config, state: State) -> bool:
    patience = cfg.run.early_stop
    return patience is not None and state.evaluations_since_best >= patience


def _epoch(cfg: Config, trainer: Trainer, batches: Batches, due: "_Due") -> Iterator[TrainingReport]:
    """Train to the end of the epoch under way; yield the figures of every log_steps steps, and saves that are due."""
    state, workers = trainer.state, trainer.workers
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
        lr = learning_rate(cfg, state.epoch + done) * state.lr_factor
        trainer.step(micro_batches, lr, due.wish())
        ends = state.epoch_steps == batches.steps_per_epoch
        logs = state.epoch_steps % cfg.run.log_steps == 0 or ends
        agreed = trainer.wishes.agreed()
        counted = cfg.run.checkpoint_steps is not None and state.step % cfg.run.checkpoint_steps == 0
        saves = (counted or agreed.save) and not ends and not agreed.stop  # whoever stops saves too
        if logs or saves or agreed.stop:
            yield from _skipped(cfg, trainer, meter)
        if logs:
            yield TrainingReport("log", meter.read(lr))
        if saves:
            workers.average_buffers(*state.models())
            _check_finite(state)
            yield TrainingReport("save", save=True)
            due.saved()
            meter.start_clock()
        if agreed.stop:
            raise _Stopping
    # Nothing is left in it, but only an exhausted source lets its loader processes rest.
    next(source, None)


class _Due:
    """What this worker wants: to stop when it is asked to, and rank 0 a checkpoint when the last one is old."""

    def __init__(self, cfg: Config, workers: WorkerGroup, stop: Stop) -> None:
        minutes = cfg.run.checkpoint_minutes
        self._after_s = math.inf if minutes is None or workers.rank else 60 * minutes
        self._stop = stop
        self.saved()

    def saved(self) -> None:
        """Count from here."""
        self._saved = clock()

    def wish(self) -> Wish:
        """Return it, before a step."""
        return Wish(stop=self._stop(), save=clock() - self._saved >= self._after_s)


def _skipped(cfg: Config, trainer: Trainer, meter: "_Meter") -> Iterator[TrainingReport]:
    """Count the steps that were taken back since this was asked last, and name those of a fault."""
    count, faults = trainer.finite.read()
    trainer.state.skipped += count
    meter.skipped += count
    if faults:
        yield TrainingReport("skip", skipped=tuple(faults))
    if trainer.state.skipped_in_row >= cfg.run.nan_patience:
        raise _NotFinite(f"the loss or its gradient is not finite in {trainer.state.skipped_in_row} steps in a row,")


def _norms_move_to(cfg: Config, steps_per_epoch: int) -> float:
    """Return the step from which BatchNorm's statistics stay as they are; infinity: never."""
    share = None if cfg.quantization is None else cfg.quantization.freeze_bn_after
    return math.inf if share is None else share * cfg.schedule.total_epochs * steps_per_epoch


class _Meter:
    """Loss and speed since it was last read. Reading is the only synchronisation with the device."""

    def __init__(self, cfg: Config, trainer: Trainer) -> None:
        self.cfg, self.trainer = cfg, trainer
        self._sums, self._read_at = trainer.state.sums.clone(), trainer.state.step
        self.skipped = 0
        """Steps since the last reading that count for nothing."""
        self.start_clock()

    def start_clock(self) -> None:
        """Measure speed from here on."""
        self.waiting = 0.0
        self._wall, self._cpu, self._timed_from = clock(), time.process_time(), self.trainer.state.step

    def read(self, lr: float) -> dict[str, float]:
        """Return the figures since the last call, over all workers, and start again."""
        state, workers, names = self.trainer.state, self.trainer.workers, self.trainer.task.loss_names
        summed = workers.sum_(state.sums - self._sums).tolist()
        wall, cpu = clock() - self._wall, time.process_time() - self._cpu
        steps, timed = state.step - self._read_at, state.step - self._timed_from
        counted = steps - self.skipped
        values = {f"train_{name}": value / counted for name, value in zip(names, summed, strict=True) if counted}
        values |= {"lr": lr, "memory_bytes": most_memory_bytes(workers.device)}
        if timed:
            values |= {
                "images_per_s": timed * self.cfg.global_batch / wall,
                "step_s": wall / timed,
                "step_cpu_s": cpu / timed,
                "data_wait": self.waiting / wall,
            }
        if state.scaler.is_enabled():
            values["loss_scale"] = state.scaler.get_scale()
        self._sums, self._read_at, self.skipped = state.sums.clone(), state.step, 0
        self.start_clock()
        return values


def _epoch_losses(task: Task, state: State, workers: WorkerGroup) -> dict[str, float]:
    summed, counted = workers.sum_(state.sums.clone()).tolist(), state.epoch_steps - state.skipped
    losses = {f"train_{name}": value / counted for name, value in zip(task.loss_names, summed, strict=True) if counted}
    return losses | ({SKIPPED_STEPS: float(state.skipped)} if state.skipped else {})
