"""The page on a search: it says what came out and what it took, whatever the rows are, and shows text as text."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from raydet.tuning.report.summary import escaped, full_epochs, text, write_summary
from raydet.tuning.trials.rows import Row, Search, State
from tests.tuning.made import confirmed, made, population, row_of, weighed


@pytest.fixture(autouse=True)
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What chance does is test_importance's, and takes a second."""
    monkeypatch.setattr("raydet.tuning.report.summary.beyond_chance", lambda search: {"optim.lr"})


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return made(tmp_path / "runs" / "mine", 12)


def tables(page: str) -> list[list[str]]:
    """Return the tables of a page, each a list of lines."""
    found: list[list[str]] = [[]]
    for line in page.split("\n"):
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def all_in(search: Search, state: str) -> Search:
    rows = [replace(r, state=state, curve=() if state in ("failed", "waiting") else r.curve) for r in search.rows]
    return replace(search, rows=tuple(rows))


def test_the_result_comes_first_with_both_scores(search: Search) -> None:
    result = text(search).split("\n\n")[1]
    assert search.best is not None
    assert result.startswith(f"**Trial {search.best.number}, top1 ")
    assert "better than the default by" in result and "--confirm 3" in result


def test_a_repeated_best_is_said_with_runs_and_spread_of_both_sides(search: Search) -> None:
    result = text(confirmed(search, [0.69, 0.70, 0.71], [0.80, 0.81, 0.82])).split("\n\n")[1]
    assert "n = 4" in result and "n = 3" in result and "without the score that it was chosen by" in result
    assert "81.00 %" in result


def test_the_default_as_best_is_said_as_such(tmp_path: Path) -> None:
    assert "**The default, trial 1, is the best: top1" in text(made(tmp_path / "mine", 1))


@pytest.mark.parametrize("state", ["finished", "stopped", "diverged"])
@pytest.mark.parametrize("trials", [2, 30])
def test_where_all_scores_are_equal_the_search_is_said_to_tell_nothing(
    tmp_path: Path, state: State, trials: int
) -> None:
    score = 0.0 if state == "diverged" else 0.1
    rows = (
        *(row_of(n, state=state, score=score) for n in range(1, trials + 1)),
        row_of(99, state="failed", score=None),
    )
    page = text(replace(made(tmp_path / "mine", 1), rows=rows))
    start = f"**All {trials} trials that ended with a score have top1 {score * 100:.2f} %: the search tells nothing"
    assert page.split("\n\n")[1].startswith(start) and "is the best" not in page


@pytest.mark.parametrize("scores", [(0.5, 0.4), (0.5, 0.5, 0.4), (0.5,)])
def test_where_scores_differ_or_there_is_one_the_best_is_said(search: Search, scores: tuple[float, ...]) -> None:
    rows = tuple(row_of(n, score=score) for n, score in enumerate(scores, 1))
    assert "**The default, trial 1, is the best: top1 50.00 %.**" in text(replace(search, rows=rows))


def test_a_best_that_is_not_finished_is_said_as_such(search: Search) -> None:
    rows = (replace(search.rows[0], state="stopped"), *search.rows[1:3])
    rows = tuple(replace(row, state="stopped", curve=row.curve[:2], epochs=2) for row in rows)
    assert "It is stopped early, after 2 epochs: no trial is finished." in text(replace(search, rows=rows))


@pytest.mark.parametrize("state", ["waiting", "running", "stopped", "diverged", "failed"])
def test_a_search_of_one_state_only_has_a_page(search: Search, state: str) -> None:
    page = text(all_in(search, state))
    assert ("No trial has a score." in page) == (state in ("failed", "waiting"))
    assert ("--from" in page) == (state not in ("failed", "waiting"))


def test_an_empty_search_has_a_page(search: Search) -> None:
    page = text(replace(search, rows=(), ended="budget of 2h is used"))
    assert "No trial has a score." in page and "It ended early: budget of 2h is used." in page
    assert "0 of 12 trials" in page


