"""Figures over trials and epochs: which are drawn, what they show, that texts do not cover each other."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from raydet.tuning.report.figures import FIGURES, curves, draw, front, history, schedules
from raydet.tuning.trials.rows import Donation, Search, State
from tests.tuning.drawn import figures, legend_of, overlaps
from tests.tuning.made import made, population, row_of, weighed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figures"]
OF_ONE_KEY = ["curves", "history", "importance", "slices"]


def names(paths: list[Path]) -> list[str]:
    return sorted(path.stem for path in paths)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return made(tmp_path / "mine", 12, space="lr")


def test_a_search_is_drawn_as_whole_images_for_owner_and_group(search: Search) -> None:
    paths = draw(search)
    assert names(paths) == OF_ONE_KEY
    for path in paths:
        assert path.parent == search.folder / "figures"
        assert path.stat().st_mode & 0o777 == 0o640
        with Image.open(path) as image:
            image.load()
            assert len(image.getcolors(1 << 24) or []) > 20
    assert names(list((search.folder / "figures").iterdir())) == OF_ONE_KEY, "nothing else is left there"


def test_what_has_nothing_to_show_is_not_drawn_and_its_old_file_goes(search: Search) -> None:
    draw(search)
    for rows in ((), tuple(replace(r, state="failed", curve=(), epochs=0) for r in search.rows)):
        (search.folder / "figures" / "history.png").touch()
        assert draw(replace(search, rows=rows)) == []
        assert list((search.folder / "figures").iterdir()) == []


@pytest.mark.slow
def test_several_keys_are_drawn_side_by_side_and_objectives_as_a_front(tmp_path: Path) -> None:
    search = weighed(made(tmp_path / "mine", 4, sets=["optim.lr=choice(0.003)"]), latency_ms=4.0)
    assert names(draw(search)) == sorted([*OF_ONE_KEY, "parallel", "pareto"])


def test_of_one_trial_there_is_its_curve(search: Search) -> None:
    assert names(draw(replace(search, rows=search.rows[:1]))) == ["curves"]


def test_an_error_while_drawing_leaves_the_old_file_and_no_other(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(search)
    before = (search.folder / "figures" / "history.png").read_bytes()

    def half(search: Search, path: Path) -> bool:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setitem(FIGURES, "history", half)
    with pytest.raises(OSError, match="disk full"):
        draw(search)
    assert (search.folder / "figures" / "history.png").read_bytes() == before
    assert names(list((search.folder / "figures").iterdir())) == OF_ONE_KEY


@pytest.mark.parametrize("state", ["running", "waiting", "stopped", "diverged"])
def test_a_search_without_a_finished_trial_is_drawn(
    search: Search, state: State, figures: "list[Figure]", tmp_path: Path
) -> None:
    rows = tuple(replace(row, state=state) for row in search.rows)
    search = replace(search, rows=rows)
    assert history(search, tmp_path / "x.png") and curves(search, tmp_path / "x.png")
    assert all(state in legend_of(figure) for figure in figures)


@pytest.mark.parametrize("scores", [(0.0, 0.0), (1.0, 1.0), (1e-9, 2e-9), (0.0, 1e-12), (0.3, 1e6), (-1.0, -2.0)])
def test_scores_of_any_size_are_drawn(search: Search, scores: tuple[float, float], tmp_path: Path) -> None:
    rows = tuple(replace(row, state="finished", curve=((1, scores[n % 2]),)) for n, row in enumerate(search.rows))
    odd = replace(search, rows=rows)
    assert history(odd, tmp_path / "x.png")


@pytest.mark.parametrize("trials", [2, 12, pytest.param(200, marks=pytest.mark.slow)])
def test_no_text_covers_another(tmp_path: Path, figures: "list[Figure]", trials: int) -> None:
    search = weighed(made(tmp_path / "mine", trials), latency_ms=4.0)
    for draws in (history, curves, front):
        assert draws(search, tmp_path / "x.png")
        assert overlaps(figures[-1]) == []


def test_the_history_names_each_state_once_and_the_failed(
    search: Search, figures: "list[Figure]", tmp_path: Path
) -> None:
    assert history(search, tmp_path / "x.png")
    assert sorted(legend_of(figures[-1])) == sorted(
        ["best so far", "default (trial 1)", "finished", "stopped", "diverged", "failed", "best (trial 3)"]
    )


def test_the_line_of_the_best_so_far_never_falls_and_ends_at_the_best(
    search: Search, figures: "list[Figure]", tmp_path: Path
) -> None:
    assert history(search, tmp_path / "x.png")
    line = next(line for line in figures[-1].axes[0].lines if line.get_label() == "best so far")
    ys = list(line.get_ydata())
    assert ys == sorted(ys)
    assert search.best is not None and ys[-1] == search.best.score


def test_every_curve_is_drawn_as_it_was(search: Search, figures: "list[Figure]", tmp_path: Path) -> None:
    assert curves(search, tmp_path / "x.png")
    lines = [tuple(zip(*line.get_data(), strict=True)) for line in figures[-1].axes[0].lines]
    for row in search.rows:
        assert not row.curve or row.curve in lines


@pytest.mark.parametrize("trials", [12, 60])
def test_trials_with_one_evaluation_are_named_with_their_sign(
    figures: "list[Figure]", tmp_path: Path, trials: int
) -> None:
    search = made(tmp_path / "mine", trials, space="lr")
    once = tuple(replace(r, curve=r.curve[:1]) if r.state == "stopped" and r.number % 2 else r for r in search.rows)
    assert curves(replace(search, rows=once), tmp_path / "x.png")
    legend = figures[-1].legends[0]
    named = dict(zip(legend_of(figures[-1]), legend.get_lines(), strict=True))
    alone, line = named["stopped, one evaluation"], named["stopped"]
    assert (alone.get_linestyle(), alone.get_marker()) == ("None", "v")
    assert (line.get_linestyle(), line.get_marker()) == ("-", "v")
    assert named["finished"].get_marker() == "None" and len(named) == len(set(named))


def test_the_front_is_drawn_over_each_objective(search: Search, figures: "list[Figure]", tmp_path: Path) -> None:
    two = weighed(search, latency_ms=4.0, size_mb=20.0)
    assert front(two, tmp_path / "x.png")
    assert [axes.get_xlabel() for axes in figures[-1].axes] == [
        "latency_ms (less is better)",
        "size_mb (less is better)",
    ]
    assert not front(search, tmp_path / "y.png"), "without further objectives there is none"


def test_a_schedule_steps_where_a_trial_took_anothers_weights(tmp_path: Path, figures: "list[Figure]") -> None:
    search = population(tmp_path / "mine")
    assert schedules(search, tmp_path / "x.png")
    (axes,) = figures[-1].axes
    assert axes.get_title(loc="left") == "optim.lr", "keys that never changed are left out"
    stepped = [list(line.get_xdata()) for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert sum(xs == [0, 3, 6, 10] for xs in stepped) == 3
    assert overlaps(figures[-1]) == []


def test_a_population_is_drawn_with_its_schedules_and_without_what_needs_fixed_values(tmp_path: Path) -> None:
    assert names(draw(population(tmp_path / "mine"))) == ["curves", "history", "schedules"]


def test_values_outside_the_range_and_of_choices_have_their_place_in_a_schedule(tmp_path: Path) -> None:
    search = population(tmp_path / "mine")
    before = {"optim.lr": 1e-9, "ema.decay": None}
    after = {"optim.lr": 50.0, "ema.decay": 0.5}
    search = replace(search, donations=(Donation(number=2, epoch=4, donor=1, before=before, after=after),))
    assert schedules(search, tmp_path / "x.png")


def test_a_first_trial_that_took_other_weights_is_not_called_the_default(
    search: Search, figures: "list[Figure]", tmp_path: Path
) -> None:
    taken = replace(search, donations=(Donation(number=1, epoch=2, donor=3, before={}, after={}),))
    assert history(taken, tmp_path / "x.png") and curves(taken, tmp_path / "x.png")
    assert not any("default" in text for figure in figures for text in legend_of(figure))


def test_bad_trials_do_not_press_the_good_ones_into_a_line(
    search: Search, figures: "list[Figure]", tmp_path: Path
) -> None:
    scores = [0.90, 0.91, 0.92, 0.905, 0.915, 0.01, 0.0]
    rows = tuple(row_of(n, score=score, params=search.rows[0].params) for n, score in enumerate(scores, 1))
    assert history(replace(search, rows=rows), tmp_path / "x.png")
    axes = figures[-1].axes[0]
    assert axes.get_ylim()[0] > 0.8
    assert axes.get_ylabel() == "top1  (2 lower: at the edge)"
