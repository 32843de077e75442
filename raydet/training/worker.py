"""What one worker does in a run: open data, take up the newest checkpoint, train, write, save. Knows no Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from raydet.config import Config, to_dict
from raydet.data import EvalLoader, Index, TrainLoader
from raydet.data.open_data import open_data
from raydet.distributed import WorkerGroup
from raydet.exceptions import NonFiniteLoss, Stopped
from raydet.io.jsonable import JSON
from raydet.quantization import uncalibrated
from raydet.runs import checkpoint_store, diagnostics, stop_request
from raydet.runs.bad_images import write_bad_images
from raydet.runs.layout import CHECKPOINTS
from raydet.runs.run_log import BAD_IMAGES, EVAL_BAD_IMAGES, RunLog
from raydet.tasks.base import Task
from raydet.tasks.build import make_task
from raydet.training.calibrate import calibrate_on
from raydet.training.finite_steps import SkippedStep
from raydet.training.loop import TrainingReport, epochs
from raydet.training.memory import keep_freed_memory
from raydet.training.precision import prepare_device
from raydet.training.resume import load_weights, newest_path, restore
from raydet.training.scoring import recalibrate, score
from raydet.training.state import State, build_model, new_state
from raydet.visualization.preview import write_preview


def train(
    cfg: Config,
    folder: Path,
    workers: WorkerGroup,
    tell: Callable[[dict[str, float]], None],
    threads: int | None = None,
) -> None:
    """Train to the end of the schedule, from the newest valid checkpoint in `folder` where there is one.

    Args:
        cfg: with model.image_size and all paths resolved.
        folder: the run's folder, seen by all workers; rank 0 writes.
        tell: called with an epoch's metrics on every worker, once an epoch.
        threads: CPU threads for torch in this worker; None: as many as torch takes by itself.

    Raises:
        Stopped: the run was asked to (raydet.runs.stop_request); its last step is saved.
        NonFiniteLoss: training cannot go on. StorageFull: no room for a checkpoint.
    """
    made = set_up(cfg, folder, workers, threads)
    task, state, val_index, train_loader = made.task, made.state, made.val_index, made.loader
    _show_data(cfg, folder, workers, state, made.train_index, val_index, train_loader)
    val_loader = EvalLoader(cfg, val_index, workers.rank, workers.world_size)

    def evaluate(evaluated: torch.nn.Module) -> dict[str, float]:
        if cfg.evaluation.recalibrate_bn:
            recalibrate(evaluated, task, train_loader, cfg, workers)
        return score(evaluated, task, val_index, val_loader, cfg, workers, stop=stop)

    stop = stop_request.watch(folder)
    try:
        with _diary(cfg, task, folder, state, workers) as diary:
            go_back = partial(_go_back, cfg, folder, made, workers)
            for report in epochs(cfg, task, state, train_loader, evaluate, workers, go_back, stop):
                skipped = workers.gather(report.skipped) if report.kind == "skip" else []
                ends_epoch = report.kind == "epoch"
                if ends_epoch:
                    report.metrics.update(_left_out(cfg, folder, workers, train_loader, val_loader))
                if diary is not None:
                    diary.write(report, train_loader.steps_per_epoch, _lines(skipped, made.train_index))
                if ends_epoch:
                    tell(report.metrics)
                if report.stopped:
                    raise Stopped(f"stopped after step {state.step}")
    finally:
        train_loader.close()
        val_loader.close()


def _newest(folder: Path, workers: WorkerGroup) -> Path | None:
    """Return the newest valid checkpoint, the same on all workers."""
    newest = workers.share(newest_path(folder) if workers.rank == 0 else None)
    return None if newest is None else Path(newest)


def _go_back(cfg: Config, folder: Path, made: "WorkerSetup", workers: WorkerGroup) -> None:
    """Set the state to the newest checkpoint's, or to that in which the run began."""
    newest = _newest(folder, workers)
    if newest is not None:
        restore(made.state, newest)
    else:
        _, begun = _beginning(cfg, made.train_index, workers, with_weights=True)
        made.state.restore(begun.tensors(), begun.record())