def test_states_and_epochs_are_counted_for_all_trials(search: Search) -> None:
    page = text(search)
    for state, said in (("finished", "finished"), ("stopped", "stopped early"), ("failed", "failed")):
        assert f"{sum(row.state == state for row in search.rows)} {said}" in page
    assert f"{sum(row.epochs for row in search.rows)} epochs of the {12 * search.total_epochs} " in page
    assert "CPU-hours" in page


def test_epochs_of_a_population_are_those_of_all_its_stages(search: Search) -> None:
    rows = (row_of(1), row_of(2, epochs=10, spent=14), row_of(3, epochs=2, spent=0))
    assert "24 epochs of the 30 that as many full runs take (80 %)" in text(replace(search, rows=rows))


@pytest.mark.parametrize(
    ("algorithm", "scheduler", "said"),
    [
        ("tpe", "asha", "(tpe, early stopping by asha, 2 at a time)"),
        ("random", "none", "(random, no early stopping, 2 at a time)"),
        ("pbt", "pbt", "(pbt, the worst continuing from the weights of the best with changed values, 2 at a time)"),
    ],
)
def test_how_it_searched_is_said_in_words(search: Search, algorithm: str, scheduler: str, said: str) -> None:
    assert said in text(replace(search, algorithm=algorithm, scheduler=scheduler))


def test_the_time_said_is_what_was_spent_searching(search: Search) -> None:
    page = text(replace(search, seconds=3723.0))
    assert "1:02:03 spent searching." in page and "from start to end" not in page


def test_a_searched_number_of_epochs_counts_as_it_was_drawn(search: Search) -> None:
    rows = (row_of(1), row_of(2, params={"schedule.epochs": 3}), row_of(3, params={"schedule.cooldown_epochs": 2}))
    assert full_epochs(replace(search, rows=rows)) == 10 + 3 + 12


def test_every_key_is_listed_with_its_range_and_whether_chance_does_as_well(tmp_path: Path) -> None:
    search = made(tmp_path / "mine", 30)
    page = text(search)
    for key in search.space.keys:
        assert f"| {key} | " in page
    assert "loguniform(" in page and re.search(r"\| optim.lr \| .* \| \d+ % \|", page)
    assert "% (chance) |" in page


def test_what_the_shares_cannot_tell_stands_before_them(search: Search) -> None:
    page = text(search)
    before = page[page.index("## What was searched") : page.index("| key | range | share |")]
    assert "trials can be compared: below 20 the shares tell little." in before and "were stopped early" in before


@pytest.mark.parametrize("case", ["one key", "few trials", "equal scores", "pbt"])
def test_where_no_shares_can_be_said_there_is_no_column_for_them(tmp_path: Path, case: str) -> None:
    search = made(tmp_path / "mine", 3 if case == "few trials" else 30, space="lr" if case == "one key" else "lr_wd")
    if case == "pbt":
        search = population(tmp_path / "mine")
    if case == "equal scores":
        search = replace(search, rows=tuple(replace(r, state="finished", curve=((1, 0.5),)) for r in search.rows))
    page = text(search)
    table = next(table for table in tables(page) if table[0].startswith("| key |"))
    assert table[0] == "| key | range |" and len(table) == 2 + len(search.space.keys)
    part = page.partition("## What was searched")[2].partition("## The best")[0]
    assert not any(word in part for word in ("(chance)", "share", "trials"))


def test_the_best_ten_are_listed_finished_ones_first(tmp_path: Path) -> None:
    page = text(made(tmp_path / "mine", 200))
    table = next(table for table in tables(page) if table[0].startswith("| trial | state | top1 "))
    assert len(table) == 2 + 10
    assert all("| finished |" in line for line in table[2:])


def test_a_stopped_trial_stands_behind_the_finished_ones_whatever_its_score(search: Search) -> None:
    rows = (row_of(1, score=0.4), row_of(2, state="stopped", score=0.9), row_of(3, score=0.5))
    page = text(replace(search, rows=rows))
    table = next(table for table in tables(page) if table[0].startswith("| trial | state | top1 "))
    assert [line.split(" | ")[0] for line in table[2:]] == ["| 3", "| 1", "| 2"]


