"""What a search leaves: a configuration that can be trained, a table, and a verdict that does not sell luck."""

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from raydet.config import load, override
from raydet.tuning.report import results
from raydet.tuning.trials.rows import Donation, Repeat, Row, Search
from tests.tuning.made import confirmed, made, population, row_of, weighed


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return made(tmp_path / "runs" / "mine", 12)


def two(tmp_path: Path, default: float, best: float) -> Search:
    """A search of the default and another, finished both."""
    search = made(tmp_path / "two", 2)
    first, second = search.rows
    rows = [row_of(1, score=default, params=first.params), row_of(2, score=best, params=second.params)]
    return replace(search, rows=tuple(rows))


def nothing_scored(search: Search) -> list[Search]:
    bare = [replace(row, state="failed", curve=(), error="no") for row in search.rows]
    return [replace(search, rows=()), replace(search, rows=tuple(bare))]


def test_the_best_configuration_goes_straight_into_a_run(search: Search) -> None:
    assert search.best is not None and search.best.number != 1
    results.write(search)
    best = load(search.folder / "best.json")
    assert best.optim.lr == search.best.params["optim.lr"]
    assert best.run.name == "mine-best"
    place = {"run.name": search.cfg.run.name}
    assert override(best, place) == search.space.config(search.cfg, search.best.params)


def test_the_default_as_best_is_the_configuration_itself(tmp_path: Path) -> None:
    search = made(tmp_path / "mine", 1)
    results.write(search)
    assert load(search.folder / "best.json") == override(search.cfg, {"run.name": "mine-best"})


@pytest.mark.parametrize("name", ["x" * 64, "mein Lauf (ü)"])
def test_any_folder_gives_the_best_run_a_name_it_may_have(tmp_path: Path, name: str) -> None:
    search = replace(made(tmp_path / "runs" / "mine", 1), folder=tmp_path / name)
    best = results.best_config(search)
    assert best is not None and best.run.name.endswith("-best")


def test_without_a_score_there_is_no_best_file_but_a_table(search: Search) -> None:
    for bare in nothing_scored(search):
        results.write(bare)
        assert not (search.folder / "best.json").exists()
        with (search.folder / "trials.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(bare.rows)


def test_files_are_for_their_owner_and_group_only(search: Search) -> None:
    results.write(search)
    for name in ("best.json", "trials.csv"):
        assert (search.folder / name).stat().st_mode & 0o777 == 0o640


def test_the_table_holds_every_trial_and_every_key(search: Search) -> None:
    search = weighed(search, latency_ms=4.0)
    results.write(search)
    with (search.folder / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    for line, row in zip(table, search.rows, strict=True):
        assert (int(line["number"]), line["state"], int(line["epochs"])) == (row.number, row.state, row.epochs)
        assert (float(line["score"]) if line["score"] else None) == row.score
        assert float(line["optim.lr"]) == row.params["optim.lr"]
        assert (float(line["latency_ms"]) if line["latency_ms"] else None) == row.values.get("latency_ms")
        assert line["error"] == (row.error or "")
    assert {line["ema.decay"] for line in table} >= {"", "0.99"}, "off is an empty cell"


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "=HYPERLINK(\n'x')"])
def test_no_text_of_the_table_is_run_by_a_spreadsheet(search: Search, text: str) -> None:
    first, *others = search.rows
    rows = (replace(first, error=text), *(replace(r, state="stopped", params={"ema.decay": text}) for r in others))
    donation = Donation(number=2, epoch=1, donor=1, before={"ema.decay": text}, after={})
    results.write(replace(search, rows=rows, donations=(donation,)))
    for name in ("trials.csv", "lineage.csv"):
        with (search.folder / name).open() as file:
            cells = [cell for line in list(csv.reader(file))[1:] for cell in line]
        assert any(cell.startswith("'") for cell in cells)
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_the_frame_has_the_tables_columns_and_values(search: Search) -> None:
    results.write(search)
    frame = results.frame(search)
    with (search.folder / "trials.csv").open() as file:
        assert list(frame.columns) == next(csv.reader(file))
    assert frame["score"].max() == max(row.score for row in search.rows if row.score is not None)
    assert list(results.frame(replace(search, rows=())).columns) == list(frame.columns)


