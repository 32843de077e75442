"""The figures of a search, one PNG each; what has nothing to show is not drawn."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet.io.files import FILE_MODE, make_folder
from raydet.tuning.report.figure_axes import (
    BEST,
    DEFAULT,
    SIGNS,
    best_label,
    label_score,
    legend_below,
    limit_scores,
    make_panels,
    panels_inches,
    ring,
    scale_of,
    scatter,
    scored,
    show_scale,
    whole_numbers,
)
from raydet.tuning.report.figure_panels import importance, parallel, slices
from raydet.tuning.report.results import default_run, pareto
from raydet.tuning.trials.rows import Row, Search
from raydet.visualization.charts import figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROOM = 0.06
"""Part of a panel's side that a number needs."""


def draw(search: Search) -> list[Path]:
    """Draw what there is something to show for into the search's folder; return the files. An old one is removed."""
    folder = search.folder / "figures"
    make_folder(folder)
    drawn = []
    for name, figure in FIGURES.items():
        path, part = folder / f"{name}.png", folder / f".tmp-{os.getpid()}-{name}.png"
        try:
            if figure(search, part):
                part.chmod(FILE_MODE)
                os.replace(part, path)
                drawn.append(path)
            else:
                path.unlink(missing_ok=True)
        finally:
            part.unlink(missing_ok=True)
    return drawn


def history(search: Search, path: Path) -> bool:
    """Draw scores in order of number, the best so far and the default; False for fewer than two."""
    rows = scored(search)
    if len(rows) < 2:
        return False
    with figure_file(path, (9, 5)) as figure:
        axes = figure.subplots()
        floor = limit_scores(axes, search, rows)
        _best_so_far(axes, search, floor)
        default = default_run(search)
        if default is not None and default.score is not None:
            axes.axhline(max(default.score, floor), color=DEFAULT, lw=1.2, ls="--", label="default (trial 1)", zorder=1)
        scatter(axes, [row.number for row in rows], rows, floor)
        failed = [row.number for row in search.rows if row.state == "failed"]
        if failed:
            edge = axes.get_xaxis_transform()
            axes.plot(failed, [0.0] * len(failed), "|", color="#555555", ms=14, mew=2, label="failed", transform=edge)
        if search.best is not None and search.best.score is not None:
            ring(axes, search.best.number, search.best.score, BEST, best_label(search))
        last = max(row.number for row in search.rows)
        axes.set_xlim(1 - 0.04 * last - 0.2, last * 1.04 + 0.2)
        whole_numbers(axes.xaxis)
        axes.set_xlabel("trial")
        axes.set_title(f"Score of each trial: {len(rows)} of {search.num_samples}", loc="left")
        legend_below(figure)
    return True


def _best_so_far(axes: "Axes", search: Search, floor: float) -> None:
    """A line of the highest score up to each trial, of those that count as best: finished ones, if there are any."""
    rows = [row for row in scored(search) if row.state == "finished"] or scored(search)
    xs, ys, top = [], [], floor
    for row in rows:
        top = max(top, row.score or 0.0)
        xs.append(row.number)
        ys.append(top)
    last = max(row.number for row in search.rows)
    axes.plot([*xs, last], [*ys, top], drawstyle="steps-post", color=BEST, lw=1.6, label="best so far", zorder=2)


def curves(search: Search, path: Path) -> bool:
    """Draw the learning curves of all trials; False if there is nothing to draw."""
    rows = [row for row in search.rows if row.curve]
    if not rows:
        return False
    with figure_file(path, (9, 5.5)) as figure:
        axes = figure.subplots()
        shown: set[str] = set()
        for row in rows:
            colour, width, style, label, order = _line_of(search, row, len(rows))
            epochs, scores = zip(*row.curve, strict=True)
            if len(epochs) == 1:
                style, label = "none", f"{label}, one evaluation"
            ended = style == "none" or row.state in ("stopped", "diverged")
            axes.plot(
                epochs,
                scores,
                color=colour,
                lw=width,
                ls=style,
                marker=SIGNS.get(row.state, ("o", ""))[0] if ended else None,
                ms=5 if len(rows) <= 40 else 3,
                markevery=[len(epochs) - 1],
                label=None if label in shown else label,
                zorder=order,
                solid_capstyle="round",
            )
            shown.add(label)
        whole_numbers(axes.xaxis)
        label_score(axes, search)
        axes.set_xlabel("epochs")
        axes.set_title("Learning curves of all trials", loc="left")
        legend_below(figure)
    return True


def _line_of(search: Search, row: Row, trials: int) -> tuple[str, float, str, str, int]:
    """Return a curve's colour, width, style, name in the legend and place in the pile."""
    if row == search.best:
        return BEST, 2.8, "-", best_label(search), 5
    if row == default_run(search):
        return DEFAULT, 2.2, "--", "default (trial 1)", 6
    thin = 1.0 if trials <= 40 else 0.6
    if row.state == "failed":
        return "#999999", thin, ":", "failed", 2
    style = ":" if row.state in ("running", "waiting") else "-"
    return SIGNS[row.state][1], 1.4 * thin if row.state == "finished" else thin, style, row.state, 3


