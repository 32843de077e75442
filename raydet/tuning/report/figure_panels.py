"""Figures of a search that show its keys: importance, a panel for each key, and all keys side by side."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet.tuning.report.figure_axes import (
    BEST,
    DEFAULT,
    Scale,
    best_label,
    label_score,
    legend_below,
    limit_scores,
    lowest,
    make_panels,
    panels_inches,
    ring,
    scale_of,
    scatter,
    scored,
    show_scale,
    two_lines,
)
from raydet.tuning.report.importance import MANY, beyond_chance, comparable, importances
from raydet.tuning.report.results import default_run, percent_text
from raydet.tuning.trials.rows import Row, Search
from raydet.visualization.charts import figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_SPREAD, _MANY = 0.25, 20
"""Part of a choice's place over which its trials are spread, where there are many: they would cover each other."""
_PALEST = 0.3
"""Where the colours of scores begin: what lies before is hard to see on white."""


def importance(search: Search, path: Path) -> bool:
    """Draw each key's share; False if nothing can be said."""
    shares = importances(search)
    if not shares:
        return False
    with figure_file(path, (7, 1.5 + 0.36 * len(shares))) as figure:
        axes = figure.subplots()
        sure = beyond_chance(search)
        colours = ["#0072B2" if key in sure else "#BBBBBB" for key in shares]
        bars = axes.barh(list(shares), list(shares.values()), 0.62, color=colours)
        axes.bar_label(bars, [percent_text(share) for share in shares.values()], padding=4, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(shares.values()))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        ran = len(comparable(search))
        few = ": too few to tell much" if ran < MANY else ""
        grey = "" if sure >= set(shares) else "\ngrey: chance does as well"
        axes.set_title("What sets the best third of the trials apart", loc="left")
        axes.set_xlabel(f"share of each key, from {ran} trials{few}{grey}", loc="left")
    return True


def slices(search: Search, path: Path) -> bool:
    """Draw the score over each key's values; False with nothing to draw, or where values change on the way (PBT)."""
    rows, keys = _comparable(search), search.space.keys
    if len(rows) < 2 or not keys:
        return False
    with figure_file(path, panels_inches(len(keys))) as figure:
        for axes, key in zip(make_panels(figure, len(keys)), keys, strict=True):
            _slice(axes, search, rows, key)
            place = axes.get_subplotspec()
            if place is not None and not place.is_first_col():
                axes.set_ylabel("")
        legend_below(figure)
    return True


def _slice(axes: "Axes", search: Search, rows: list[Row], key: str) -> None:
    scale = scale_of(search, key, [row.params.get(key) for row in rows])
    floor = limit_scores(axes, search, rows)
    wide = _width(rows)
    at = {row.number: place for row in rows if (place := _spread(scale, row, key, wide)) is not None}
    shown = [row for row in rows if row.number in at]
    scatter(axes, [at[row.number] for row in shown], shown, floor)
    best, default = search.best, default_run(search)
    if default is not None and default in shown and default != best:
        ring(axes, at[1], max(default.score or 0.0, floor), DEFAULT, "default (trial 1)")
    if best is not None and best in shown:
        ring(axes, at[best.number], max(best.score or 0.0, floor), BEST, best_label(search))
    show_scale(axes, scale, "x")
    axes.set_title(key, loc="left", fontsize=10)


def _comparable(search: Search) -> list[Row]:
    return [] if search.algorithm == "pbt" else scored(search)


def _width(rows: list[Row]) -> float:
    return _SPREAD if len(rows) > _MANY else 0.0


def _spread(scale: Scale, row: Row, key: str, wide: float) -> float | None:
    """Return where a trial's value stands; in a choice moved a little aside, for each trial and key the same way."""
    place = scale.place(row.params.get(key)) if key in row.params else None
    if place is None or not scale.names:
        return place
    return place + wide * random.Random(f"{row.number} {key}").uniform(-0.5, 0.5) / len(scale.names)


def parallel(search: Search, path: Path) -> bool:
    """Draw each trial as a line over all keys; False with fewer than two keys or trials to compare, or PBT."""
    rows, keys = _comparable(search), search.space.keys
    if len(rows) < 2 or len(keys) < 2:
        return False
    scales = {key: scale_of(search, key, [row.params.get(key) for row in rows]) for key in keys}
    floor = lowest(rows)
    top = max(row.score or 0.0 for row in rows)
    scales[search.score] = Scale(False, (), floor, top if top > floor else floor + 1e-9)
    with figure_file(path, (max(7.0, min(1.5 * len(scales), 14)), 5)) as figure:
        axes = figure.subplots()
        colours = _colours()
        for row in sorted(rows, key=lambda row: row.score or 0.0):
            _line(axes, search, row, scales, _width(rows), colours)
        _frame(axes, search, scales)
        _colour_bar(figure, search, scales[search.score], colours, any((row.score or 0.0) < floor for row in rows))
        legend_below(figure)
    return True


def _colours() -> "Colormap":
    """Return the colours of scores, from pale for the lowest to dark for the highest."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap([colormaps["cividis_r"](_PALEST + (1 - _PALEST) * i / 255) for i in range(256)])


def _colour_bar(figure: "Figure", search: Search, scale: Scale, colours: "Colormap", below: bool) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shown = ScalarMappable(Normalize(scale.low, scale.high), colours)
    bar = figure.colorbar(shown, ax=figure.axes, extend="min" if below else "neither", pad=0.01)
    label_score(bar.ax, search)


def _line(axes: "Axes", search: Search, row: Row, scales: dict[str, Scale], wide: float, colours: "Colormap") -> None:
    scale = scales[search.score]
    places = [_spread(other, row, key, wide) for key, other in scales.items() if key != search.score]
    end = scale.place(max(row.score or 0.0, scale.low)) or 0.0
    points = [(x, y) for x, y in enumerate([*places, end]) if y is not None]
    style: dict[str, Any] = {"color": colours(end), "lw": 1.0, "alpha": 0.75, "zorder": 2}
    if row == search.best:
        style = {"color": BEST, "lw": 2.8, "zorder": 5, "label": best_label(search)}
    elif row == default_run(search):
        style = {"color": DEFAULT, "lw": 2.0, "ls": "--", "zorder": 4, "label": "default (trial 1)"}
    axes.plot(*zip(*points, strict=True), **style)


def _frame(axes: "Axes", search: Search, scales: dict[str, Scale]) -> None:
    """The upright axes with their values and names."""
    for x, (key, scale) in enumerate(scales.items()):
        axes.axvline(x, color="#444444", lw=0.9, zorder=1)
        share = key == search.score and search.score.startswith("top")
        for place, text in scale.ticks(0.07, 100 if share else 1):
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
            axes.text(
                x + 0.03,
                place,
                f"{text} %" if share else text,
                fontsize=7.5,
                va="center",
                bbox=box,
                zorder=6,
                parse_math=False,
            )
    axes.set_xticks(range(len(scales)), map(two_lines, scales), fontsize=8)
    axes.tick_params(axis="x", length=0, top=False, labeltop=True, labelbottom=False)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(-0.1, len(scales) - 0.5), ylim=(-0.04, 1.04))
