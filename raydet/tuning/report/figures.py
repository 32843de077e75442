"""The figures of a search, one PNG each: Optuna's where it has one, with our names, units and trial numbers.

What has nothing to show is not drawn. Trials that were stopped early count with the score they had then.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet.io.files import FILE_MODE, make_folder
from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.report.importance import (
    MANY,
    beyond_chance,
    comparable,
    evaluator,
    importances,
    kind,
    scored_study,
)
from raydet.tuning.report.results import default_run, pareto
from raydet.tuning.trials.rows import Row, Search

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_BEST, _DEFAULT, _SURE, _CHANCE = "#009E73", "#000000", "#0072B2", "#BBBBBB"
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), which the colour-blind can tell apart."""
_SIGNS = ((("stopped",), "stopped early", "#E69F00", "v"), (("running", "waiting"), "not ended", "#56B4E9", "s"))
"""States of trials that have not been trained to their end, their name, colour and marker in the history."""
_COLOURS = "viridis_r"
"""Optuna's own begin with white."""
_MOST_KEYS = 6
"""Panels side by side that can be read; of more keys those that matter most."""


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


@contextmanager
def _saved(path: Path, inches: tuple[float, float]) -> Iterator[None]:
    """Write the pyplot figure that is drawn inside to `path`; the caller's pyplot stays as it was."""
    import matplotlib.pyplot as plt

    backend, others = plt.get_backend(), plt.get_fignums()
    plt.switch_backend("agg")
    try:
        with quiet_optuna(), plt.rc_context({"figure.figsize": inches, "text.parse_math": False}):
            yield
            for axes in plt.gcf().axes:
                _readable(axes)
            plt.gcf().savefig(path, dpi=110, bbox_inches="tight", pil_kwargs={"compress_level": 1})
    finally:
        for number in set(plt.get_fignums()) - set(others):
            plt.close(number)
        plt.switch_backend(backend)


def history(search: Search, path: Path) -> bool:
    """Draw scores in order of number, the best so far and the default; False for fewer than two."""
    rows = _shown(search)
    if len(rows) < 2:
        return False
    from optuna.visualization.matplotlib import plot_optimization_history

    with _saved(path, (9, 5)):
        axes = plot_optimization_history(scored_study(search, rows), target_name="trial")
        axes.lines[0].set_label("best so far")
        for states, label, colour, marker in _SIGNS:
            some = [(row.number, row.score) for row in rows if row.state in states]
            if some:
                xs, ys = zip(*some, strict=True)
                axes.scatter(xs, ys, s=60, color=colour, marker=marker, label=label, zorder=3)
        default = default_run(search)
        if default is not None and default.score is not None:
            axes.axhline(default.score, color=_DEFAULT, ls="--", lw=1, label="default (trial 1)")
        _label(axes, search, "trial", f"Score of each trial: {len(rows)} of {search.num_samples}")
        _cut_off(axes, search, rows)
        _whole_numbers(axes.xaxis)
        axes.legend(bbox_to_anchor=(1.02, 1.0), loc="upper left")
    return True


def curves(search: Search, path: Path) -> bool:
    """Draw the learning curves of all trials; False if there is nothing to draw."""
    rows = [row for row in _shown(search) if row.curve]
    if not rows:
        return False
    from optuna.visualization.matplotlib import plot_intermediate_values

    with _saved(path, (9, 5.5)):
        axes = plot_intermediate_values(scored_study(search, rows))
        named = {f"Trial{row.number}": row for row in rows}
        for line in axes.get_lines():
            _emphasize(line, search, named[str(line.get_label())])
        _label(axes, search, "epochs", "Learning curves of all trials")
        _whole_numbers(axes.xaxis)
        axes.legend(bbox_to_anchor=(1.02, 1.0), loc="upper left")
    return True


