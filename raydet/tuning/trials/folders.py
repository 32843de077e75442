"""Where the trials of a search lie, and what their folders tell."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raydet.tuning.settings import Setting
from raydet.tuning.trials.rows import Donation, Repeat

DONATION = "donation.json"
"""In a run's folder: whose weights it continued from; written last."""


def devices(setting: Setting) -> float:
    """Return how many GPUs, or CPUs where there are none, a trial reserves."""
    s = setting.cfg.scaling
    return s.worker_range[1] * (s.gpus_per_worker if s.use_gpu else float(s.cpus_per_worker or 1))


def run_name(number: int, generation: int = 0, seed: int | None = None) -> str:
    """Return the name of a trial's run: 0003; 0003-g1 after PBT's first change; 0003-seed44 of a repeat."""
    return f"{number:04d}" + (f"-g{generation}" if generation else "") + ("" if seed is None else f"-seed{seed}")


def stages(setting: Setting, number: int) -> list[Path]:
    """Return the folders of the trial's runs, in order: one, and with PBT another for each time it started again."""
    place = setting.folder / "trials"
    found = [place / run_name(number)]
    while (place / run_name(number, len(found)) / DONATION).is_file():
        found.append(place / run_name(number, len(found)))
    return found


def donations_of(runs: Sequence[Path]) -> list[Donation]:
    """Return PBT's changes of a trial, in order, from its `stages`."""
    return [Donation(**json.loads((folder / DONATION).read_text())) for folder in runs[1:]]


def spent_epochs(runs: Sequence[Path], donations: Sequence[Donation], score: str) -> int:
    """Return the epochs that a trial has trained in all its stages, without those it took over."""
    inherited = [0, *(donation.epoch for donation in donations)]
    trained = (read_curve(folder, score)[1] for folder in runs)
    return sum(max(0, epochs - before) for epochs, before in zip(trained, inherited, strict=True))


def repeats_of(setting: Setting) -> tuple[Repeat, ...]:
    """Return the runs of other seeds that have ended."""
    found = []
    for path in sorted((setting.folder / "trials").glob("*-seed*/result.json")):
        number, _, seed = path.parent.name.partition("-seed")
        score = json.loads(path.read_text())["metrics"][setting.score]
        found.append(Repeat(number=int(number), seed=int(seed), score=score))
    return tuple(found)


def read_curve(folder: Path, score: str) -> tuple[tuple[tuple[int, float], ...], int]:
    """Return ((epochs done, score), ...) of a run's evaluations, and the epochs it has trained."""
    curve, epochs = [], 0
    for line in evaluations(folder):
        epochs = int(line["epoch"])
        if isinstance(line.get(score), (int, float)):
            curve.append((epochs, float(line[score])))
    return tuple(curve), epochs


def evaluations(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the whole lines of a run's metrics.jsonl: one an epoch."""
    try:
        text = (folder / "metrics.jsonl").read_text()
    except OSError:
        return
    for line in text.split("\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "epoch" in row:
            yield row
