"""What a search leaves for others to read: the best configuration, a table of trials, and whether the best is a gain.

The best of many trials is the best by chance as well: its score is the largest of many draws and too high on average
(the winner's curse). So where its values were run again with other seeds, those runs alone stand for it, without the
score that it was chosen by. The default was not chosen by its score: trial 1 counts as one of its runs.
"""

import csv
import io
import json
import math
import re
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydet.config import Config, override, to_dict
from raydet.io.files import make_folder, replace_file
from raydet.runs.writers import cell
from raydet.tuning.trials.rows import Row, Search

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Scores of one configuration with several seeds."""

    scores: tuple[float, ...]

    @property
    def n(self) -> int:
        """How many."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Their standard deviation (n - 1); None for one run."""
        return statistics.stdev(self.scores) if self.n > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """Best against default."""

    default: Runs
    best: Runs
    repeated: bool
    """The best's runs are repeats: the score that it was chosen by is not among them."""
    difference: float
    """Of the means, best minus default."""
    error: float | None
    """The difference's standard error, sqrt(s1^2 / n1 + s2^2 / n2); None with fewer than two runs a side."""
    verdict: str
    """In words. The rule: a difference of more than two standard errors is reported as one. Where there is none, chance
    passes for a gain in 5 to 6 % of cases (simulated: normal scores of one spread, four runs against three, six against
    five), with three against two or two against two in 8 to 9 %."""


def score_text(name: str, value: float | None) -> str:
    """Return a score as the table of epochs has it: top1 as percent, AP as a share."""
    if value is None:
        return "-"
    return percent_text(value, 2) if name.startswith("top") else f"{value:.3f}"


def percent_text(share: float, digits: int = 0) -> str:
    """Return a share as percent."""
    return f"{share * 100:.{digits}f} %"


def difference_text(name: str, value: float) -> str:
    """Return a difference of two scores, without its sign."""
    return f"{abs(value) * 100:.2f} points" if name.startswith("top") else f"{abs(value):.3f}"


def gain(search: Search) -> Gain | None:
    """Return best against default; None where one of them has no score yet, or they are the same trial."""
    best, default = search.best, _default_scores(search)
    if best is None or best.number == 1 or not default:
        return None
    repeated = [r.score for r in search.repeats if r.number == best.number]
    ours = Runs(scores=tuple(repeated or [best.score or 0.0]))
    theirs = Runs(scores=tuple(default))
    difference = ours.mean - theirs.mean
    error = None
    if ours.deviation is not None and theirs.deviation is not None:
        error = math.sqrt(ours.deviation**2 / ours.n + theirs.deviation**2 / theirs.n)
    return Gain(
        default=theirs,
        best=ours,
        repeated=bool(repeated),
        difference=difference,
        error=error,
        verdict=_verdict(search.score, difference, error, f"{ours.n} run{'s' * (ours.n > 1)} against {theirs.n}"),
    )


def default_run(search: Search) -> Row | None:
    """Return trial 1, unless it continued from another's weights (PBT): then it is no run of the default any more."""
    changed = any(donation.number == 1 for donation in search.donations)
    return None if changed else search.default


def _default_scores(search: Search) -> list[float]:
    scores = [repeat.score for repeat in search.repeats if repeat.number == 1]
    own = default_run(search)
    ended = own is not None and own.state in ("finished", "diverged")
    return [own.score, *scores] if own is not None and ended and own.score is not None else scores


def _verdict(name: str, difference: float, error: float | None, runs: str) -> str:
    size = difference_text(name, difference)
    sign = "better" if difference > 0 else "worse"
    if error is None:
        by = f"{sign} than the default by {size}" if difference else "as good as the default"
        return f"{by}, {runs.replace('1 run against 1', 'one run each')}: may be noise; repeat with --confirm 3"
    bound = f"two standard errors, {difference_text(name, 2 * error)}"
    if abs(difference) <= 2 * error:
        return f"not distinguishable from the default: {sign} by {size}, no more than {bound}"
    luck = "" if difference > 0 else "; what the search saw was luck, keep the default"
    return f"{sign} than the default by {size}, more than {bound}{luck}"


def commands(search: Search) -> list[str]:
    """Return what to type next: train the best, look at the trials."""
    train = [f"raydet fit --from {shlex.quote(str(search.folder / 'best.json'))}"] if search.best is not None else []
    return [
        *train,
        f"optuna-dashboard {shlex.quote(str(search.folder / 'optuna.journal'))}",
        f"tensorboard --logdir {shlex.quote(str(search.folder / 'trials'))}",
    ]


def pareto(search: Search) -> list[Row]:
    """Return the finished trials that no other beats or equals in all (score high, objectives low), best score first.

    Of trials that are equal in all, the first.
    """
    rows = [r for r in search.rows if r.state == "finished" and r.score is not None]
    rows = [r for r in rows if search.objectives and all(name in r.values for name in search.objectives)]
    points = {r.number: (-(r.score or 0.0), *(r.values[name] for name in search.objectives)) for r in rows}
    front = [r for r in rows if not any(_beats(points[o.number], points[r.number], o.number < r.number) for o in rows)]
    return sorted(front, key=lambda r: points[r.number])


def _beats(one: Sequence[float], other: Sequence[float], earlier: bool) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and (one != other or earlier)


def best_config(search: Search) -> Config | None:
    """Return the best trial's whole configuration, as `raydet fit --from` takes it; None where no trial has a score.

    Scaling is the search's. With PBT the values are those at the end of its schedule, not the schedule.
    """
    if search.best is None:
        return None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", search.folder.name)[: 64 - len("-best")] + "-best"  # run.name's rule
    place = {"run.name": name, "run.storage_path": search.cfg.run.storage_path}
    return override(search.space.config(search.cfg, search.best.params), place)


def write(search: Search) -> None:
    """Write best.json, trials.csv and, with PBT, lineage.csv into the search's folder."""
    make_folder(search.folder)
    best = best_config(search)
    if best is not None:
        replace_file(search.folder / "best.json", json.dumps(to_dict(best), indent=2) + "\n")
    replace_file(search.folder / "trials.csv", _csv(_columns(search), (_record(search, row) for row in search.rows)))
    if search.donations:
        replace_file(search.folder / "lineage.csv", _lineage(search))


def frame(search: Search) -> "DataFrame":
    """Return the table of trials, the columns of trials.csv, for pandas."""
    from pandas import DataFrame

    return DataFrame([_record(search, row) for row in search.rows], columns=_columns(search))


def _columns(search: Search) -> list[str]:
    own = ["number", "state", "score", "epochs", "seconds", "device_hours"]
    return [*own, *search.objectives, *search.space.keys, "error"]


def _record(search: Search, row: Row) -> list[Any]:
    own = [row.number, row.state, row.score, row.epochs, row.seconds, row.device_hours]
    further = [row.values.get(name) for name in search.objectives]
    return [*own, *further, *(row.params.get(key) for key in search.space.keys), row.error]


def _lineage(search: Search) -> str:
    keys = search.space.keys
    columns = ["number", "epoch", "donor", *(f"{key} {when}" for key in keys for when in ("before", "after"))]
    rows = [
        [d.number, d.epoch, d.donor, *(values.get(key) for key in keys for values in (d.before, d.after))]
        for d in search.donations
    ]
    return _csv(columns, rows)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in (columns, *rows))
    return text.getvalue()
