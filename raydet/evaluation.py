"""Scoring a model on a split: during training, and as the verb `raydet.evaluate`."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from raydet.config import Config
from raydet.data import Batch, EvalLoader, TrainLoader, open_split
from raydet.log import EVAL_BAD_PICTURES, clock
from raydet.peers import Peers
from raydet.precision import autocast, prepare_device
from raydet.restore import Source, open_source
from raydet.tasks import Task, make_task


@torch.no_grad()
def score(
    model: nn.Module, task: Task, index: Any, batches: Iterable[Batch], cfg: Config, peers: Peers
) -> dict[str, float]:
    """Return the metrics of `model` on a split, the same on all workers; each feeds it its own shard.

    The metrics: `eval_loss`, the task's own (AP, AP50, ... or top1, top5) and `eval_images_per_s`.
    """
    started, images = clock(), 0
    model.eval()
    scorer = task.scorer(index)
    for batch in batches:
        with autocast(cfg.precision, peers.device):
            outputs = model(task.inputs(batch))
        scorer.add(outputs, batch)
        images += len(batch.rows_B)
    figures = scorer.result(peers)
    total = peers.sum_(torch.tensor([float(images)], dtype=torch.float64, device=peers.device)).item()
    return {**figures, "eval_images_per_s": total / (clock() - started)}


@torch.no_grad()
def recalibrate(model: nn.Module, task: Task, loader: TrainLoader, cfg: Config, peers: Peers) -> None:
    """Estimate the BatchNorm statistics of `model` anew on evaluation.recalibrate_bn training images, in place.

    A plain mean over batches replaces the moving average, which is unsteady after small batches. The images are the
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
            with autocast(cfg.precision, peers.device):
                model(task.inputs(batch))
        seen += cfg.global_batch
        if seen >= cfg.evaluation.recalibrate_bn:
            break
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
    peers.average_buffers(model)


def evaluate(
    source: str | Path, changes: Mapping[str, Any] | None = None, *, split: Literal["train", "val", "test"] = "val"
) -> dict[str, float]:
    """Return the metrics of a trained model on a split of its data set, or of another.

    Args:
        source: a checkpoint, a run's folder (its best checkpoint), an exported ONNX file, or a recipe whose
            model.weights say what to load.
        changes: dotted configuration keys, e.g. `{"data.root": "/data/coco", "scaling.use_gpu": True}`.
        split: which split.

    Raises:
        ConfigError: a key or value that cannot be used. CheckpointError: a damaged checkpoint. DataError: bad data.
    """
    trained: Source = open_source(source, changes or {})
    cfg = trained.cfg
    device = prepare_device(cfg)
    index = open_split(cfg, split)
    trained.check_classes(index)
    model = trained.model.to(device)
    task = make_task(cfg, model, device)
    batches = EvalLoader(cfg, index)
    try:
        figures = score(model, task, index, batches, cfg, Peers(device=device))
        if math.isnan(figures["eval_loss"]):  # of a file that detects by itself: it has no logits
            del figures["eval_loss"]
        return figures | ({EVAL_BAD_PICTURES: float(len(batches.bad))} if cfg.data.on_bad == "skip" else {})
    finally:
        batches.close()
