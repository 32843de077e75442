"""Scoring a model on a split, during training and after it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from raydet.config import Config
from raydet.data import Batch, TrainLoader
from raydet.distributed import WorkerGroup
from raydet.io.clock import clock
from raydet.tasks.base import Scorer, Task
from raydet.training.precision import autocast


class ScoringStopped(Exception):
    """Scoring was left before its end."""


@torch.no_grad()
def score(
    model: nn.Module,
    task: Task,
    index: Any,
    batches: Iterable[Batch],
    cfg: Config,
    workers: WorkerGroup,
    scorer: Scorer | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Return the metrics of `model` on a split, the same on all workers; each feeds it its own shard.

    The metrics: `eval_loss`, the task's own (AP, AP50, ... or top1, top5) and `eval_images_per_s`.

    Args:
        scorer: a fresh one of the task's. None: one that is not seen outside.
        stop: whether to leave it; asked after each batch, and given or not on all workers alike.

    Raises:
        ScoringStopped: some worker was told to stop.
    """
    started, images = clock(), 0
    model.eval()
    scorer = scorer or task.scorer(index)
    for batch in batches:
        with autocast(cfg.precision, workers.device):
            outputs = model(task.inputs(batch))
        scorer.add(outputs, batch)
        images += len(batch.rows_B)
        if stop is not None and stop():
            break
    if stop is not None and workers.sum_(torch.tensor([float(stop())], device=workers.device)).item():
        raise ScoringStopped
    figures = scorer.result(workers)
    total = workers.sum_(torch.tensor([float(images)], dtype=torch.float64, device=workers.device)).item()
    return {**figures, "eval_images_per_s": total / (clock() - started)}


@torch.no_grad()
def recalibrate(model: nn.Module, task: Task, loader: TrainLoader, cfg: Config, workers: WorkerGroup) -> None:
    """Re-estimate the BatchNorm statistics of `model` on evaluation.recalibrate_bn training images, in place.

    A plain mean over batches replaces the EMA, which is unsteady after small batches. The images are the
    first ones of epoch 0, as they are trained on.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain mean
        norm.train()
    seen = 0
    for micro_batches in loader.epoch(0):
        for batch in micro_batches:
            with autocast(cfg.precision, workers.device):
                model(task.inputs(batch))
        seen += cfg.global_batch
        if seen >= cfg.evaluation.recalibrate_bn:
            break
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
    workers.average_buffers(model)