def test_failed_trials_are_listed_with_their_errors_and_long_lists_cut(search: Search) -> None:
    rows = tuple(row_of(n, state="failed", score=None, error=f"reason {n}") for n in range(1, 40))
    page = text(replace(search, rows=rows))
    assert "| 20 | failed | reason 20 |" in page and "reason 21" not in page
    assert "19 more in trials.csv." in page


def test_every_table_has_one_number_of_cells(search: Search) -> None:
    search = weighed(search, latency_ms=3.0)
    rows = tuple(
        replace(row, error="a | b\n| c \\| d", params=row.params | {"ema.decay": "x|y"}) for row in search.rows
    )
    for page in (text(search), text(replace(search, rows=rows)), text(population(search.folder))):
        assert len(tables(page)) > 2
        for table in tables(page):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


@pytest.mark.parametrize(
    "bad", ["a|b", "[x](y)", "<script>", "`a`", "![i](u)", "*b*", "_b_", "a\nb", "a\x00b", "\x1b[31m", "$x$"]
)
def test_text_of_others_stays_text(search: Search, bad: str) -> None:
    shown = escaped(bad)
    assert not re.search(r"(?<!\\)[|\[\]<>`*!$]|(?<![\\\w])_|[\x00-\x1f]", shown)
    rows = tuple(replace(row, state="failed", error=bad, curve=()) for row in search.rows)
    assert shown in text(replace(search, rows=rows))


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "none"), (True, "true"), (1e-300, "1e-300"), (123456789.0, "1.23457e+08"), (0.1 + 0.2, "0.3"), (7, "7")],
)
def test_values_are_short(value: object, said: str) -> None:
    assert escaped(value) == said


def test_a_long_text_is_cut(search: Search) -> None:
    assert len(escaped("x" * 5000)) == 300


def test_scores_are_written_as_in_the_table_of_epochs(tmp_path: Path) -> None:
    detector = made(tmp_path / "det", 2, space="augment", of="demo_detection")
    rows: tuple[Row, ...] = (row_of(1, score=0.4), row_of(2, score=0.595))
    assert "AP 0.595" in text(replace(detector, rows=rows))
    assert "top1 59.50 %" in text(replace(detector, rows=rows, score="top1"))


def test_the_front_is_listed_with_its_objectives(search: Search) -> None:
    page = text(weighed(search, latency_ms=4.0, size_mb=9.0))
    assert "## Score against latency_ms and size_mb" in page
    assert "## Score against" not in text(search)


def test_a_population_is_said_with_its_lineage_and_what_its_best_file_is(tmp_path: Path) -> None:
    search = population(tmp_path / "mine", 30)
    page = text(search)
    table = next(table for table in tables(page) if "from trial" in table[0])
    assert len(table) == 2 + 20 and "optim.lr" in table[2] and "→" in table[2]
    assert f"{len(search.donations) - 20} more in lineage.csv." in page
    assert "best.json has the last ones" in page


def test_only_figures_that_are_there_are_shown(search: Search) -> None:
    (search.folder / "figures").mkdir(parents=True)
    (search.folder / "figures" / "curves.png").touch()
    assert re.findall(r"!\[.*\]\((.*)\)", text(search)) == ["figures/curves.png"]


def test_commands_can_be_pasted_whatever_the_folders_name(search: Search, tmp_path: Path) -> None:
    page = text(replace(search, folder=tmp_path / "my runs; rm -rf ~"))
    assert f"raydet fit --from '{tmp_path}/my runs; rm -rf ~/best.json'" in page
    assert page.count("```") == 2
    assert text(replace(search, folder=tmp_path / "a\n```\nb")).count("\n```") == 2


def test_the_page_is_written_into_the_searchs_folder(search: Search) -> None:
    path = write_summary(search)
    assert path == search.folder / "summary.md"
    assert path.read_text() == text(search)
    assert path.stat().st_mode & 0o777 == 0o640
