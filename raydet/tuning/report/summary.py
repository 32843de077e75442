"""One page of Markdown on a search: what came out, whether it is a gain, what it took, and how to continue."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from raydet.io.files import make_folder, replace_file
from raydet.search_spaces import spelt
from raydet.terminal.run_status import duration
from raydet.tuning.report.figures import FIGURES
from raydet.tuning.report.importance import beyond_chance, importances, reservations
from raydet.tuning.report.results import (
    Gain,
    Runs,
    commands,
    default_run,
    difference_text,
    gain,
    pareto,
    percent_text,
    score_text,
)
from raydet.tuning.trials.rows import STATE_TEXT, Donation, Row, Search

_TOP, _ERRORS, _LINEAGE = 10, 20, 20
_TEXT = 300
"""Longest text of a cell."""


def write_summary(search: Search) -> Path:
    """Write summary.md into the search's folder and return its path. Figures that lie there are shown in it."""
    make_folder(search.folder)
    path = search.folder / "summary.md"
    replace_file(path, text(search))
    return path


def text(search: Search) -> str:
    """Return the page."""
    parts = [
        f"# Search {escaped(search.folder.name)}",
        *_result(search),
        *_side_by_side(search),
        *_use(search),
        *_cost(search),
        *_searched(search),
        *_best_trials(search),
        *_front(search),
        *_lineage(search),
        *_errors(search),
        *_figures(search),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(value: object) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    line = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", plain(value)).strip()
    line = line if len(line) <= _TEXT else line[: _TEXT - 1] + "…"
    return re.sub(r"([\\`*{}\[\]<>#|~!&$]|(?<!\w)_|_(?!\w))", r"\\\1", line)  # _ inside a word is no mark


def plain(value: object) -> str:
    """Return a value as a short text: None as none, six digits of a number."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[escaped(c) for c in columns], ["---"] * len(columns), *([escaped(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _result(search: Search) -> list[str]:
    best, default = search.best, default_run(search)
    ended = [f"It ended early: {escaped(search.ended.rstrip('.'))}."] if search.ended else []
    if best is None:
        return ["No trial has a score.", *ended]
    if search.tied:
        return [_all_same(search), *ended]
    score = f"{search.score} {score_text(search.score, best.score)}"
    found = gain(search)
    if best.number == 1 and default is not None:
        line = f"**The default, trial 1, is the best: {score}.** No trial did better than the documented values."
    elif found is None:
        line = f"**The best is trial {best.number}: {score}.** There is no run of the default to compare it with."
    else:
        line = f"**Trial {best.number}, {score}, is {found.verdict}.**"
        if max(found.best.n, found.default.n) > 1:
            line += f" {_spread(search, found)}"
    if best.state != "finished":
        line += f" It is {STATE_TEXT[best.state]}, after {best.epochs} epochs: no trial is finished."
    if search.algorithm == "pbt":
        line += (
            " Its values changed while it trained (lineage.csv); best.json has the last ones, and a run that has these"
            " from its start is another one."
        )
    return [line, *ended]


def _all_same(search: Search) -> str:
    score, count = f"{search.score} {score_text(search.score, search.ran[0].score)}", len(search.ran)
    return (
        f"**All {count} trials that ended with a score have {score}: the search tells nothing of the values.** "
        "Perhaps none of them learned: look at their losses in TensorBoard, and try more epochs or other ranges."
    )


def _spread(search: Search, found: Gain) -> str:
    def described(runs: Runs) -> str:
        spread = runs.deviation
        more = "" if spread is None else f", standard deviation {difference_text(search.score, spread)}"
        return f"{score_text(search.score, runs.mean)} (n = {runs.n}{more})"

    best = "of the best, without the score that it was chosen by," if found.repeated else "the best has"
    return f"With other seeds: mean of the default {described(found.default)}, {best} {described(found.best)}."


def _side_by_side(search: Search) -> list[str]:
    best, default = search.best, default_run(search)
    if best is None or default is None or best.number == 1:
        return []
    rows = [[key, default.params.get(key), best.params.get(key)] for key in search.space.keys]
    scores = [search.score, *(score_text(search.score, row.score) for row in (default, best))]
    further = [[name, default.values.get(name), best.values.get(name)] for name in search.objectives]
    return [_table(["", "default (trial 1)", f"best (trial {best.number})"], [scores, *further, *rows])]


def _use(search: Search) -> list[str]:
    lines = [re.sub(r"[\r\n]+", " ", command) for command in commands(search)]  # a line end would end the block
    return ["\n".join(["```sh", *lines, "```"]), "All trials: trials.csv."]


def _cost(search: Search) -> list[str]:
    states = Counter(row.state for row in search.rows)
    counts = ", ".join(f"{states[state]} {described}" for state, described in STATE_TEXT.items() if states[state])
    used = sum(row.used_epochs for row in search.rows)
    full = full_epochs(search)
    hours = sum(row.device_hours for row in search.rows)
    how = f"{search.algorithm}, {_scheduling(search)}, {search.concurrent} at a time"
    return [
        "## What it took",
        f"{len(search.rows)} of {search.num_samples} trials ({how}): {counts or 'none'}.",
        f"{used} epochs of the {full} that as many full runs take ({percent_text(used / max(1, full))}); "
        f"{hours:.2f} {search.device}-hours; {duration(search.seconds)} spent searching."
        + (" Repeats with other seeds are not counted." if search.repeats else ""),
    ]


def _scheduling(search: Search) -> str:
    if search.algorithm == "pbt":
        return "the worst continuing from the weights of the best with changed values"
    return "no early stopping" if search.scheduler == "none" else f"early stopping by {search.scheduler}"


def full_epochs(search: Search) -> int:
    """Return the epochs of all trials, had each been trained to its end."""
    schedule = search.cfg.schedule
    documented = {"schedule.epochs": schedule.epochs, "schedule.cooldown_epochs": schedule.cooldown_epochs}
    return sum(int(row.params.get(key, value)) for row in search.rows for key, value in documented.items())


def _searched(search: Search) -> list[str]:
    if not search.space.keys:
        return []
    shares = importances(search)
    domains = {key: spelt(domain) for key, domain in search.space.domains.items()}
    if len(shares) < 2:  # of one key it would be all
        return ["## What was searched", _table(["key", "range"], domains.items())]
    sure = beyond_chance(search)
    described = {key: percent_text(share) + ("" if key in sure else " (chance)") for key, share in shares.items()}
    rows = [[key, domain, described[key]] for key, domain in domains.items()]
    note = "The share says how much a key sets the best third of the trials apart."
    if len(sure) < len(shares):
        note += (
            " (chance): with the scores dealt out at random among the trials, that key does as well. Each key has its"
            " own chance, so of two equal shares one may be marked and the other not."
        )
    return ["## What was searched", *reservations(search), _table(["key", "range", "share"], rows), note]


def _best_trials(search: Search) -> list[str]:
    rows = [row for row in search.rows if row.score is not None]
    if not rows:
        return []
    rows.sort(key=lambda row: (row.state != "finished", -(row.score or 0.0), row.number))
    title = f"## The best {min(_TOP, len(rows))} trials" if len(rows) > 1 else "## The trial"
    return [title, _trials(search, rows[:_TOP])]


def _trials(search: Search, rows: Sequence[Row]) -> str:
    columns = ["trial", "state", search.score, *search.objectives, "epochs", "time", *search.space.keys]
    return _table(
        columns,
        (
            [
                row.number,
                STATE_TEXT[row.state],
                score_text(search.score, row.score),
                *(row.values.get(name, "-") for name in search.objectives),
                row.epochs,
                duration(row.seconds),
                *(row.params.get(key) for key in search.space.keys),
            ]
            for row in rows
        ),
    )


def _front(search: Search) -> list[str]:
    front = pareto(search)
    if not front:
        return []
    names = " and ".join(escaped(name) for name in search.objectives)
    return [f"## Score against {names}", "No other finished trial is better in all:", _trials(search, front)]


def _lineage(search: Search) -> list[str]:
    if not search.donations:
        return []
    rows = [[d.number, d.epoch, d.donor, _changes(d)] for d in search.donations[:_LINEAGE]]
    more = [f"{len(search.donations) - _LINEAGE} more in lineage.csv."] if len(search.donations) > _LINEAGE else []
    return [
        "## Which trial continued from whose weights",
        _table(["trial", "epoch", "from trial", "values"], rows),
        *more,
    ]


def _changes(donation: Donation) -> str:
    pairs = {key: (donation.before.get(key), value) for key, value in donation.after.items()}
    return "; ".join(f"{key} {plain(old)} → {plain(new)}" for key, (old, new) in pairs.items() if old != new)


def _errors(search: Search) -> list[str]:
    rows = [row for row in search.rows if row.error]
    if not rows:
        return []
    more = [f"{len(rows) - _ERRORS} more in trials.csv."] if len(rows) > _ERRORS else []
    table = _table(["trial", "state", "why"], [[row.number, row.state, row.error] for row in rows[:_ERRORS]])
    return ["## What failed", table, *more]


def _figures(search: Search) -> list[str]:
    there = [name for name in FIGURES if (search.folder / "figures" / f"{name}.png").is_file()]
    return [f"![{name}](figures/{name}.png)" for name in there]
