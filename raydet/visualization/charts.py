"""Figures drawn by matplotlib without a display: a data set's classes, boxes and anchors; what INT8 costs."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raydet.data import DetectionIndex, Index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_COLOURS = {"train": "#3465a4", "val": "#e07b39", "test": "#4e9a52"}
_MOST_BARS = 40


@dataclass(frozen=True)
class Content:
    """Figures of one split."""

    images: int
    class_names: tuple[str, ...]
    per_class: Counts
    """Boxes, or images, of each class; crowds are not counted."""
    boxes_N4: Floats
    """x, y, width, height in pixels of the file."""
    sizes_N2: Floats
    """Height and width of each box's image."""
    per_image: Counts
    """Boxes of each image; empty for classification."""


def content_of(index: Index) -> Content:
    """Return the figures of a split."""
    names = tuple(index.class_names)
    if not isinstance(index, DetectionIndex):
        counts = np.bincount(index.labels, minlength=len(names)).astype(np.int64)
        return Content(len(index), names, counts, np.empty((0, 4)), np.empty((0, 2)), np.empty(0, np.int64))
    per_image = np.diff(index.first)
    kept_N = ~index.crowd
    row_N = np.repeat(np.arange(len(index)), per_image)[kept_N]
    counts = np.bincount(index.labels[kept_N], minlength=len(names)).astype(np.int64)
    return Content(len(index), names, counts, index.boxes[kept_N], index.sizes[row_N].astype(np.float64), per_image)


def labels_figure(path: Path, splits: Mapping[str, Content], image_size: int) -> None:
    """Draw classes and, of detection, boxes per image, sizes at the network's input and shapes; one PNG."""
    detection = any(len(content.boxes_N4) for content in splits.values())
    with figure_file(path, (12, 7.5) if detection else (9, 6)) as figure:
        if not detection:
            _classes(figure.subplots(), splits, "images")
            return
        grid = figure.add_gridspec(2, 2)
        _classes(figure.add_subplot(grid[:, 0]), splits, "boxes")
        lower = grid[:, 1].subgridspec(3, 1)
        _boxes_per_image(figure.add_subplot(lower[0]), splits)
        _sizes(figure.add_subplot(lower[1]), splits, image_size)
        _shapes(figure.add_subplot(lower[2]), splits)


def coverage_figure(path: Path, best_iou: Mapping[int, Floats], image_size: int) -> None:
    """Draw the share of training boxes by the IoU of their best anchor, for several input sizes; one PNG."""
    with figure_file(path, (7, 4.5)) as figure:
        axes = figure.subplots()
        for size, iou_N in sorted(best_iou.items()):
            chosen = size == image_size
            shown = np.sort(iou_N)
            share = 1 - np.arange(len(shown)) / max(1, len(shown))
            label = f"{size} px{' (model.image_size)' if chosen else ''}: {(iou_N >= 0.5).mean():.1%}"
            axes.plot(shown, share * 100, label=label, lw=2.2 if chosen else 1.1, alpha=1 if chosen else 0.7)
        axes.axvline(0.5, color="#888888", lw=1, ls="--")
        axes.set(
            xlabel="IoU of a box with its best anchor", ylabel="boxes that reach it, %", xlim=(0, 1), ylim=(0, 102)
        )
        axes.set_title("How well the anchors fit the boxes", loc="left")
        axes.legend(title="boxes with an anchor of IoU 0.5", loc="lower left", frameon=False)


