"""The figures of a search: which are drawn, that none fails on an odd search, what ours add to Optuna's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from raydet.tuning.report.figures import FIGURES, curves, draw, front, history, importance, parallel, schedules, slices
from raydet.tuning.trials.rows import Donation, Search
from tests.tuning.made import made, population, row_of, weighed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OF_ONE_KEY = ["curves", "history", "slices"]


def names(paths: list[Path]) -> list[str]:
    return sorted(path.stem for path in paths)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return made(tmp_path / "mine", 12, space="lr")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> "Iterator[list[Figure]]":
    """The figures made since the test began, in order; no file is written."""
    kept: list[Figure] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *args, **kwargs: kept.append(self))
    yield kept
    plt.close("all")


def legend(axes: "Axes") -> list[str]:
    found = axes.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


@pytest.mark.slow
def test_a_search_is_drawn_as_whole_images_for_owner_and_group(search: Search) -> None:
    before = plt.get_fignums(), plt.get_backend(), plt.rcParams["axes.facecolor"]
    paths = draw(search)
    assert names(paths) == OF_ONE_KEY
    for path in paths:
        assert path.parent == search.folder / "figures"
        assert path.stat().st_mode & 0o777 == 0o640
        with Image.open(path) as image:
            image.load()
            assert len(image.getcolors(1 << 24) or []) > 20
    assert names(list((search.folder / "figures").iterdir())) == OF_ONE_KEY, "nothing else is left there"
    assert (plt.get_fignums(), plt.get_backend(), plt.rcParams["axes.facecolor"]) == before, "the caller's pyplot"


def test_what_has_nothing_to_show_is_not_drawn_and_its_old_file_goes(search: Search) -> None:
    failed = tuple(replace(r, state="failed", curve=(), epochs=0) for r in search.rows)
    for rows, expected in ((search.rows[:1], ["curves"]), (failed, []), ((), [])):
        (search.folder / "figures").mkdir(parents=True, exist_ok=True)
        (search.folder / "figures" / "history.png").touch()
        assert names(draw(replace(search, rows=rows))) == expected
        assert names(list((search.folder / "figures").iterdir())) == expected


def test_an_error_while_drawing_leaves_the_old_file_and_no_other(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(search: Search, path: Path) -> bool:
        path.write_bytes(b"half")
        raise OSError("disk full")

    old = search.folder / "figures" / "history.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    monkeypatch.setitem(FIGURES, "history", half)
    with pytest.raises(OSError, match="disk full"):
        draw(search)
    assert old.read_bytes() == b"old" and list(old.parent.iterdir()) == [old] and not plt.get_fignums()


def odd_searches(folder: Path) -> dict[str, Search]:
    search = made(folder / "mine", 12, space="lr")
    fixed = made(folder / "mine", 6, space=None, sets=["optim.lr=choice(0.003)", "ema.decay=choice(none, 0.99)"])
    names = made(folder / "mine", 4, space=None, sets=["optim.lr=uniform(0.001, 0.1)", "ema.decay=choice(none, 0.99)"])
    wide = replace(names.rows[1], params={"optim.lr": 1e30, "ema.decay": "$x_{1$" * 50})
    return {
        "three trials": made(folder / "mine", 3),
        "one score and none finished": replace(
            search, rows=tuple(replace(row, state="stopped", curve=((1, 0.5),)) for row in search.rows)
        ),
        "choices only, one constant": fixed,
        "values outside the range, none": replace(
            names, rows=(names.rows[0], wide, replace(names.rows[2], params={}), names.rows[3])
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("which", odd_searches(Path("x")))
def test_no_figure_fails_on_an_odd_search(tmp_path: Path, which: str) -> None:
    search = odd_searches(tmp_path)[which]
    found = names(draw(search))
    assert {"history", "curves", "slices"} <= set(found) and ("parallel" in found) == (len(search.space.keys) > 1)


@pytest.mark.slow
def test_values_that_change_on_the_way_are_not_compared_but_drawn_as_schedules(tmp_path: Path) -> None:
    assert names(draw(population(tmp_path / "mine"))) == ["curves", "history", "schedules"]


def test_the_history_counts_trials_as_the_search_does_and_names_default_best_and_stopped(
    search: Search, drawn: "list[Figure]", tmp_path: Path
) -> None:
    assert history(search, tmp_path / "x.png")
    (axes,) = drawn[-1].axes
    assert legend(axes) == ["trial", "best so far", "stopped early", "default (trial 1)"]
    shown = sorted(number for number, _ in axes.collections[0].get_offsets())
    assert shown == [row.number for row in search.rows if row.score is not None]
    ys = list(axes.lines[0].get_ydata())
    assert ys == sorted(ys) and (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "top1")
    assert axes.get_title(loc="center") == "" and "11 of 12" in axes.get_title(loc="left")


def test_curves_stand_out_for_default_and_best(search: Search, drawn: "list[Figure]", tmp_path: Path) -> None:
    assert curves(search, tmp_path / "x.png")
    (axes,) = drawn[-1].axes
    assert sorted(legend(axes)) == ["best (trial 3)", "default (trial 1)"]
    lines = {tuple(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert lines == {row.curve for row in search.rows if row.curve}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs", "top1")


def test_a_first_trial_that_took_other_weights_is_not_called_the_default(
    search: Search, drawn: "list[Figure]", tmp_path: Path
) -> None:
    taken = replace(search, donations=(Donation(number=1, epoch=2, donor=3, before={}, after={}),))
    assert history(taken, tmp_path / "x.png") and curves(taken, tmp_path / "x.png")
    assert not any("default" in text for figure in drawn for text in legend(figure.axes[0]))


def test_bad_trials_do_not_press_the_good_ones_into_a_line(
    search: Search, drawn: "list[Figure]", tmp_path: Path
) -> None:
    scores = [0.90, 0.91, 0.92, 0.905, 0.915, 0.01, 0.0]
    rows = tuple(row_of(n, score=score, params=search.rows[0].params) for n, score in enumerate(scores, 1))
    for figure in (history, slices):
        assert figure(replace(search, rows=rows), tmp_path / "x.png")
        axes = drawn[-1].axes[0]
        assert axes.get_ylim()[0] > 0.8 and axes.get_ylabel() == "top1  (2 lower: not shown)"


@pytest.mark.slow
def test_keys_are_shown_under_their_names_log_ones_with_plain_numbers(drawn: "list[Figure]", tmp_path: Path) -> None:
    search = made(tmp_path / "mine", 12)
    assert slices(search, tmp_path / "x.png") and parallel(search, tmp_path / "x.png")
    panels = {axes.get_xlabel(): axes for axes in drawn[0].axes[:-1]}
    assert set(panels) == set(search.space.keys)
    ticks = [tick.get_text() for tick in panels["optim.lr"].get_xticklabels()]
    assert panels["optim.lr"].get_xscale() == "log" and "0.001" in ticks
    assert len(drawn[1].axes[0].collections[0].get_segments()) == sum(row.score is not None for row in search.rows)


def test_of_many_keys_those_that_matter_most_are_shown(drawn: "list[Figure]", tmp_path: Path) -> None:
    search = made(tmp_path / "mine", 12, space="qat", of="demo_classification_qat")
    assert slices(search, tmp_path / "x.png")
    assert len(drawn[-1].axes) == 6 + 1 and "optim.lr" in [axes.get_xlabel() for axes in drawn[-1].axes]
    assert drawn[-1].axes[0].get_title(loc="left") == f"Score over each key: 6 of {len(search.space.keys)} keys"


@pytest.mark.slow
def test_bars_are_grey_where_chance_does_as_well(drawn: "list[Figure]", tmp_path: Path) -> None:
    assert importance(made(tmp_path / "mine", 30), tmp_path / "x.png")
    (axes,) = drawn[-1].axes
    bars = sorted(axes.patches, key=lambda bar: bar.get_width())
    assert sum(bar.get_width() for bar in bars) == pytest.approx(1)
    assert bars[-1].get_facecolor() != bars[0].get_facecolor() and "grey: chance does as well" in axes.get_xlabel()
    assert importance(made(tmp_path / "mine", 12), tmp_path / "x.png")
    assert "too few to tell much" in drawn[-1].axes[0].get_xlabel()


def test_the_front_is_drawn_with_its_trials_numbers(search: Search, drawn: "list[Figure]", tmp_path: Path) -> None:
    assert not front(search, tmp_path / "x.png"), "without further objectives there is none"
    for objectives in ({"latency_ms": 4.0}, {"latency_ms": 4.0, "size_mb": 20.0}):
        assert front(weighed(search, **objectives), tmp_path / "x.png")
        axes = drawn[-1].axes[0]
        assert [axes.get_xlabel(), axes.get_ylabel()] == ["top1", "latency_ms"]
    assert drawn[0].axes[0].texts[0].get_text() in {str(row.number) for row in search.rows}


def test_a_schedule_steps_where_a_trial_took_anothers_weights(tmp_path: Path, drawn: "list[Figure]") -> None:
    search = population(tmp_path / "mine")
    assert schedules(search, tmp_path / "x.png")
    (axes,) = drawn[-1].axes
    assert axes.get_ylabel() == "optim.lr", "keys that never changed are left out"
    assert sum(list(line.get_xdata()) == [0, 3, 6, 10] for line in axes.lines) == 3
    before, after = {"optim.lr": 1e-9, "ema.decay": None}, {"optim.lr": 50.0, "ema.decay": 0.5}
    odd = replace(search, donations=(Donation(number=2, epoch=4, donor=1, before=before, after=after),))
    assert schedules(odd, tmp_path / "x.png") and len(drawn[-1].axes) == 2
