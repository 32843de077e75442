"""What `raydet tune` says at the end of a search: the result, and what to do with it."""

from typing import Any

from raydet.tuning.report.live_view import counted, short_names, values_text
from raydet.tuning.report.results import commands, default_run, score_text
from raydet.tuning.tune import TuneResult


def as_values(result: TuneResult) -> dict[str, Any]:
    """Return the result for `--json`."""
    search, best = result.search, result.best
    default = default_run(search)
    return {
        "search": str(result.dir),
        "best": best.number,
        search.score: best.score,
        "default": None if default is None else default.score,
        "params": best.params,
        **best.values,
        "verdict": None if result.gain is None else result.gain.verdict,
        "trials": len(search.rows),
        "epochs": sum(row.used_epochs for row in search.rows),
        "config": str(result.dir / "best.json"),
        "ended": search.ended,
    }


def lines(result: TuneResult) -> list[str]:
    """Return the result in words."""
    search, best = result.search, result.best
    values = values_text(best.params, short_names(search.space.keys))
    rows = [f"best      trial {best.number}: {search.score} {score_text(search.score, best.score)}  {values}"]
    if search.tied:
        rows.append("          all trials have this score: the search tells nothing")
    elif best.number == 1:
        rows.append("          this is the default: nothing tried was better")
    elif (default := default_run(search)) is not None:
        rows.append(f"default   trial 1: {search.score} {score_text(search.score, default.score)}")
    if result.gain is not None:
        rows.append(f"verdict   {result.gain.verdict}")
    rows += [f"ended     {search.ended}; the same command continues"] if search.ended else []
    train, *look = commands(search)
    rows += [f"trials    {counted(search)}", f"train it  {train}", f"look at   {result.dir}/summary.md"]
    return rows + [f"          {command}" for command in look]