def _emphasize(line: Any, search: Search, row: Row) -> None:
    """Let default and best stand out; the others are too many for a legend."""
    best = search.best is not None and row.number == search.best.number
    if best:
        name = "default, the best" if row.number == 1 else "best"
        line.set(color=_BEST, linewidth=2.8, label=f"{name} (trial {row.number})", zorder=5)
    elif row.number == 1 and default_run(search) is not None:
        line.set(color=_DEFAULT, linewidth=2, linestyle="--", label="default (trial 1)", zorder=6)
    else:
        line.set(alpha=0.6, linewidth=1, label=f"_{row.number}")


def importance(search: Search, path: Path) -> bool:
    """Draw each key's share, in grey where chance does as well; False if nothing can be said."""
    shares = importances(search)
    if len(shares) < 2:  # of one key it would be all
        return False
    from optuna.visualization.matplotlib import plot_param_importances

    rows, sure = comparable(search), beyond_chance(search)
    with _saved(path, (7, 1.5 + 0.4 * len(shares))):
        axes = plot_param_importances(scored_study(search, rows), evaluator=evaluator())
        for bar, tick in zip(axes.patches, axes.get_yticklabels(), strict=True):
            bar.set_color(_SURE if tick.get_text() in sure else _CHANCE)
        axes.legend().remove()
        few = ": too few to tell much" if len(rows) < MANY else ""
        grey = "" if sure >= set(shares) else "; grey: chance does as well"
        axes.set(xlabel=f"share of each key, from {len(rows)} trials{few}{grey}", ylabel="")
        axes.set_title("What sets the best third of the trials apart", loc="left")
    return True


def slices(search: Search, path: Path) -> bool:
    """Draw the score over each key's values; False with nothing to draw, or where values change on the way (PBT)."""
    rows = _shown(search)
    keys = _main_keys(search)
    if len(rows) < 2 or not keys or search.algorithm == "pbt":
        return False
    from optuna.visualization.matplotlib import plot_slice

    with _saved(path, (7, 4.2)):
        first, *others = _all_axes(plot_slice(scored_study(search, rows), params=keys))
        figure = first.figure
        figure.suptitle("")
        _label(first, search, first.get_xlabel(), "Score over each key" + _of_all(search, keys))
        _cut_off(first, search, rows)
        for axes in (first, *others):
            axes.tick_params(axis="x", rotation=30)
            axes.collections[0].set_cmap(_COLOURS)
        _whole_numbers(figure.axes[-1].yaxis)  # the colour bar of trials
    return True


def parallel(search: Search, path: Path) -> bool:
    """Draw each trial as a line over all keys; False with fewer than two keys or trials to compare, or PBT."""
    rows, keys = _shown(search), _main_keys(search)
    if len(rows) < 2 or len(keys) < 2 or search.algorithm == "pbt":
        return False
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    with _saved(path, (2.0 * (len(keys) + 1), 5)):
        axes = plot_parallel_coordinate(scored_study(search, rows), params=keys, target_name=search.score)
        axes.collections[0].set_cmap(_COLOURS)
        axes.set_title("Each trial's values and score" + _of_all(search, keys))
        for colour_bar in axes.figure.axes:
            if axes is colour_bar or colour_bar.get_ylabel() == search.score:
                _percent(colour_bar.yaxis, search)
    return True


def _shown(search: Search) -> list[Row]:
    """Return the trials that have a score, so far, and a value for each key."""
    return [row for row in search.rows if row.score is not None and all(key in row.params for key in search.space.keys)]


def _main_keys(search: Search) -> list[str]:
    shares = importances(search)
    keys = sorted(search.space.keys, key=lambda key: -shares.get(key, 0.0))
    return sorted(keys[:_MOST_KEYS], key=search.space.keys.index)


def _of_all(search: Search, keys: list[str]) -> str:
    return "" if len(keys) == len(search.space.keys) else f": {len(keys)} of {len(search.space.keys)} keys"


def _all_axes(found: Any) -> "list[Axes]":
    return list(found) if hasattr(found, "__iter__") else [found]


