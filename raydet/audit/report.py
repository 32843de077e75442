"""What `raydet check` found, for people (lines), for programs (report.json) and for the next step (quarantine.txt)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raydet.audit.result import Audit, AuditedSplit, draw_plots
from raydet.data.storage.address import is_remote
from raydet.exceptions import one_line
from raydet.io.files import make_folder, replace_file

FORMAT = 1
"""Of report.json."""
_MOST_CLASSES = 12


def write(audit: Audit, folder: Path) -> None:
    """Write report.json, quarantine.txt and plots/*.png."""
    make_folder(folder / "plots")
    draw_plots(audit, folder / "plots")
    lines = ["\t".join(one_line(part, 4096) for part in row) for row in audit.quarantine]
    replace_file(folder / "quarantine.txt", "".join(line + "\n" for line in lines))
    replace_file(folder / "report.json", json.dumps(to_dict(audit), indent=1) + "\n")


def to_dict(audit: Audit) -> dict[str, Any]:
    """Return the report as JSON values."""
    data = audit.cfg.data
    return {
        "format": FORMAT,
        "ok": audit.verdict is None,
        "verdict": None if audit.verdict is None else str(audit.verdict),
        "data": {"root": data.root, "format": data.format, "train": data.train, "val": data.val, "test": data.test},
        "splits": {split.name: _split(split) for split in audit.splits},
        "anchor_coverage": {str(size): share for size, share in audit.anchors.items()},
        "in_two_splits": audit.leaks,
        "advice": audit.advice,
        **audit.faults.to_dict(),
        "quarantine": [list(row) for row in audit.quarantine],
    }


def _split(split: AuditedSplit) -> dict[str, Any]:
    content, index = split.content, split.index
    classes = [
        {"class": i, "id": int(index.category_ids[i]), "name": name, "count": int(content.per_class[i])}
        for i, name in enumerate(index.class_names)
    ]
    sides = [one.hw for one in split.seen if one.hw is not None]
    return {
        "images": len(index),
        "boxes": len(content.boxes_N4),
        "without_boxes": int((content.per_image == 0).sum()),
        "classes": classes,
        "height_width_median": np.median(sides, axis=0).tolist() if sides else None,
        "height_width_most": np.max(sides, axis=0).tolist() if sides else None,
        "bytes": sum(one.bytes for one in split.seen),
        "broken_images": sum(one.broken for one in split.seen),
    }


def lines(audit: Audit, out: Path | None) -> list[str]:
    """Return the report for people."""
    cfg = audit.cfg
    parts = [f"{s.name} {len(s.index)} images" + _boxes(s) for s in audit.splits]
    texts = [f"data      {cfg.data.root} ({cfg.data.format}): {', '.join(parts) or 'nothing that could be opened'}"]
    if audit.splits:
        texts += _classes(audit.splits[0])
    if audit.anchors:
        share = audit.anchors[int(cfg.model.image_size or 0)]
        texts.append(f"anchors   {share:.1%} of the boxes have one with an IoU of 0.5 at {cfg.model.image_size} px")
    texts += [f"advice    {text}" for text in audit.advice]
    root = cfg.data.root.partition("?")[0] if is_remote(cfg.data.root) else cfg.data.root
    texts += audit.faults.lines(root)
    errors, warnings = audit.faults.errors, audit.faults.warnings
    counts = f"{sum(f.count for f in errors)} errors of {len(errors)} kinds, "
    counts += f"{sum(f.count for f in warnings)} warnings of {len(warnings)} kinds"
    texts.append(f"result    {'good: fit would train' if audit.verdict is None else 'bad: fit would refuse'}; {counts}")
    if out is not None:
        names = "report.json, quarantine.txt, plots/*.png"
        texts.append(f"written   {out}: {names}")
    return texts


def _boxes(split: AuditedSplit) -> str:
    count = len(split.content.boxes_N4)
    return f" with {count} boxes" if split.content.per_image.size else ""


def _classes(split: AuditedSplit) -> list[str]:
    counts = split.content.per_class
    names = [name or f"(id {split.index.category_ids[i]})" for i, name in enumerate(split.index.class_names)]
    shown = [f"{one_line(names[i], 40)} {counts[i]}" for i in range(min(len(names), _MOST_CLASSES))]
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return [f"classes   {len(names)} in {split.name}: {', '.join(shown)}{more}"]
