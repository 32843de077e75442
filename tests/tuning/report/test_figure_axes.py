"""The axes of a search's figures: where a value stands, which ticks there are, where the scores end."""

from itertools import pairwise
from pathlib import Path

import pytest

from raydet.tuning.report.figure_axes import SIGNS, Scale, lowest, scale_of, short
from raydet.tuning.trials.rows import RAN
from tests.tuning.made import made, row_of


@pytest.mark.parametrize(
    ("scale", "value", "place"),
    [
        (Scale(True, (), 1e-4, 1.0), 1e-2, 0.5),
        (Scale(False, (), 0.0, 4.0), 1, 0.25),
        (Scale(False, (), 3.0, 3.0), 3.0, 0.5),
        (Scale(False, (None, 0.99), 0, 1), None, 0.25),
        (Scale(False, (True, 1), 0, 1), 1, 0.75),
        (Scale(True, (), 1e-4, 1.0), 0.0, None),
        (Scale(True, (), 1e-4, 1.0), "x", None),
        (Scale(False, ("a",), 0, 1), "b", None),
    ],
)
def test_a_value_stands_where_its_scale_has_it(scale: Scale, value: object, place: float | None) -> None:
    assert scale.place(value) == (None if place is None else pytest.approx(place))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("ends", [(1e-12, 10.0), (0.8, 0.95), (1.0, 2.0), (1e-7, 3e-7), (1.0, 4096.0), (5.0, 5.0)])
def test_ticks_are_few_at_both_ends_and_apart(log: bool, ends: tuple[float, float]) -> None:
    ticks = Scale(log, (), *ends).ticks(0.07)
    places = sorted(place for place, _ in ticks)
    assert 1 <= len(ticks) <= 9
    assert {f"{end:.3g}" for end in ends} <= {text for _, text in ticks}
    assert all(b - a > 0.05 for a, b in pairwise(places))


def test_a_scale_holds_the_range_and_what_was_seen(tmp_path: Path) -> None:
    search = made(tmp_path / "mine", 2)
    scale = scale_of(search, "optim.lr", [5.0, None])
    assert scale.log and scale.low == pytest.approx(3e-5) and scale.high == 5.0
    assert scale_of(search, "ema.decay", [0.5]).names == (None, 0.99, 0.999, 0.9998, 0.5)
    assert not scale_of(search, "optim.momentum", []).log


@pytest.mark.parametrize("scores", [(0.5,), (0.9, 0.91, 0.92), (0.0, 0.0), (0.1, 0.5, 0.9)])
def test_scores_that_lie_together_are_all_shown(scores: tuple[float, ...]) -> None:
    assert lowest([row_of(n, score=score) for n, score in enumerate(scores, 1)]) == min(scores)


def test_scores_far_below_the_median_are_cut_off_and_the_better_half_never() -> None:
    scores = [0.9, 0.91, 0.92, 0.905, 0.0]
    floor = lowest([row_of(n, score=score) for n, score in enumerate(scores, 1)])
    assert 0.8 < floor <= 0.9
    assert lowest([]) == 0.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (99.999, "99.999"), (0.00012345678, "0.000123457"), ("a\nb", "a?b"), (True, "True")],
)
def test_values_are_short_texts(value: object, text: str) -> None:
    assert short(value) == text
    assert short("0123456789" * 10) == "012345678…23456789"


def test_each_state_has_a_sign_and_a_colour_of_its_own() -> None:
    assert set(RAN) <= set(SIGNS)
    assert len({colour for _, colour in SIGNS.values()}) == len(SIGNS)
    assert len({marker for marker, _ in (SIGNS[state] for state in RAN)}) == len(RAN)
