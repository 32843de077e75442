"""What a run is about to learn from, drawn before its first step: the varied images, the labels, the classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from raydet.config import Config, override
from raydet.data import Batch, EpochSampler, Index
from raydet.data.columns import Ints
from raydet.data.loading.batch_dataset import Maker
from raydet.exceptions import DataError
from raydet.runs.class_map import write_class_map
from raydet.visualization.boxes import caption, contact_sheet, draw_detections
from raydet.visualization.charts import content_of, labels_figure

_SHEETS = 3
_IMAGES = 16
"""Images of a sheet."""


def write_preview(cfg: Config, folder: Path, train: Index, val: Index, rows: Ints) -> None:
    """Write `classes.json`, `plots/labels.png` and `plots/train_batch_*.png` (the first images of
    epoch 0) to a run.

    Args:
        rows: those of the training split that are trained on.

    Raises:
        DataError: as training itself would, on the same images.
    """
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    splits = {"train": content_of(train), "val": content_of(val)}
    write_class_map(folder, train, {split: content.per_class for split, content in splits.items()})
    labels_figure(plots / "labels.png", splits, int(cfg.model.image_size or 0))
    maker = drawing_maker(cfg, train, rows)
    sampler = EpochSampler(rows, cfg.run.seed, cfg.global_batch, cfg.global_batch, drop_last=cfg.data.drop_last)
    steps = -(-_SHEETS * _IMAGES // cfg.global_batch)
    first = np.concatenate([step for _, step in zip(range(steps), sampler.global_batches(0), strict=False)])
    for i, start in enumerate(range(0, min(len(first), _SHEETS * _IMAGES), _IMAGES)):
        batch = maker[0, first[start : start + _IMAGES]]
        if isinstance(batch, DataError):
            raise batch
        drawn(train, batch).save(plots / f"train_batch_{i}.png", compress_level=1)  # 0.4 s less each


def drawing_maker(cfg: Config, index: Index, rows: Ints) -> Maker:
    """Return a maker that decodes by Pillow, whatever the run does: DALI would keep its memory in this process."""
    return Maker(override(cfg, {"data.backend": "torch"}), index, rows)


def drawn(index: Index, batch: Batch) -> Image.Image:
    """Return a training batch as a sheet of images with their boxes, or their class."""
    images = []
    for i in range(len(batch)):
        pixels_HW3 = np.ascontiguousarray(batch.images_B3HW[i].permute(1, 2, 0).numpy())
        if batch.labels_B is not None:
            images.append(caption(pixels_HW3, index.class_names[int(batch.labels_B[i])]))
            continue
        assert batch.boxes_BM4 is not None and batch.classes_BM is not None
        real_M = batch.classes_BM[i] >= 0
        ids = batch.classes_BM[i][real_M].tolist()
        names = [index.class_names[c] or str(int(index.category_ids[c])) for c in ids]
        images.append(draw_detections(pixels_HW3, batch.boxes_BM4[i][real_M].numpy(), names))
    return contact_sheet(images, columns=4)
