"""What the figures of a search share: signs and colours of trials, the axis of scores, the axis of a searched key.

Colours are those of Okabe and Ito (jfly.uni-koeln.de/color), which the colour-blind can tell apart, and cividis for
scores; each state has a sign of its own as well.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydet.search_spaces.domains import bounds
from raydet.tuning.report.importance import kind
from raydet.tuning.report.results import default_run
from raydet.tuning.trials.rows import Row, Search, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNS: dict[State, tuple[str, str]] = {
    "finished": ("o", "#0072B2"),
    "stopped": ("v", "#E69F00"),
    "diverged": ("X", "#D55E00"),
    "running": ("s", "#56B4E9"),
    "waiting": ("s", "#999999"),
}
"""State -> marker, colour. Of failed trials there is no score to show."""
BEST, DEFAULT = "#009E73", "#000000"
_STEEP = 3.0


def scored(search: Search) -> list[Row]:
    """Return the trials that have a score."""
    return [row for row in search.rows if row.score is not None]


def short(value: Any, most: int = 18) -> str:
    """Return a value or a name as a short text, both its ends, without what cannot be shown."""
    text = f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most // 2] + "…" + text[most // 2 + 1 - most :]


def two_lines(key: str) -> str:
    """Return a dotted key broken behind its section."""
    section, _, field = key.rpartition(".")
    return f"{section}.\n{field}" if section else key


def lowest(rows: Iterable[Row]) -> float:
    """Return the lowest score worth its place: bad trials far below would press the good ones into one line.

    At most three times the way from the best to the median below the median; what is lower is drawn at the edge.
    """
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        return 0.0
    top, middle = max(scores), statistics.median(scores)
    return max(min(scores), middle - _STEEP * max(top - middle, 0.01 * abs(top)))


def limit_scores(axes: "Axes", search: Search, rows: Sequence[Row]) -> float:
    """Label the axis of scores, end it at `lowest` and say how many lie below; return that lowest."""
    floor = lowest(rows)
    scores = [row.score for row in rows if row.score is not None]
    room = max(0.06 * (max(scores) - floor), 0.005)
    axes.set_ylim(floor - room, max(scores) + room)
    label_score(axes, search)
    below = sum(score < floor for score in scores)
    if below:
        axes.set_ylabel(f"{search.score}  ({below} lower: at the edge)")
    return floor


def label_score(axes: "Axes", search: Search) -> None:
    """Name the axis of scores, and show shares of images as percent, as the table of epochs does."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylabel(search.score)
    if search.score.startswith("top"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def whole_numbers(axis: Any) -> None:
    """Have ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def panels_inches(panels: int) -> tuple[float, float]:
    """Return the size of a figure of so many small panels."""
    rows = math.ceil(panels / 4)
    return max(5.5, 3.2 * math.ceil(panels / rows)), 0.6 + 2.9 * rows


def make_panels(figure: "Figure", panels: int) -> "list[Axes]":
    """Return so many axes, in rows of at most four, without empty ones."""
    rows = math.ceil(panels / 4)
    axes = figure.subplots(rows, math.ceil(panels / rows), squeeze=False).flatten().tolist()
    for spare in axes[panels:]:
        spare.remove()
    return list(axes[:panels])


def scatter(axes: "Axes", xs: Sequence[float], rows: Sequence[Row], floor: float = -math.inf) -> None:
    """Draw scores over `xs`, a sign for each state."""
    size = 46 if len(rows) <= 40 else 24
    for state, (marker, colour) in SIGNS.items():
        some = [(x, max(row.score or 0.0, floor)) for x, row in zip(xs, rows, strict=True) if row.state == state]
        if some:
            hollow = state in ("running", "waiting")
            axes.scatter(
                [x for x, _ in some],
                [y for _, y in some],
                s=size,
                marker=marker,
                facecolors="none" if hollow else colour,
                edgecolors=colour if hollow else "white",
                linewidths=1.4 if hollow else 0.5,
                label=state,
                zorder=3,
            )


def best_label(search: Search) -> str:
    """Return the best trial's name in a legend."""
    best = search.best
    return "best: the default" if best == default_run(search) else f"best (trial {best.number if best else '-'})"


def ring(axes: "Axes", x: float, y: float, colour: str, label: str) -> None:
    """Draw a ring round a point."""
    axes.scatter([x], [y], s=130, facecolors="none", edgecolors=colour, linewidths=2, label=label, zorder=4)


def legend_below(figure: "Figure") -> None:
    """Put one legend for all panels under the figure, where it hides nothing."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        named |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels, handles = list(named), list(named.values())
    most = max(1, int(figure.get_size_inches()[0] / 1.7))
    columns = math.ceil(len(labels) / math.ceil(len(labels) / most))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of a searched key."""

    log: bool
    names: tuple[Any, ...]
    """The values of a choice; empty for numbers."""
    low: float
    high: float

    def place(self, value: Any) -> float | None:
        """Return where a value stands, 0 to 1; None for what this axis cannot show."""
        if self.names:
            same = [i for i, name in enumerate(self.names) if name == value and type(name) is type(value)]
            return (same[0] + 0.5) / len(self.names) if same else None
        if not isinstance(value, int | float) or (self.log and value <= 0):
            return None
        if self.low == self.high:
            return 0.5
        at, low, high = (math.log(v) if self.log else v for v in (value, self.low, self.high))
        return (at - low) / (high - low)

    def ticks(self, apart: float, factor: int = 1) -> list[tuple[float, str]]:
        """Return places, 0 to 1, and their texts: a choice's values, else both ends and round values between.

        Args:
            apart: least way of a round value from the ends.
            factor: of the numbers shown, 100 for percent.
        """
        if self.names:
            return [((i + 0.5) / len(self.names), short(name)) for i, name in enumerate(self.names)]
        ends = [self.low] if self.low == self.high else [self.low, self.high]
        values = [(self.place(v), v) for v in ends]
        inner = [(self.place(v), v) for v in _round_values(self)]
        values += [(p, v) for p, v in inner if p is not None and apart < p < 1 - apart]
        return [(p, f"{v * factor:.3g}") for p, v in values if p is not None]


def _round_values(scale: Scale) -> list[float]:
    if scale.low == scale.high:
        return []
    if scale.log:
        first, last = math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high))
        return [10.0**e for e in range(first, last + 1, max(1, math.ceil((last - first) / 4)))]
    raw = (scale.high - scale.low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    first = math.ceil(scale.low / step)
    return [step * i for i in range(first, math.floor(scale.high / step) + 1)]


def scale_of(search: Search, key: str, seen: Iterable[Any]) -> Scale:
    """Return a key's axis: its range, widened to what was seen."""
    how, values = kind(search, key), [*bounds(search.space.domains[key]), *seen]
    if how == "choice":
        names: list[Any] = []
        for value in values:
            if not any(value == name and type(value) is type(name) for name in names):
                names.append(value)
        return Scale(False, tuple(names), 0.0, 1.0)
    log = how.startswith("log")
    numbers = [float(v) for v in values if isinstance(v, int | float) and (v > 0 or not log)]
    return Scale(log, (), min(numbers), max(numbers))


def show_scale(axes: "Axes", scale: Scale, which: str) -> None:
    """Label an axis that runs from 0 to 1 with the values of a key."""
    places, texts = zip(*scale.ticks(0.07 if which == "y" else 0.2), strict=True)
    if which == "y":
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks(places, texts, fontsize=8, parse_math=False)
        return
    crowded = sum(map(len, texts)) > 24
    axes.set_xlim(-0.04, 1.04)
    axes.set_xticks(
        places, texts, fontsize=8, parse_math=False, rotation=30 if crowded else 0, ha="right" if crowded else "center"
    )
