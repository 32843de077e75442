"""What looking through a data set brought to light: its splits as they were seen, their faults, what to do."""

from dataclasses import dataclass, field
from pathlib import Path

from raydet.charts import Content, content_of, coverage_figure, labels_figure
from raydet.config import Config
from raydet.coverage import coverage
from raydet.data import DataError, Index
from raydet.data.audit import Looked
from raydet.data.faults import Faults


@dataclass
class Split:
    """One split as it was found."""

    name: str
    index: Index
    seen: list[Looked] = field(default_factory=list)

    @property
    def content(self) -> Content:
        """Its figures."""
        return content_of(self.index)


@dataclass
class Audit:
    """What `check` found."""

    cfg: Config
    faults: Faults
    splits: list[Split]
    advice: list[str] = field(default_factory=list)
    anchors: dict[int, float] = field(default_factory=dict)
    """Detection: share of training boxes with an anchor of IoU 0.5, by input size."""
    leaks: int = 0
    """Pictures that are in two splits."""
    verdict: DataError | None = None
    """What `fit` would say of it; None: it would train."""

    @property
    def quarantine(self) -> list[tuple[str, str, str]]:
        """Split, name and rule of each picture that cannot be used."""
        return [
            (split.name, one.name, rule)
            for split in self.splits
            for one in split.seen
            for rule in [next((rule for rule, _, _ in one.notes if "-E" in rule), None)]
            if rule is not None
        ]


def draw_plots(audit: Audit, folder: Path) -> list[Path]:
    """Draw labels.png and, for detection, anchors.png; return their paths."""
    made = []
    side = int(audit.cfg.model.image_size or 0)
    if audit.splits:
        labels_figure(folder / "labels.png", {s.name: s.content for s in audit.splits}, side)
        made.append(folder / "labels.png")
    train = next((s.content for s in audit.splits if s.name == "train"), None)
    if audit.anchors and train is not None:
        found, _ = coverage(audit.cfg, train.boxes_N4, train.sizes_N2)
        coverage_figure(folder / "anchors.png", found, side)
        made.append(folder / "anchors.png")
    return made
