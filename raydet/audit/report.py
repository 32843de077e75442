"""What `raydet check` found, for people (lines), for programs (report.json) and for the next step (quarantine.txt)."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from raydet.audit.result import Audit, AuditedSplit, draw_plots
from raydet.data.left_out import quarantine_name
from raydet.data.storage.address import is_remote
from raydet.exceptions import one_line
from raydet.io.files import make_folder, replace_file

FORMAT = 2
"""Of report.json, whose schema is docs/check_report.schema.json."""
_MOST_CLASSES = 12


def write(audit: Audit, folder: Path) -> None:
    """Write report.json, quarantine.txt, duplicates.csv and plots/*.png."""
    make_folder(folder / "plots")
    draw_plots(audit, folder / "plots")
    listed = ["\t".join(quarantine_name(part) for part in row) for row in audit.quarantine]
    replace_file(folder / "quarantine.txt", "".join(line + "\n" for line in listed))
    replace_file(folder / "duplicates.csv", _duplicates(audit))
    replace_file(folder / "report.json", json.dumps(to_dict(audit), indent=1) + "\n")


def _duplicates(audit: Audit) -> str:
    """Every group of equal or nearly equal images, an image a line."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("group", "split", "name", "kind"))
    for number, group in enumerate(audit.duplicates, 1):
        table.writerows((number, split, quarantine_name(one.name), group.kind) for split, one in group.members)
    return text.getvalue()


def to_dict(audit: Audit) -> dict[str, Any]:
    """Return the report as JSON values."""
    data = audit.cfg.data
    return {
        "format": FORMAT,
        "ok": audit.verdict is None,
        "verdict": None if audit.verdict is None else str(audit.verdict),
        "fit_trains": audit.fit_verdict is None,
        "data": {"root": data.root, "format": data.format, "train": data.train, "val": data.val, "test": data.test},
        "splits": {split.name: _split(split) for split in audit.splits},
        "anchor_coverage": {str(size): share for size, share in audit.anchors.items()},
        "in_two_splits": audit.leaks,
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
        what = f"{share:.1%} of the boxes have one with an IoU of 0.5"
        texts.append(f"anchors   {what}, those of {cfg.model.name} at {cfg.model.image_size} px (--model.name)")
    root = cfg.data.root.partition("?")[0] if is_remote(cfg.data.root) else cfg.data.root
    texts += audit.faults.lines(root)
    errors, warnings = audit.faults.errors, audit.faults.warnings
    counts = f"{sum(f.count for f in errors)} errors of {len(errors)} kinds, "
    counts += f"{sum(f.count for f in warnings)} warnings of {len(warnings)} kinds"
    texts.append(f"result    {_result(audit)}; {counts}")
    if out is not None:
        names = "report.json, quarantine.txt, duplicates.csv, plots/*.png"
        texts.append(f"written   {out}: {names}")
    return texts


def _result(audit: Audit) -> str:
    if audit.verdict is None:
        return "good: fit would train"
    if audit.fit_verdict is None and any(split.name != "test" for split in audit.splits):
        return "bad: fit would train, evaluate --split test would refuse"
    return "bad: fit would refuse"


def _boxes(split: AuditedSplit) -> str:
    count = len(split.content.boxes_N4)
    return f" with {count} boxes" if split.content.per_image.size else ""


def _classes(split: AuditedSplit) -> list[str]:
    counts = split.content.per_class
    names = [name or f"(id {split.index.category_ids[i]})" for i, name in enumerate(split.index.class_names)]
    shown = [f"{one_line(names[i], 40)} {counts[i]}" for i in range(min(len(names), _MOST_CLASSES))]
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return [f"classes   {len(names)} in {split.name}: {', '.join(shown)}{more}"]
