"""Figures over keys: every key has its panel, every value its place, and texts do not cover each other."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raydet.tuning.report.figure_panels import importance, parallel, slices
from raydet.tuning.trials.rows import Search
from tests.tuning.drawn import figures, legend_of, overlaps
from tests.tuning.made import made, population

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figures"]
LONG = "augment.autoaugment=choice(None, 'imagenet')"
SPACES = [
    ("lr", "demo_classification"),
    ("lr_wd", "demo_classification"),
    ("augment", "demo_detection"),
    ("qat", "demo_classification_qat"),
]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return made(tmp_path / "mine", 12)


@pytest.mark.parametrize(("space", "of"), SPACES)
@pytest.mark.parametrize("trials", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_each_key_has_a_panel_and_no_text_covers_another(
    tmp_path: Path, figures: "list[Figure]", space: str, of: str, trials: int
) -> None:
    search = made(tmp_path / "mine", trials, space=space, of=of)
    assert slices(search, tmp_path / "x.png")
    assert [axes.get_title(loc="left") for axes in figures[-1].axes] == search.space.keys
    assert overlaps(figures[-1]) == []


@pytest.mark.parametrize(("space", "of"), SPACES[1:])
def test_all_keys_and_the_score_stand_side_by_side_and_no_text_covers_another(
    tmp_path: Path, figures: "list[Figure]", space: str, of: str
) -> None:
    search = made(tmp_path / "mine", 30, space=space, of=of)
    assert parallel(search, tmp_path / "x.png")
    names = [label.get_text().replace("\n", "") for label in figures[-1].axes[0].get_xticklabels()]
    assert names == [*search.space.keys, search.score]
    assert overlaps(figures[-1]) == []


def test_one_line_for_each_trial_with_a_score(search: Search, figures: "list[Figure]", tmp_path: Path) -> None:
    assert parallel(search, tmp_path / "x.png")
    whole = [line for line in figures[-1].axes[0].lines if len(line.get_xdata()) == len(search.space.keys) + 1]
    assert len(whole) == sum(row.score is not None for row in search.rows)
    assert legend_of(figures[-1]) == ["default (trial 1)", "best (trial 3)"]


def test_colours_of_scores_have_a_bar_and_none_is_pale(search: Search, figures: "list[Figure]", tmp_path: Path) -> None:
    from matplotlib.colors import to_rgb

    assert parallel(search, tmp_path / "x.png")
    axes, bar = figures[-1].axes
    assert bar.get_ylabel() == search.score
    best = max(row.score or 0.0 for row in search.rows)
    assert bar.get_ylim()[1] == pytest.approx(best)
    lines = [to_rgb(line.get_color()) for line in axes.lines if len(line.get_xdata()) > 2]
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in lines]
    assert max(light) < 0.7, "on white"


@pytest.mark.parametrize(("trials", "most"), [(20, 0.0), (60, 0.125 / 4)])
def test_values_of_a_choice_stand_at_their_tick_and_are_spread_a_little_only_where_there_are_many(
    tmp_path: Path, figures: "list[Figure]", trials: int, most: float
) -> None:
    search = made(tmp_path / "mine", trials)
    assert slices(search, tmp_path / "x.png")
    axes = figures[-1].axes[search.space.keys.index("ema.decay")]
    xs = [x for points in axes.collections for x, _ in points.get_offsets()]
    away = [min(abs(x - tick) for tick in axes.get_xticks()) for x in xs]
    assert len(xs) > 10 and max(away) <= most + 1e-9 and (most == 0 or max(away) > most / 2)


def test_one_key_is_no_figure_side_by_side(tmp_path: Path) -> None:
    assert not parallel(made(tmp_path / "mine", 12, space="lr"), tmp_path / "x.png")


@pytest.mark.parametrize("trials", [0, 1])
def test_of_fewer_than_two_trials_nothing_is_compared(search: Search, tmp_path: Path, trials: int) -> None:
    few = replace(search, rows=search.rows[:trials])
    assert not any(draws(few, tmp_path / "x.png") for draws in (slices, parallel, importance))
    assert not (tmp_path / "x.png").exists()


def test_values_that_change_on_the_way_are_not_compared(tmp_path: Path) -> None:
    search = population(tmp_path / "mine", 8)
    assert not any(draws(search, tmp_path / "x.png") for draws in (slices, parallel, importance))


def test_a_search_of_no_key_has_no_panels(search: Search, tmp_path: Path) -> None:
    bare = replace(search, space=replace(search.space, domains={}))
    assert not any(draws(bare, tmp_path / "x.png") for draws in (slices, parallel, importance))


def test_bars_are_the_shares_the_largest_on_top_and_grey_where_chance_does_as_well(
    figures: "list[Figure]", tmp_path: Path
) -> None:
    assert importance(made(tmp_path / "mine", 30), tmp_path / "x.png")
    (axes,) = figures[-1].axes
    widths = [bar.get_width() for bar in axes.patches]
    assert sum(widths) == pytest.approx(1) and widths == sorted(widths, reverse=True)
    assert axes.get_yticklabels()[0].get_text() == "optim.lr" and axes.yaxis_inverted()
    assert "grey: chance does as well" in axes.get_xlabel()
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2
    assert overlaps(figures[-1]) == []


@pytest.mark.parametrize(("trials", "few"), [(12, True), (30, False)])
def test_under_the_bars_stands_from_how_many_trials_and_whether_they_are_few(
    figures: "list[Figure]", tmp_path: Path, trials: int, few: bool
) -> None:
    search = made(tmp_path / "mine", trials)
    assert importance(search, tmp_path / "x.png")
    label = figures[-1].axes[0].get_xlabel()
    ran = sum(row.state in ("finished", "stopped", "diverged") for row in search.rows)
    assert f"from {ran} trials" in label and ("too few to tell much" in label) == few
    assert overlaps(figures[-1]) == []


def test_trials_that_lack_a_key_or_have_a_strange_value_are_borne(search: Search, tmp_path: Path) -> None:
    strange = [
        {},
        {"optim.lr": None},
        {"optim.lr": 0.0},
        {"optim.lr": "x"},
        {"ema.decay": "a" * 200},
        {"optim.lr": 1e30},
    ]
    rows = tuple(
        replace(row, params=more) for row, more in zip(search.rows, [search.rows[0].params, *strange], strict=False)
    )
    odd = replace(search, rows=rows)
    assert slices(odd, tmp_path / "x.png") and parallel(odd, tmp_path / "x.png")


def test_long_names_of_a_choice_are_cut_and_do_not_cover_each_other(tmp_path: Path, figures: "list[Figure]") -> None:
    names = [f"a very long name of a model, number {i}, $x_{i}$" for i in range(6)]
    search = made(tmp_path / "mine", 12, space=None, sets=["optim.name=choice('adamw', 'sgd', 'rmsprop')", LONG])
    rows = tuple(replace(r, params=r.params | {"optim.name": names[r.number % 6]}) for r in search.rows)
    long = replace(search, rows=rows)
    assert slices(long, tmp_path / "x.png") and parallel(long, tmp_path / "x.png")
    labels = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert all(len(label) <= 18 for label in labels)
    assert overlaps(figures[0]) == [] and overlaps(figures[1]) == []
