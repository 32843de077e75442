"""What looking through a data set brought to light: its splits as they were seen, their faults, what to do."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from raydet.config import Config, override
from raydet.data import Batch, DetectionIndex, Index
from raydet.data.columns import spread_over
from raydet.data.image_checks import Looked
from raydet.data.left_out import DuplicateGroup
from raydet.data.loading.samples import EVAL
from raydet.data.validation.faults import Faults
from raydet.exceptions import DataError
from raydet.visualization.charts import Content, Floats, content_of, coverage_figure, labels_figure
from raydet.visualization.preview import drawing_maker, drawn

_IMAGES = 16
"""Of a split, drawn with their truth."""
_SIDE = 384
"""Pixels they are drawn at."""


@dataclass
class AuditedSplit:
    """One split as it was found."""

    name: str
    index: Index
    seen: list[Looked] = field(default_factory=list)

    @cached_property
    def content(self) -> Content:
        """Its figures."""
        return content_of(self.index)


@dataclass
class Audit:
    """What `check` found."""

    cfg: Config
    faults: Faults
    splits: list[AuditedSplit]
    duplicates: list[DuplicateGroup] = field(default_factory=list)
    best_iou: dict[int, Floats] = field(default_factory=dict)
    """Detection: IoU of training boxes with their best anchor, by input size."""
    unusable: list[tuple[str, str, str]] = field(default_factory=list)
    """Split, name and rule of images that have entered no index."""
    leaks: int = 0
    """Groups of images that are in two splits."""
    verdict: DataError | None = None
    """What `fit`, or `evaluate` of its test split, would refuse it with; None: neither would."""
    fit_verdict: DataError | None = None
    """What `fit` would refuse it with."""

    @property
    def anchors(self) -> dict[int, float]:
        """Detection: share of training boxes with an anchor of IoU 0.5, by input size."""
        return {size: float((iou_N >= 0.5).mean()) for size, iou_N in self.best_iou.items()}

    @property
    def quarantine(self) -> list[tuple[str, str, str]]:
        """Split, name and rule of each image that cannot be used, those of a list that was given (DIR-W11) first."""
        found = list(self.unusable)
        for split in self.splits:
            for one in split.seen:
                rule = next((rule for rule, _, _ in one.notes if "-E" in rule), None)
                found += [] if rule is None else [(split.name, one.name, rule)]
        return found


def draw_plots(audit: Audit, folder: Path) -> list[Path]:
    """Draw labels.png, SPLIT.png (images with their truth) and, for detection, anchors.png; return their paths."""
    made = []
    side = int(audit.cfg.model.image_size or 0)
    if audit.splits:
        labels_figure(folder / "labels.png", {s.name: s.content for s in audit.splits}, side)
        made.append(folder / "labels.png")
    for split in audit.splits:
        if (drawn_sheet := _sheet(audit.cfg, split)) is not None:
            drawn_sheet.save(folder / f"{split.name}.png", compress_level=1)
            made.append(folder / f"{split.name}.png")
    if audit.best_iou:
        coverage_figure(folder / "anchors.png", audit.best_iou, side)
        made.append(folder / "anchors.png")
    return made


def _sheet(cfg: Config, split: AuditedSplit) -> Image.Image | None:
    """Some sound images, spread over the split, with their truth as it stands in the data; None if there is none."""
    sound = np.array([one.row for one in split.seen if not one.broken], np.int64)
    if isinstance(split.index, DetectionIndex):
        annotated = sound[np.diff(split.index.first)[sound] > 0]
        sound = annotated if len(annotated) else sound
    if not len(sound):
        return None
    rows = sound[spread_over(len(sound), _IMAGES)]
    small = override(cfg, {"model.image_size": _SIDE, "data.on_bad": "skip", "data.max_boxes": None})
    batch = drawing_maker(small, split.index, rows)[EVAL, rows]
    return drawn(split.index, batch) if isinstance(batch, Batch) and len(batch) else None