def test_the_lineage_tells_who_took_whose_weights(tmp_path: Path) -> None:
    search = population(tmp_path / "mine")
    results.write(search)
    with (search.folder / "lineage.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, donation in zip(lines, search.donations, strict=True):
        assert (int(line["number"]), int(line["epoch"]), int(line["donor"])) == (donation.number, donation.epoch, 1)
        assert float(line["optim.lr before"]) == donation.before["optim.lr"]
        assert float(line["optim.lr after"]) == donation.after["optim.lr"] != donation.before["optim.lr"]


def test_one_run_each_is_never_said_as_a_gain(tmp_path: Path) -> None:
    found = results.gain(two(tmp_path, 0.5, 0.9))
    assert found is not None and found.error is None and not found.repeated
    assert found.verdict.endswith("one run each: may be noise; repeat with --confirm 3")
    assert "better than the default by 40.00 points" in found.verdict


def test_the_score_that_the_best_was_chosen_by_does_not_count_once_it_was_repeated(tmp_path: Path) -> None:
    found = results.gain(confirmed(two(tmp_path, 0.70, 0.99), [0.70, 0.71, 0.69], [0.70, 0.69, 0.71]))
    assert found is not None and found.repeated
    assert found.best.scores == (0.70, 0.69, 0.71)
    assert found.default.scores == (0.70, 0.70, 0.71, 0.69), "trial 1 was not chosen by its score, so it counts"
    assert found.verdict.startswith("not distinguishable from the default")


def test_repeats_of_the_default_alone_do_not_make_a_gain(tmp_path: Path) -> None:
    found = results.gain(confirmed(two(tmp_path, 0.70, 0.99), [0.70, 0.71, 0.69], []))
    assert found is not None and found.error is None
    assert "1 run against 4: may be noise" in found.verdict


@pytest.mark.parametrize(
    ("best", "verdict"),
    [
        ([0.800, 0.805, 0.795], "better than the default by 10.00 points, more than two standard errors"),
        ([0.705, 0.710, 0.700], "not distinguishable from the default: better by 0.50 points"),
        ([0.695, 0.700, 0.690], "not distinguishable from the default: worse by 0.50 points"),
        ([0.600, 0.605, 0.595], "worse than the default by 10.00 points, more than two standard errors"),
    ],
)
def test_a_difference_counts_from_two_standard_errors_on(tmp_path: Path, best: list[float], verdict: str) -> None:
    found = results.gain(confirmed(two(tmp_path, 0.70, 0.99), [0.705, 0.695, 0.70], best))
    assert found is not None and found.error is not None
    assert found.verdict.startswith(verdict)
    assert ("keep the default" in found.verdict) == (best[0] == 0.6)


def test_the_standard_error_is_that_of_two_samples_of_their_own_spread(tmp_path: Path) -> None:
    found = results.gain(confirmed(two(tmp_path, 0.6, 0.9), [0.7, 0.8], [0.5, 0.9]))
    assert found is not None and found.error is not None
    assert found.default.deviation == pytest.approx(0.1)
    assert found.error == pytest.approx((0.1**2 / 3 + 0.08 / 2) ** 0.5)


def test_chance_rarely_passes_for_a_gain(tmp_path: Path) -> None:
    search, draw, passed = two(tmp_path, 0.7, 0.9), random.Random(0), 0
    for _ in range(400):
        scores = [draw.gauss(0.7, 0.01) for _ in range(7)]
        default, best = search.rows
        rows = (replace(default, curve=((10, scores[0]),)), best)
        found = results.gain(confirmed(replace(search, rows=rows), scores[1:4], scores[4:]))
        passed += found is not None and found.verdict.startswith("better than")
    assert passed / 400 < 0.09  # 5.4 % by simulation; three standard errors of 400 draws are 3.4 %


def test_there_is_no_gain_to_tell_without_two_sides(search: Search, tmp_path: Path) -> None:
    for bare in [*nothing_scored(search), two(tmp_path, 0.9, 0.5), made(tmp_path / "one", 1)]:
        assert results.gain(bare) is None
    broken = replace(search.rows[0], state="failed", curve=(), error="no")
    assert results.gain(replace(search, rows=(broken, *search.rows[1:]))) is None


def test_a_first_trial_that_took_other_weights_is_no_run_of_the_default(tmp_path: Path) -> None:
    search = two(tmp_path, 0.5, 0.9)
    taken = replace(search, donations=(Donation(number=1, epoch=2, donor=2, before={}, after={}),))
    assert results.gain(taken) is None
    found = results.gain(replace(taken, repeats=(Repeat(number=1, seed=43, score=0.6),)))
    assert found is not None and found.default.scores == (0.6,)


def test_the_front_is_what_no_other_beats_in_all(search: Search) -> None:
    draw = random.Random(1)
    rows = [row_of(n, score=draw.random(), values={"a": draw.random(), "b": draw.random()}) for n in range(1, 80)]
    search = replace(search, rows=tuple(rows), objectives=("a", "b"))
    front = results.pareto(search)

    def beaten(row: Row) -> bool:
        return any(
            (o.score or 0) >= (row.score or 0) and o.values["a"] <= row.values["a"] and o.values["b"] <= row.values["b"]
            for o in rows
            if o is not row
        )

    assert {row.number for row in front} == {row.number for row in rows if not beaten(row)}
    assert [row.score for row in front] == sorted((row.score or 0 for row in front), reverse=True)


def test_of_equal_trials_the_first_is_in_front(search: Search) -> None:
    rows = tuple(row_of(n, score=0.5, values={"a": 1.0}) for n in (1, 2, 3))
    assert [row.number for row in results.pareto(replace(search, rows=rows, objectives=("a",)))] == [1]


def test_only_finished_trials_with_all_objectives_are_in_front(search: Search) -> None:
    rows = (row_of(1, score=0.9, state="stopped", values={"a": 0.1}), row_of(2, score=0.9), row_of(3, values={"a": 1}))
    search = replace(search, rows=rows)
    assert [row.number for row in results.pareto(replace(search, objectives=("a",)))] == [3]
    assert results.pareto(search) == []


def test_the_best_file_is_whole_json(search: Search) -> None:
    results.write(search)
    assert json.loads((search.folder / "best.json").read_text())["recipe"] == "demo_classification"
