"""Searches that never ran: rows as a search would leave them, for what draws, counts and tells."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydet import search_spaces
from raydet.config import override
from raydet.recipes import recipe
from raydet.search_spaces import Space
from raydet.tuning.trials.rows import Donation, Repeat, Row, Search, State


def made(
    folder: Path,
    trials: int = 12,
    *,
    space: str | None = "lr_wd",
    of: str = "demo_classification",
    sets: Sequence[str] = (),
    seed: int = 0,
    **fields: Any,
) -> Search:
    """Return a search of `trials` trials: the lower half stopped early, one in ten failed, huge rates diverged.

    The score depends on optim.lr, where that is searched, and on chance. `fields` are put in place of Search's own.
    """
    cfg = override(recipe(of), {"schedule.epochs": 10, "run.storage_path": str(folder.parent), "run.name": folder.name})
    found = search_spaces.get(space, cfg, sets)
    points = [found.points[0], *(search_spaces.sample(found, cfg, 1000 * seed + i) for i in range(2, trials + 1))]
    rows = [_row(folder, number, params, found, seed) for number, params in enumerate(points[:trials], 1)]
    values: dict[str, Any] = {
        "folder": folder,
        "cfg": cfg,
        "space": found,
        "algorithm": "tpe",
        "scheduler": "asha",
        "score": "AP" if cfg.task == "detection" else "top1",
        "num_samples": trials,
        "concurrent": 2,
        "device": "CPU",
        "rows": tuple(_stopped(rows)),
        "seconds": sum(row.seconds for row in rows) / 2,
    }
    return Search(**(values | fields))


def _row(folder: Path, number: int, params: dict[str, Any], space: Space, seed: int) -> Row:
    draw = random.Random(f"{seed} {number}")
    own = space.points[0].get("optim.lr", 1.0)
    far = math.log10(params.get("optim.lr", 1.0) / own)  # best is three times the default
    final = 0.15 + 0.75 * math.exp(-((far - 0.5) ** 2)) + draw.uniform(-0.02, 0.02)
    curve = tuple((epoch, final * (1 - math.exp(-epoch / 3)) + draw.uniform(-0.005, 0.005)) for epoch in range(1, 11))
    row = row_of(number, params=params, folder=folder / "trials" / f"{number:03d}", curve=curve)
    if far > 0.8:
        return replace(row, state="diverged", curve=curve[:1], epochs=1, seconds=40.0, error="loss is inf at epoch 2")
    if number % 10 == 7:
        error = "DataError: 3 files of data.root | cannot be read: <a.jpg>, [b](c.jpg)"
        return replace(row, state="failed", curve=(), epochs=0, seconds=20.0, error=error)
    return row


def row_of(number: int, state: State = "finished", score: float | None = 0.5, **fields: Any) -> Row:
    """Return a row whose one evaluation, unless `curve` says more, was at epoch 10."""
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "params": {},
        "folder": Path("trials") / f"{number:03d}",
        "curve": () if score is None else ((10, score),),
        "epochs": 10,
        "seconds": 300.0,
        "device_hours": 0.25,
    }
    return Row(**(values | fields))


def _stopped(rows: list[Row]) -> list[Row]:
    """Stop, after the second epoch, who then was in the lower half; trial 1 goes on."""
    at_two = sorted(row.curve[1][1] for row in rows if row.state == "finished")
    if len(at_two) < 4:
        return rows
    bar = at_two[len(at_two) // 2]
    return [
        replace(row, state="stopped", curve=row.curve[:2], epochs=2, seconds=70.0, device_hours=0.05)
        if row.state == "finished" and row.number > 1 and row.curve[1][1] < bar
        else row
        for row in rows
    ]


def confirmed(search: Search, default: Sequence[float], best: Sequence[float]) -> Search:
    """Return the search with repeats of trial 1 and of the best."""
    assert search.best is not None
    pairs = [(1, default), (search.best.number, best)]
    repeats = [Repeat(number=n, seed=43 + i, score=score) for n, scores in pairs for i, score in enumerate(scores)]
    return replace(search, repeats=tuple(repeats))


def population(folder: Path, trials: int = 6) -> Search:
    """Return a population-based search in which the worst two went on from the best two, twice."""
    search = made(folder, trials, algorithm="pbt", scheduler="pbt")
    rows, donations = [], []
    for row in search.rows:
        after = row.params
        if row.number > 1 and row.number % 2 == 0:
            for epoch in (3, 6):
                before, after = after, after | {"optim.lr": after["optim.lr"] * (1.2 if epoch == 3 else 0.8)}
                donations.append(Donation(number=row.number, epoch=epoch, donor=1, before=before, after=after))
        curve = tuple((epoch, 0.3 + 0.05 * epoch + 0.01 * row.number) for epoch in range(1, 11))
        rows.append(replace(row, state="finished", params=after, curve=curve, epochs=10, error=None))
    return replace(search, rows=tuple(rows), donations=tuple(sorted(donations, key=lambda d: d.epoch)))


def weighed(search: Search, **objectives: float) -> Search:
    """Return the search with further objectives, of finished trials: about the size given, larger for high scores."""
    rows = [
        replace(
            row,
            values={
                n: size * (0.5 + (row.score or 0.0) * (0.8 + 0.1 * (row.number % 5))) for n, size in objectives.items()
            },
        )
        if row.state == "finished"
        else row
        for row in search.rows
    ]
    return replace(search, rows=tuple(rows), objectives=tuple(objectives))
