"""`raydet bench gpu`: training steps over batches, precisions and compilation on the GPU at hand, as JSON and Markdown.

Needs only torch, torchvision, numpy and this checkout; effdet is measured beside where it is installed.
"""

import importlib.util
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from raydet.bench import bench_step
from raydet.config import ConfigError

BUDGET_S = 420.0
"""No new case is begun after so many seconds: `make gpu` has a lease of ten minutes."""


def cases() -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield (recipe, settings, batch), the most telling first."""
    for mode in ("bf16", "fp16", "fp32"):
        for name, batches in (("efficientdet_d0_coco", (16, 64, 128)), ("efficientnet_b0_imagenet", (64, 256, 512))):
            for batch in batches:
                yield name, {"precision.mode": mode}, batch
    for name, batch in (("efficientdet_d0_coco", 64), ("efficientnet_b0_imagenet", 256)):
        yield name, {"precision.mode": "bf16", "precision.compile": True}, batch
        yield name, {"precision.mode": "bf16", "precision.memory_format": "contiguous"}, batch


def bench_gpu(out: Path, rounds: int = 10) -> dict[str, Any]:
    """Measure all cases, write `<out>/steps_<gpu>_<date>.{json,md}`, and return what the JSON holds.

    Raises:
        ConfigError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("raydet bench gpu needs a CUDA GPU; torch finds none on this machine")
    started, rows = monotonic(), []
    peer = "effdet" if importlib.util.find_spec("effdet") else None
    for name, settings, batch in cases():
        if monotonic() - started > BUDGET_S:
            break
        rows.append(_measured(name, settings, batch, peer if "efficientdet" in name else None, rounds))
        print(_line(rows[-1]), flush=True)
    gpu = torch.cuda.get_device_name().replace(" ", "-")
    result = {"gpu": gpu, "torch": torch.__version__, "date": date.today().isoformat(), "rounds": rounds, "cases": rows}
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"steps_{gpu.lower()}_{date.today().isoformat()}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(_markdown(result))
    return result


def _measured(name: str, settings: dict[str, Any], batch: int, peer: str | None, rounds: int) -> dict[str, Any]:
    settings = {"scaling.use_gpu": True, **settings}
    row: dict[str, Any] = {"recipe": name, "batch": batch, **settings}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        values = bench_step(name, settings, peer, batch, rounds)
    except torch.OutOfMemoryError:
        return row | {"error": "out of memory"}
    row |= {key: value for key, value in values.items() if key.endswith("_s") or key == "ratio"}
    row["images_per_s"] = batch / float(values["ours_s"])
    row["memory_bytes"] = torch.cuda.max_memory_allocated()
    return row


def _line(row: dict[str, Any]) -> str:
    compiled = "compiled" if row.get("precision.compile") else "eager"
    layout = row.get("precision.memory_format", "channels_last")
    start = f"{row['recipe']} {row['precision.mode']} {compiled} {layout} batch {row['batch']}"
    if "error" in row:
        return f"{start}: {row['error']}"
    beside = f", effdet {row['ratio']:.2f} x the time" if "ratio" in row else ""
    return f"{start}: {row['images_per_s']:.0f} images/s, {row['memory_bytes'] / 2**30:.1f} GiB{beside}"


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Training steps on {result['gpu']}, {result['date']}",
        "",
        f"`raydet bench gpu`, torch {result['torch']}, median of {result['rounds']} steps after 2 that do not count.",
        "Targets, forward, loss, backward, clipping, optimiser, moving average; random images, 7 boxes each.",
        "",
        *(f"- {_line(row)}" for row in result["cases"]),
        "",
    ]
    return "\n".join(lines)
