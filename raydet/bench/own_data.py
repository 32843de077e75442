"""`raydet bench own-data`: `raydet fit DATA` beside effdet's training from the same weights, scored on the test split.

Every run is a process of its own, one after the other, sides in turn; CPU time and memory are the process's.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch

from raydet.bench.timing import machine
from raydet.config import Config
from raydet.data.convert import convert
from raydet.driver.own_data import own_data
from raydet.exceptions import ConfigError, RaydetError
from raydet.inference.evaluate import evaluate

SIDES = ("raydet", "effdet", "random")


@dataclass(frozen=True)
class _Spent:
    cpu_s: float
    wall_s: float
    peak_bytes: int
    """Of the largest of its processes."""
    out: str


def bench_own_data(
    data: str,
    model: str,
    changes: Mapping[str, Any],
    seeds: int,
    out: Path | None,
    sides: tuple[str, ...] = SIDES,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train each side once a seed on the data set at a path, and score it on the test split.

    Args:
        data: a data set for detection with three splits, as `raydet fit` takes it.
        model: efficientdet_*; effdet's tf_ form of it is the peer.
        changes: settings given to `raydet fit`; model.weights is the backbone that both sides start from.
        seeds: runs of each side, with run.seed 0, 1, ...
        out: folder for own_data.json and own_data.md, which grow with every run. None: not written.
        sides: some of raydet, effdet (as many epochs, images a step and pixels as raydet), random (raydet, from random
            weights).

    Returns:
        machine, versions, settings, `runs` (one dict each) and `means` (side -> figure -> mean and spread).
    """
    given = str(changes.get("model.weights") or "")
    if not given:
        raise ConfigError("bench own-data needs --model.weights FILE, which both sides start from")
    cfg = own_data(data, {"model.name": model, **changes}).cfg
    if cfg.data.test is None:
        raise ConfigError(f"{data} has no test split to score on")
    report: dict[str, Any] = {
        "data": data,
        "model": model,
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "settings": {key: str(value) for key, value in changes.items()},
        "image_size": cfg.model.image_size,
        "epochs": cfg.schedule.epochs,
        "batch": cfg.global_batch,
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        coco = Path(scratch) / "coco"
        images = convert(cfg, coco, "coco").images["train"]
        for seed in range(seeds):
            for side in sides:
                run = _effdet(cfg, coco, given, seed) if side == "effdet" else _raydet(data, model, changes, side, seed)
                each = 1e3 * 60 * run["cpu_min"] / (run["epochs"] * images)
                report["runs"].append({"side": side, "seed": seed, **run, "cpu_ms_per_image": each})
                report["means"] = _means(report["runs"])
                say(_row(report["runs"][-1]))
                if out is not None:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / "own_data.json").write_text(json.dumps(report, indent=1) + "\n")
                    (out / "own_data.md").write_text("\n".join(lines(report)) + "\n")
    return report


def _raydet(data: str, model: str, changes: Mapping[str, Any], side: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given = {**changes, "run.seed": seed, "run.storage_path": folder, "run.name": "run", "scaling.threads": 1}
        given |= {"model.weights": "none"} if side == "random" else {}
        spent = _spend([sys.executable, "-m", "raydet", "fit", data, "--model", model, *_flags(given)])
        run = Path(folder) / "run"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return _figures(evaluate(run, split="test"), spent, [row["AP50"] for row in rows])


def _effdet(cfg: Config, coco: Path, weights: str, seed: int) -> dict[str, Any]:
    name = cfg.model.name
    given = {
        "model": name if name.startswith("tf_") else f"tf_{name}",
        "weights": weights,
        "size": cfg.model.image_size,
        "epochs": cfg.schedule.epochs,
        "batch": cfg.global_batch,
        "seed": seed,
    }
    spent = _spend([sys.executable, "-m", "raydet.bench.effdet_training", str(coco), *_flags(given)])
    found = json.loads(spent.out.splitlines()[-1])
    return _figures(found, spent, found["val_AP50"])


def _figures(found: Mapping[str, float], spent: _Spent, curve: list[float]) -> dict[str, Any]:
    return {
        "AP": found["AP"],
        "AP50": found["AP50"],
        "epochs": len(curve),
        "cpu_min": spent.cpu_s / 60,
        "wall_min": spent.wall_s / 60,
        "peak_mib": spent.peak_bytes / 2**20,
        "val_AP50": [round(value, 4) for value in curve],
    }


def _spend(words: list[str]) -> _Spent:
    """Run a command to its end; what it spent includes its children that ended before it."""
    with tempfile.TemporaryFile("w+") as out:
        start = os.times().elapsed
        process = subprocess.Popen(words, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = os.times().elapsed - start
        if process.returncode:
            raise RaydetError(f"{' '.join(words[:5])} ... ended with {process.returncode}")
        out.seek(0)
        return _Spent(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024, out.read())


def _flags(values: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key, value in values.items():
        words += [f"--{key}", *map(str, value if isinstance(value, tuple | list) else [value])]
    return words


def _means(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    figures = ("AP", "AP50", "cpu_min", "cpu_ms_per_image", "peak_mib")
    found: dict[str, dict[str, list[float]]] = {}
    for side in dict.fromkeys(run["side"] for run in runs):
        mine = [run for run in runs if run["side"] == side]
        found[side] = {key: [mean(values), pstdev(values)] for key in figures if (values := [run[key] for run in mine])}
    return found


def _row(run: Mapping[str, Any]) -> str:
    return (
        f"{run['side']}, seed {run['seed']}: AP {run['AP']:.3f}, AP50 {run['AP50']:.3f}, {run['cpu_min']:.1f} CPU-min, "
        f"{run['peak_mib']:.0f} MiB"
    )


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as Markdown."""
    settings = " ".join(f"--{key} {value}" for key, value in report["settings"].items())
    seeds = 1 + max(run["seed"] for run in report["runs"])
    found = [
        f"command: raydet bench own-data {report['data']} --recipe {report['model']} {settings} --rounds {seeds}",
        f"machine: {report['machine']}; torch {report['torch']}, one thread; n = {seeds} seeds, mean and deviation",
        f"{report['model']} at {report['image_size']} px, {report['epochs']} epochs, {report['batch']} images a step; "
        "the best epoch by validation AP, on the test split",
        "",
        "| side | AP | AP50 | CPU-min | CPU-ms an image | peak MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, figures in report["means"].items():
        shown = {"AP": 3, "AP50": 3, "cpu_min": 1, "cpu_ms_per_image": 0, "peak_mib": 0}
        cells = [f"{figures[key][0]:.{digits}f} ± {figures[key][1]:.{digits}f}" for key, digits in shown.items()]
        found.append(f"| {side} | {' | '.join(cells)} |")
    found += ["", "Validation AP50 by epoch:", ""]
    found += [f"- {run['side']}, seed {run['seed']}: {' '.join(map(str, run['val_AP50']))}" for run in report["runs"]]
    return found
