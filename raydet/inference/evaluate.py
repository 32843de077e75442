"""The verb `raydet.evaluate`: a trained model scored on a split."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydet.data import DetectionIndex, EvalLoader, Index
from raydet.data.formats.split_names import Split
from raydet.data.open_data import open_data
from raydet.distributed import WorkerGroup
from raydet.exceptions import one_line
from raydet.inference.result_folder import METRICS, ResultFolder, coco_rows
from raydet.inference.trained_model import TrainedModel, open_source
from raydet.io.files import replace_file
from raydet.io.jsonable import strict
from raydet.runs.run_log import EVAL_BAD_IMAGES
from raydet.tasks.build import make_task
from raydet.tasks.detection import DetectionScorer
from raydet.training.precision import prepare_device
from raydet.training.scoring import score

_MOST_NOTES = 3
"""Lines about the split that are shown; `raydet check` shows all."""


def evaluate(
    source: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    split: Split = "val",
    out: str | Path | None = None,
) -> dict[str, float]:
    """Return the metrics of a trained model on a split of its data set, or of another.

    Args:
        source: a checkpoint, a run's folder (its best checkpoint), an exported ONNX file, or a recipe whose
            model.weights say what to load.
        changes: dotted configuration keys, e.g. `{"data.root": "/data/coco", "scaling.use_gpu": True}`.
        split: which split.
        out: folder for `metrics.json` and, of a detector, all detections as `predictions.json` in COCO's results format
            with the data set's ids, and `images.json`, its images and classes. None: nothing is written.

    Raises:
        ConfigError: a key or value that cannot be used. CheckpointError: a damaged checkpoint. DataError: bad data, or
            a split without boxes. Refused: writing to `out` could lose a file.
    """
    trained: TrainedModel = open_source(source, changes or {})
    cfg = trained.cfg
    device = prepare_device(cfg)
    data = open_data(cfg, (split,)).check()
    for note in data.notes[:_MOST_NOTES]:
        print(f"note      {one_line(note, 220)}", file=sys.stderr, flush=True)
    index = trained.in_its_classes(data.splits[split])
    results = None if out is None else ResultFolder(Path(out), [], [Path(index.file)])
    model = trained.model.to(device)
    task = make_task(cfg, model, device)
    batches = EvalLoader(cfg, index)
    scorer: Any = task.scorer(index)  # type: ignore[arg-type]
    try:
        figures = score(model, task, index, batches, cfg, WorkerGroup(device=device), scorer)
        if math.isnan(figures["eval_loss"]):  # of a file that detects by itself: it has no logits
            del figures["eval_loss"]
        figures |= {EVAL_BAD_IMAGES: float(len(batches.bad))} if cfg.data.on_bad == "skip" else {}
        if results is not None:
            _write(results, scorer, index, figures)
        return figures
    finally:
        batches.close()
        if results is not None:
            results.close()


def _write(results: ResultFolder, scorer: Any, index: Index, figures: dict[str, float]) -> None:
    if isinstance(scorer, DetectionScorer) and isinstance(index, DetectionIndex):
        for found in scorer.found:
            results.add(coco_rows(found.image_ids, found.boxes_xywh, index.category_ids[found.labels], found.scores))
        rows = zip(index.ids.tolist(), index.names.tolist(), index.sizes.tolist(), strict=True)
        images = [{"id": i, "file_name": name, "width": width, "height": height} for i, name, (height, width) in rows]
        classes = zip(index.category_ids.tolist(), index.class_names, strict=True)
        results.write_images(images, [{"id": i, "name": str(name) or str(i)} for i, name in classes])
        results.finish()
    replace_file(results.folder / METRICS, json.dumps(strict(figures), indent=1) + "\n", 0o666)  # type: ignore[arg-type]
