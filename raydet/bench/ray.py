"""`raydet bench ray`: what Ray adds to a steady training step: the same run bare and in one Ray worker, in turn."""

import io
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raydet.bench.timing import machine
from raydet.config import override
from raydet.driver.fit import fit
from raydet.recipes import recipe


def bench_ray(name: str, changes: Mapping[str, Any], rounds: int = 3) -> dict[str, float | str]:
    """Train a recipe `rounds` times without Ray and with one Ray worker, in turn, and compare CPU seconds per step.

    Returns:
        `bare_s` and `ray_s`, medians over rounds of the median CPU time of a step of the training process, and `ratio`,
        ray over bare. The first log line of a run is not counted: it holds start-up.
    """
    seconds: dict[str, list[float]] = {"bare": [], "ray": []}
    for i in range(rounds):
        for side, workers in (("bare", 0), ("ray", 1)):
            with tempfile.TemporaryDirectory() as folder:
                own = {"run.storage_path": folder, "run.name": f"{side}-{i}", "scaling.num_workers": workers}
                cfg = override(recipe(name), {"schedule.epochs": 1, "scaling.threads": 1, **changes, **own})
                seconds[side].append(_step_seconds(fit(cfg, out=io.StringIO()).dir))
    bare, ray = (statistics.median(seconds[side]) for side in ("bare", "ray"))
    return {
        "recipe": name,
        "rounds": rounds,
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "bare_s": bare,
        "ray_s": ray,
        "ratio": ray / bare,
    }


def _step_seconds(folder: Path) -> float:
    lines = [json.loads(line[5:]) for line in (folder / "log.json").read_text().splitlines()]
    logged = [line for line in lines if line["type"] == "LOG" and isinstance(line["step"], list)]
    return statistics.median([float(line["data"]["step_cpu_s"]) for line in logged if len(line["step"]) > 1][1:])
