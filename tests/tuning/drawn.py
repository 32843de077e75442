"""Figures as they would be drawn: kept instead of written, so that a test can ask what stands where."""

from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from raydet.visualization.charts import figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> "list[Figure]":
    """The figures made since the test began, in order; no file is written."""
    kept: list[Figure] = []
    monkeypatch.setattr(figure_file, "__exit__", lambda self, *error: kept.append(self._figure))
    return kept


def overlaps(figure: "Figure") -> list[tuple[str, str]]:
    """Return pairs of texts outside the panels that cover each other, and texts that leave the figure."""
    figure.canvas.draw()
    found = []
    width, height = figure.canvas.get_width_height()
    texts = [text for axes in figure.axes for text in _texts(axes)]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    for (one, a), (two, b) in combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 1 and high > 1:
            found.append((one, two))
    found += [(one, "edge") for one, a in boxes if a.x0 < -1 or a.y0 < -1 or a.x1 > width + 1 or a.y1 > height + 1]
    return found


def _texts(axes: "Axes") -> list[Any]:
    inside = (axes.get_xlim(), axes.get_ylim())
    ticks = [
        label
        for axis, (low, high) in zip((axes.xaxis, axes.yaxis), inside, strict=True)
        for tick, at in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True)
        if min(low, high) <= at <= max(low, high)
        for label in (tick.label1, tick.label2)
    ]
    titles = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]  # type: ignore[attr-defined]
    rotated = any(label.get_rotation() for label in ticks)  # boxes of slanted texts overlap where the texts do not
    return titles if rotated else [*ticks, *titles]


def legend_of(figure: "Figure") -> list[str]:
    """Return the texts of a figure's legend."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
