"""`raydet bench gpu`: operations and training steps on the GPU at hand, as one JSON and one Markdown file.

Needs only torch, torchvision, numpy, CuPy and this checkout; effdet and timm are measured beside where installed.
"""

import importlib.util
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from raydet.bench.ops import bench_ops, markdown
from raydet.bench.step import bench_step
from raydet.exceptions import ConfigError

BUDGET_S = 300.0
"""No new case is begun after so many seconds: `make gpu` has nine minutes, its tests included."""
_D0, _B0 = "efficientdet_d0_coco", "efficientnet_b0_imagenet"
_PEER = {_D0: "effdet", _B0: "timm"}
_GRAPH, _COMPILE = {"precision.cuda_graph": True}, {"precision.compile": True}
Settings = dict[str, Any]


def cases() -> Iterator[tuple[str, Settings, int]]:
    """Yield (recipe, settings, batch), the most telling first: D0 at 512 pixels, B0 at 224."""
    sweep = ((_D0, (8, 32, 128)), (_B0, (32, 128, 512)))
    for name, batches in sweep:
        for batch in batches:
            yield name, {"precision.mode": "bf16"}, batch
            yield name, {"precision.mode": "bf16", **_GRAPH}, batch
    for name, batch in ((_D0, 32), (_B0, 128)):
        for mode in ("fp16", "tf32", "fp32"):
            yield name, {"precision.mode": mode}, batch
        yield name, {"precision.mode": "fp16", **_GRAPH}, batch
        yield name, {"precision.mode": "bf16", "precision.ops": "torch"}, batch
        yield name, {"precision.mode": "bf16", "precision.memory_format": "contiguous"}, batch
    for name, batch in ((_D0, 32), (_B0, 128)):
        yield name, {"precision.mode": "bf16", **_COMPILE}, batch
        yield name, {"precision.mode": "bf16", **_COMPILE, **_GRAPH}, batch


def bench_gpu(out: Path, rounds: int = 10) -> dict[str, Any]:
    """Measure all cases, write `<out>/gpu_<name>_<date>.{json,md}`, and return what the JSON holds.

    What is measured is written after each case, so that nothing is lost where time runs out.

    Raises:
        ConfigError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("raydet bench gpu needs a CUDA GPU; torch finds none on this machine")
    started = monotonic()
    gpu, today = torch.cuda.get_device_name().replace(" ", "-"), date.today().isoformat()
    result: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "date": today}
    result |= {"rounds": rounds, "ops": [], "steps": [], "left_out": []}
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"gpu_{gpu.lower()}_{today}"
    result["ops"] = bench_ops("cuda", rounds=rounds, say=lambda line: print(line, flush=True))
    _write(stem, result)
    for name, settings, batch in cases():
        if monotonic() - started > BUDGET_S:
            result["left_out"].append({"recipe": name, "batch": batch, **settings})
            continue
        result["steps"].append(_measured(name, settings, batch, rounds))
        print(_line(result["steps"][-1]), flush=True)
        _write(stem, result)
    _write(stem, result)
    return result


def _measured(name: str, settings: Settings, batch: int, rounds: int) -> dict[str, Any]:
    peer = _PEER[name] if importlib.util.find_spec(_PEER[name]) else None
    settings = {"scaling.use_gpu": True, **settings}
    row: dict[str, Any] = {"recipe": name, "batch": batch, **settings}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        values = bench_step(name, settings, peer, batch, rounds)
    except torch.OutOfMemoryError:
        return row | {"error": "out of memory"}
    except Exception as error:  # one case that fails must not cost the figures of the others; it is written down
        return row | {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    row |= {key: value for key, value in values.items() if key.endswith("_s") or key == "ratio"}
    row |= {"peer": peer, "images_per_s": batch / float(values["ours_s"])}
    if peer is None:  # beside a peer the peak is the larger one's
        row["memory_bytes"] = torch.cuda.max_memory_allocated()
    return row


def _line(row: dict[str, Any]) -> str:
    ways = [word for word in ("compile", "cuda_graph") if row.get(f"precision.{word}")]
    ways += [str(row[key]) for key in ("precision.memory_format", "precision.ops") if key in row]
    start = " ".join([row["recipe"], row["precision.mode"], *(ways or ["eager"]), f"batch {row['batch']}"])
    if "error" in row:
        return f"{start}: {row['error']}"
    beside = f", {row['peer']} takes {row['ratio']:.2f} x the time" if "ratio" in row else ""
    memory = f", {row['memory_bytes'] / 2**30:.1f} GiB" if "memory_bytes" in row else ""
    return f"{start}: {row['images_per_s']:.0f} images/s ({float(row['ours_s']) * 1e3:.1f} ms){memory}{beside}"


def _write(stem: Path, result: dict[str, Any]) -> None:
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    left = f"Left out, for time: {len(result['left_out'])} cases." if result["left_out"] else ""
    lines = [
        f"# Operations and training steps on {result['gpu']}, {result['date']}",
        "",
        f"`raydet bench gpu`, torch {result['torch']}, CUDA {result['cuda']}, medians of {result['rounds']} rounds.",
        "",
        "## Steps",
        "",
        "Targets, forward, loss, backward, clipping, optimiser, EMA; random images, 7 boxes each.",
        "The peer's step runs in turn with ours, in the same precision.",
        "",
        *(f"- {_line(row)}" for row in result["steps"]),
        left,
        "",
        "## Operations",
        "",
        *markdown(result["ops"]),
        "",
    ]
    stem.with_suffix(".md").write_text("\n".join(lines))
