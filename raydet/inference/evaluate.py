"""The verb `raydet.evaluate`: a trained model scored on a split."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from raydet.data import EvalLoader
from raydet.data.open_data import open_data
from raydet.distributed import WorkerGroup
from raydet.exceptions import one_line
from raydet.inference.trained_model import TrainedModel, open_source
from raydet.runs.run_log import EVAL_BAD_IMAGES
from raydet.tasks.build import make_task
from raydet.training.precision import prepare_device
from raydet.training.scoring import score

_MOST_NOTES = 3
"""Lines about the split that are shown; `raydet check` shows all."""


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
    trained: TrainedModel = open_source(source, changes or {})
    cfg = trained.cfg
    device = prepare_device(cfg)
    data = open_data(cfg, (split,)).check()
    for note in data.notes[:_MOST_NOTES]:
        print(f"note      {one_line(note, 220)}", file=sys.stderr, flush=True)
    index = trained.in_its_classes(data.splits[split])
    model = trained.model.to(device)
    task = make_task(cfg, model, device)
    batches = EvalLoader(cfg, index)
    try:
        figures = score(model, task, index, batches, cfg, WorkerGroup(device=device))
        if math.isnan(figures["eval_loss"]):  # of a file that detects by itself: it has no logits
            del figures["eval_loss"]
        return figures | ({EVAL_BAD_IMAGES: float(len(batches.bad))} if cfg.data.on_bad == "skip" else {})
    finally:
        batches.close()