def front(search: Search, path: Path) -> bool:
    """Draw the score against the further objectives, the front in another colour; False if there is nothing to draw."""
    best = pareto(search)
    if not best:
        return False
    import optuna
    from optuna.study import StudyDirection
    from optuna.trial import create_trial
    from optuna.visualization.matplotlib import plot_pareto_front

    names = [search.score, *search.objectives]
    with _saved(path, (7, 5)):
        minimize = [StudyDirection.MINIMIZE] * len(search.objectives)
        study = optuna.create_study(directions=[StudyDirection.MAXIMIZE, *minimize])
        for row in search.rows:
            if row.state == "finished" and all(name in row.values for name in search.objectives):
                study.add_trial(create_trial(values=[row.score or 0.0, *(row.values[n] for n in search.objectives)]))
        axes = plot_pareto_front(study, target_names=names)
        if len(names) == 2:
            for row in best:
                at = (row.score or 0.0, row.values[names[1]])
                axes.annotate(str(row.number), at, (6, -10), textcoords="offset points")
            _percent(axes.xaxis, search)
        axes.set_title("Score against what it costs" + ("; numbers are trials" if len(names) == 2 else ""))
    return True


def schedules(search: Search, path: Path) -> bool:
    """PBT: draw each trial's values over epochs, with a step where it took another's weights; False if none did."""
    changed = {key for d in search.donations for key in d.after if d.before.get(key) != d.after[key]}
    keys = [key for key in search.space.keys if key in changed]
    if not keys:
        return False
    import matplotlib.pyplot as plt

    with _saved(path, (7, 1 + 2.4 * len(keys))):
        plt.style.use("ggplot")  # as Optuna's
        figure: Figure = plt.figure(layout="constrained")
        for axes, key in zip(figure.subplots(len(keys), squeeze=False, sharex=True)[:, 0], keys, strict=True):
            _schedule(axes, search, key)
        axes.set_xlabel("epochs")
        figure.axes[0].set_title("Values of each trial; dots: weights taken over from another", loc="left")
        figure.axes[0].legend(bbox_to_anchor=(1.02, 1.0), loc="upper left")
    return True


def _schedule(axes: "Axes", search: Search, key: str) -> None:
    choice, log = kind(search, key) == "choice", kind(search, key).startswith("log")
    for row in search.rows:
        steps = _stages(search, row, key)
        epochs, values = zip(*steps, (max(row.epochs, steps[-1][0]), steps[-1][1]), strict=True)
        shown = [str(value) for value in values] if choice else values
        (line,) = axes.plot(epochs, shown, drawstyle="steps-post", marker="o", markevery=slice(1, len(steps)))
        _emphasize(line, search, row)
    axes.set(ylabel=key, yscale="log" if log else axes.get_yscale())
    _whole_numbers(axes.xaxis)


def _stages(search: Search, row: Row, key: str) -> list[tuple[int, Any]]:
    """Return (epoch from which, value) of a key, from the first on."""
    donations = [d for d in search.donations if d.number == row.number]
    if not donations:
        return [(0, row.params.get(key))]
    return [(0, donations[0].before.get(key)), *((d.epoch, d.after.get(key)) for d in donations)]


def _label(axes: "Axes", search: Search, x: str, title: str) -> None:
    """Name title and axes."""
    axes.set(xlabel=x, ylabel=search.score, title="")
    axes.set_title(title, loc="left")
    _percent(axes.yaxis, search)


def _cut_off(axes: "Axes", search: Search, rows: list[Row]) -> None:
    """Leave out scores far below the median, of at most half of the trials: they would press the others into a line."""
    scores = [row.score or 0.0 for row in rows]
    top, middle = max(scores), statistics.median(scores)
    floor = middle - 3 * max(top - middle, 0.01 * abs(top))
    below = sum(score < floor for score in scores)
    if below:
        axes.set_ylim(bottom=floor)
        axes.set_ylabel(f"{search.score}  ({below} lower: not shown)")


def _percent(axis: "Axis", search: Search) -> None:
    """Show shares of images as percent, as the table of epochs does."""
    from matplotlib.ticker import PercentFormatter

    if search.score.startswith("top"):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def _whole_numbers(axis: "Axis") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _readable(axes: "Axes") -> None:
    """Label logarithmic axes with plain numbers, also within a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = sorted(axis.get_view_interval())
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 1e3 else (1.0,), numticks=6))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())


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