def front(search: Search, path: Path) -> bool:
    """Draw the score against each further objective, the front in line; False if there is nothing to draw."""
    best = pareto(search)
    if not best:
        return False
    with figure_file(path, (1.5 + 6 * len(search.objectives), 5)) as figure:
        panels = figure.subplots(1, len(search.objectives), squeeze=False, sharey=True)[0]
        for axes, name in zip(panels, search.objectives, strict=True):
            _front(axes, search, name, best)
        for axes in panels[1:]:
            axes.set_ylabel("")
        panels[0].set_title("Score against what it costs; numbers are trials", loc="left")
        legend_below(figure)
    return True


def _front(axes: "Axes", search: Search, name: str, best: list[Row]) -> None:
    rows = [row for row in scored(search) if name in row.values]
    floor = limit_scores(axes, search, rows)
    at = {row.number: (row.values[name], max(row.score or 0.0, floor)) for row in rows}
    scatter(axes, [x for x, _ in at.values()], rows, floor)
    edge = sorted(at[row.number] for row in best)
    alone = len(search.objectives) == 1  # with several, what is the edge of all is no line in one of them
    axes.plot(
        *zip(*edge, strict=True),
        marker="D",
        drawstyle="steps-post",
        lw=1.6 if alone else 0,
        color=BEST,
        ms=8,
        mfc="none",
        mew=1.8,
        label="no other is better in all",
        zorder=4,
    )
    default = default_run(search)
    if default is not None and default.number in at:
        ring(axes, *at[default.number], DEFAULT, "default (trial 1)")
    axes.margins(x=0.08)
    _number(axes, {row.number: at[row.number] for row in best})
    axes.set_xlabel(f"{name} (less is better)", parse_math=False)


def _number(axes: "Axes", at: dict[int, tuple[float, float]]) -> None:
    """Write trials' numbers beside their points, where there is room for them."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    written: list[tuple[float, float]] = []
    for number, (x, y) in at.items():
        place = ((x - left) / (right - left), (y - low) / (high - low))
        if all(abs(place[0] - a) > _ROOM or abs(place[1] - b) > _ROOM for a, b in written):
            axes.annotate(str(number), (x, y), (7, -12), textcoords="offset points")
            written.append(place)


def schedules(search: Search, path: Path) -> bool:
    """PBT: draw each trial's values over epochs, with a step where it took another's weights; False if none did."""
    changed = {key for d in search.donations for key in d.after if d.before.get(key) != d.after[key]}
    keys = [key for key in search.space.keys if key in changed]
    if not keys:
        return False
    with figure_file(path, panels_inches(len(keys))) as figure:
        panels = make_panels(figure, len(keys))
        for axes, key in zip(panels, keys, strict=True):
            _schedule(axes, search, key)
        legend_below(figure)
    return True


def _schedule(axes: "Axes", search: Search, key: str) -> None:
    stages_of = {row.number: _stages(search, row, key) for row in search.rows if row.epochs}
    scale = scale_of(search, key, [value for stages in stages_of.values() for _, value in stages])
    taken = []
    for row in search.rows:
        stages = [
            (epoch, at) for epoch, value in stages_of.get(row.number, []) if (at := scale.place(value)) is not None
        ]
        if not stages:
            continue
        colour, width, style, label, order = _line_of(search, row, len(search.rows))
        xs, ys = zip(*stages, (max(row.epochs, stages[-1][0]), stages[-1][1]), strict=True)
        known = label in axes.get_legend_handles_labels()[1]
        axes.plot(
            xs,
            ys,
            drawstyle="steps-post",
            color=colour,
            lw=width,
            ls=style,
            zorder=order,
            label=None if known else label,
        )
        taken += stages[1:]
    if taken:
        axes.plot(*zip(*taken, strict=True), "o", color="#CC79A7", ms=4, lw=0, label="took another's weights", zorder=7)
    show_scale(axes, scale, "y")
    whole_numbers(axes.xaxis)
    axes.set_xlabel("epochs")
    axes.set_title(key, loc="left", fontsize=10)


def _stages(search: Search, row: Row, key: str) -> list[tuple[int, Any]]:
    """Return (epoch from which, value) of a key, from the first on."""
    donations = [d for d in search.donations if d.number == row.number]
    if not donations:
        return [(0, row.params.get(key))]
    return [(0, donations[0].before.get(key)), *((d.epoch, d.after.get(key)) for d in donations)]


FIGURES: dict[str, Callable[[Search, Path], bool]] = {
    "history": history,
    "curves": curves,
    "importance": importance,
    "slices": slices,
    "parallel": parallel,
    "pareto": front,
    "schedules": schedules,
}
"""Name of each file -> what draws it; the order is the summary's."""
