"""What `raydet bench quantization` found, as Markdown."""

from collections.abc import Mapping
from typing import Any

_SHOWN = 5
"""Operators named of a profile."""


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as Markdown."""
    names = [name for name in ("top1", "AP") if any(name in row for row in report["rows"])]
    timed = {key for row in report["rows"] for key in row if key.startswith("speedup_")}
    batches = sorted(int(key.removeprefix("speedup_")) for key in timed)
    numbers = [
        *names,
        "rms_to_exact",
        "megabytes",
        *(f"{what}_{n}" for n in batches for what in ("images_per_s", "speedup")),
    ]
    heads = [
        *names,
        "rms to exact",
        "MB",
        *(text for n in batches for text in (f"images/s, batch {n}", "to float ORT")),
    ]
    rows = [
        f"{what}: {report[what]}" for what in ("of", "machine", "instructions", "versions", "rounds") if what in report
    ]
    rows += ["", "| " + " | ".join(["variant", "runtime", *heads]) + " |", "|" + " --- |" * (len(heads) + 2)]
    for row in report["rows"]:
        cells = [_cell(name, row.get(name)) for name in numbers]
        rows.append("| " + " | ".join([row["variant"], row["runtime"], *cells]) + " |")
    rows += ["", "Share of ONNX Runtime's time by operator:", ""]
    for name, shares in report["profiles"].items():
        rows.append(f"- {name}: " + ", ".join(f"{op} {share:.0%}" for op, share in list(shares.items())[:_SHOWN]))
    return rows + (_sensitivity_lines(report["sensitivity"]) if "sensitivity" in report else [])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "saturating_layers":
        return str(int(value))
    if name == "rms_to_exact":
        return f"{value:.1%}"
    return f"{value:.4f}" if name in ("top1", "AP") else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _sensitivity_lines(found: Mapping[str, Any]) -> list[str]:
    name, skip = found["score"], found["skip"]
    scored = [("FP32", found["floats"]), *found["alone"].items(), ("all groups", found["int8"])]
    rows = [f"| {what} | {scores['eval_loss']:.4f} | {scores[name]:.4f} |" for what, scores in scored]
    lost = found["floats"][name] - found["int8"][name]
    if skip:
        left = f"--quantization.skip {' '.join(skip)} gives {found['skipped'][name]:.4f}"
    else:
        left = "no group needs floats" if lost <= 0.01 else "leaving a few groups in floats is not enough: train"
    head = f"Loss and {name} of {found['images']} held-out images, one group in INT8 at a time:"
    return ["", head, "", f"| in INT8 | loss | {name} |", "| --- | --- | --- |", *rows, "", left]