def _lines(of_workers: list[tuple[SkippedStep, ...]], index: Index) -> list[dict[str, JSON]]:
    """Name the images of all workers in each step that was taken back."""
    found = []
    for shares in zip(*of_workers, strict=True):
        names = [index.names[row] for share in shares for row in share.rows]
        found.append(diagnostics.skipped(shares[0].epoch + 1, shares[0].step + 1, names))
    return found


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker trains with."""

    train_index: Index
    val_index: Index
    task: Task
    state: State
    loader: TrainLoader
    """To be closed."""


def set_up(cfg: Config, folder: Path, workers: WorkerGroup, threads: int | None) -> WorkerSetup:
    """Return what `train`, whose arguments these are, begins with."""
    _prepare(cfg, workers, threads)
    data = open_data(cfg, ("train", "val")).check()
    train_index, val_index = data.splits["train"], data.splits["val"]
    newest = _newest(folder, workers)
    loader = TrainLoader(cfg, train_index, workers.rank, workers.world_size)
    task, state = _beginning(cfg, train_index, workers, with_weights=newest is None)
    if newest is not None:
        restore(state, newest)
    return WorkerSetup(train_index, val_index, task, state, loader)


def _beginning(cfg: Config, index: Index, workers: WorkerGroup, *, with_weights: bool) -> tuple[Task, State]:
    """Return the task, and the State in which the run begins: the same on every worker and at every call."""
    model = build_model(cfg, index.num_classes)
    task = make_task(cfg, model, workers.device)
    if with_weights:
        load_weights(cfg, model)
        if uncalibrated(model):
            calibrate_on(index, cfg, model, task, workers)
    state = new_state(cfg, model, len(task.loss_names), workers.device)
    state.extra = {
        "config": to_dict(cfg),
        "classes": {"names": list(index.class_names), "ids": [int(i) for i in index.category_ids]},
    }
    return task, state


def _prepare(cfg: Config, workers: WorkerGroup, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    prepare_device(cfg, workers.device)
    if workers.device.type == "cpu":
        keep_freed_memory()


def _show_data(
    cfg: Config, folder: Path, workers: WorkerGroup, state: State, train: Index, val: Index, loader: TrainLoader
) -> None:
    if workers.rank == 0 and state.step == 0:
        write_preview(cfg, folder, train, val, loader.rows)


def _left_out(cfg: Config, folder: Path, workers: WorkerGroup, train: TrainLoader, val: EvalLoader) -> dict[str, float]:
    """Count the unreadable images that any worker has left out so far; rank 0 names them in bad_images.txt."""
    if cfg.data.on_bad == "fail":
        return {}
    found = [{k: v for one in workers.gather(loader.bad) for k, v in one.items()} for loader in (train, val)]
    if workers.rank == 0 and any(found):
        write_bad_images(folder, dict(zip(("train", "val"), found, strict=True)))
    return {BAD_IMAGES: float(len(found[0])), EVAL_BAD_IMAGES: float(len(found[1]))}


@contextmanager
def _diary(cfg: Config, task: Task, folder: Path, state: State, workers: WorkerGroup) -> "Iterator[_Diary | None]":
    """Give rank 0 its diary, closed at the end, in which is written too that training gave up; the others have none."""
    if workers.rank:
        yield None
        return
    diary = _Diary(cfg, task, folder, state)
    try:
        yield diary
    except NonFiniteLoss as error:
        diagnostics.write_given_up(folder, str(error))
        raise
    finally:
        diary.log.close()


class _Diary:
    """What rank 0 writes: logs and checkpoints."""

    def __init__(self, cfg: Config, task: Task, folder: Path, state: State) -> None:
        self.cfg, self.task, self.state, self.checkpoints = cfg, task, state, folder / CHECKPOINTS
        self.log = RunLog(folder, cfg.task, state.step)
        self.log.parameters(to_dict(cfg))
        diagnostics.note_new_attempt(folder, state.step)
        self.best = self._find_best()

    def write(self, report: TrainingReport, steps_per_epoch: int, skipped: list[dict[str, JSON]]) -> None:
        """Write down one report; `skipped` names the steps that were taken back.

        The line comes before the checkpoint: a run that is taken up drops the lines of what was not saved, but one that
        a kill between the two has kept from being written would be missing for ever.
        """
        if report.kind == "skip":
            diagnostics.write_skipped_steps(self.checkpoints.parent, skipped)
        elif report.kind == "reload":
            self.log.back_to(self.state.step)
            back = diagnostics.back_to(self.state.step, self.state.lr_factor)
            diagnostics.write_skipped_steps(self.checkpoints.parent, [back])
        elif report.kind == "log":
            self.log.train_step(self.state.epoch, steps_per_epoch, self.state.epoch_steps - 1, report.metrics)
        elif report.kind == "epoch":
            self.log.epoch(self.state.epoch, self.state.step, report.metrics)
        if report.save:
            self._save(report)
        if report.stopped:
            self.log.flush()
        if report.last:
            self.log.summary(report.metrics)

    def _save(self, report: TrainingReport) -> None:
        state, folder = self.state, self.checkpoints
        checkpoint_store.save(folder, state.step, state.tensors(), state.record(), report.metrics, self.best)
        self.best = self._find_best()
        checkpoint_store.prune(folder, self.cfg.run.keep, self.best)

    def _find_best(self) -> Path | None:
        best = checkpoint_store.best(self.checkpoints, self.task.score, "max")
        return None if best is None else best.path