def sensitivity_figure(
    path: Path, floats: float, alone: Mapping[str, Mapping[str, float]], whole: Mapping[str, float]
) -> None:
    """Draw the loss with one group of layers in INT8, for each, between that of FP32 and of all in INT8."""
    names = [*alone, "all groups"]
    losses = np.array([scores["eval_loss"] for scores in (*alone.values(), whole)])
    with figure_file(path, (7, 1.6 + 0.34 * len(names))) as figure:
        axes = figure.subplots()
        y = np.arange(len(names))
        colours = [_COLOURS["train"]] * len(alone) + ["#777777"]
        axes.barh(y, losses - floats, 0.62, left=floats, color=colours)
        axes.axvline(floats, color="black", linewidth=1)
        axes.annotate("floats", (floats, -0.5), (5, 0), textcoords="offset points", va="bottom", fontsize=9)
        span = max(abs(losses - floats).max(), 1e-9)
        for i, loss in enumerate(losses.tolist()):
            end = (max(loss, floats), i)
            text = f"{round(loss - floats, 4) + 0.0:+.4f}"  # no -0
            axes.annotate(text, end, (5, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(min(losses.min(), floats) - 0.05 * span, max(losses.max(), floats) + 0.18 * span)
        axes.set_yticks(y, names)
        axes.set_ylim(len(names) - 0.4, -0.9)
        axes.set_xlabel("loss of held-out images")
        axes.set_title("What each group of layers costs in INT8", loc="left", pad=16)


class figure_file:  # used as a function
    """A figure that is written to `path` at the end of the block; matplotlib's global state stays as it is."""

    def __init__(self, path: Path, inches: tuple[float, float]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._path, self._figure = path, Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(self._figure)

    def __enter__(self) -> "Figure":
        return self._figure

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            return
        for axes in self._figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a sign that the font lacks is drawn as a box
            self._figure.savefig(self._path, dpi=110, pil_kwargs={"compress_level": 1})


def _classes(axes: "Axes", splits: Mapping[str, Content], unit: str) -> None:
    """Bars of how often each class is there; of many classes the most and the least frequent."""
    first = next(iter(splits.values()))
    order = np.argsort(-first.per_class, kind="stable")
    counts_of = {split: _padded(content.per_class, len(order)) for split, content in splits.items()}
    title = f"{unit.capitalize()} of each class"
    if len(order) > _MOST_BARS:
        half = _MOST_BARS // 2
        title += f": the {half} most and {half} least frequent of {len(order)}"
        order = np.concatenate([order[:half], order[-half:]])
    y = np.arange(len(order))
    height = 0.8 / len(splits)
    for k, (split, per_class) in enumerate(counts_of.items()):
        bars = axes.barh(y + k * height, per_class[order], height, color=_colour(split), label=split)
        if len(order) * len(splits) <= 30:
            axes.bar_label(bars, padding=3, fontsize=8)
    names = [_short(first.class_names[i] or str(i)) for i in order.tolist()]
    axes.set_yticks(y + height * (len(splits) - 1) / 2, names, fontsize=9 if len(order) <= 20 else 7, parse_math=False)
    axes.invert_yaxis()
    counts = np.concatenate([per_class[order] for per_class in counts_of.values()])
    if counts.size and counts.max() > 50 * max(1, counts.min()):
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(splits), borderaxespad=0.2)


def _padded(per_class: Counts, classes: int) -> Counts:
    """The counts of so many classes: those of a split that lacks some are zero (DIR-E04 reports that)."""
    return np.pad(per_class[:classes], (0, max(0, classes - len(per_class))))


def _boxes_per_image(axes: "Axes", splits: Mapping[str, Content]) -> None:
    most = max([1, *(int(c.per_image.max()) for c in splits.values() if len(c.per_image))])
    edges = np.linspace(-0.5, most + 0.5, min(most + 2, 60)).tolist()
    _histogram(axes, {split: c.per_image for split, c in splits.items()}, edges, "boxes in an image", "images, %")


def _sizes(axes: "Axes", splits: Mapping[str, Content], image_size: int) -> None:
    sides = {split: side_at_input(c.boxes_N4, c.sizes_N2, image_size) for split, c in splits.items()}
    title = f"side of a box at the input of {image_size} px (root of its area)"
    _histogram(axes, sides, np.geomspace(1, image_size, 50).tolist(), title, "boxes, %")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _shapes(axes: "Axes", splits: Mapping[str, Content]) -> None:
    ratios = {split: c.boxes_N4[:, 2] / c.boxes_N4[:, 3].clip(1e-6) for split, c in splits.items()}
    _histogram(axes, ratios, np.geomspace(1 / 8, 8, 50).tolist(), "width / height of a box", "boxes, %")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")


def _histogram(axes: "Axes", values: Mapping[str, npt.NDArray[Any]], edges: list[float], x: str, y: str) -> None:
    for split, one in values.items():
        weight = np.full(len(one), 100 / max(1, len(one)))  # shares, or the larger split would hide the other
        inner = one.clip(edges[0], edges[-1])
        axes.hist(inner, bins=edges, weights=weight, color=_colour(split), alpha=0.55, label=split)
    axes.set(xlabel=x, ylabel=y)


def side_at_input(boxes_N4: Floats, sizes_N2: Floats, image_size: int) -> Floats:
    """Return the root of each box's area at the network's input, in its pixels."""
    scale_N = image_size / sizes_N2.max(axis=1) if len(sizes_N2) else np.empty(0)
    side_N: Floats = np.sqrt(boxes_N4[:, 2] * boxes_N4[:, 3]) * scale_N
    return side_N


def _colour(split: str) -> str:
    return _COLOURS.get(split, "#555555")


def _short(text: str, most: int = 24) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"
