"""The verb `raydet.tune`: a search over a recipe's documented defaults, where a trial is a `fit` with other values.

Trial 1 is the configuration itself. The same call again continues where a search was left, by Ctrl-C, a budget or a
kill.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from raydet.config import Config
from raydet.driver.plan import Plan, describe_start, make_plan
from raydet.driver.ray_session import check_scaling
from raydet.exceptions import RunFailed
from raydet.runs.lock import held
from raydet.tuning.report.results import Gain, best_config, frame, gain
from raydet.tuning.session import Session
from raydet.tuning.settings import Setting, check_identity, make_setting, parse_budget, write_identity
from raydet.tuning.trials.folders import run_name
from raydet.tuning.trials.rows import Row, Search

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class TuneResult:
    """A search that has ended."""

    config: Config
    """Of the best trial; `raydet.fit(result.config)` trains it again, under a name of its own."""
    metrics: dict[str, float]
    """The best trial's score, and its further objectives."""
    best: Row
    """The best trial."""
    search: Search
    """All there is to tell."""
    gain: Gain | None
    """The best against the default, with the spread over seeds where there were repeats."""
    dir: Path
    """The search's folder."""

    @property
    def trials(self) -> "pandas.DataFrame":
        """All trials, one a row."""
        return frame(self.search)


def tune(
    cfg: Config,
    space: str | Mapping[str, Any] | None = None,
    *,
    sets: Sequence[str] = (),
    num_samples: int = 20,
    algorithm: str = "tpe",
    scheduler: str = "asha",
    objectives: Sequence[str] = (),
    concurrent: int | None = None,
    budget: str | None = None,
    confirm: int = 0,
    patience: int | None = None,
    warm_start: str | Path | None = None,
    out: TextIO | None = None,
) -> TuneResult:
    """Search for better values than those of `cfg`, and return the best found.

    Args:
        space: name of a search space (raydet.search_spaces.SPACES), a Python file with `space(cfg)`, or a dict of
            dotted keys to ray.tune domains, e.g. {"optim.lr": tune.loguniform(1e-3, 1e-1)}.
        sets: `KEY=FUNCTION(...)`, e.g. `optim.lr=loguniform(1e-3, 1e-1)`: added to the space, or all of it.
        num_samples: trials, trial 1 included; of pbt the population.
        algorithm: tpe (Optuna's, multivariate), random, or pbt (population based training).
        scheduler: asha stops trials early that do worse than others did; hyperband gives some of them longer before
            they are compared; none trains all to their end.
        objectives: further ones to make small, latency_ms or size_mb; trials are then all trained to their end.
        concurrent: trials at a time; one seed gives the same points only with 1. None: as many as have room.
        budget: wall time for the whole search, e.g. "2h"; what then runs is left where it is.
        confirm: other seeds with which the default and the best are repeated.
        patience: end after this many trials of which none has beaten the default.
        warm_start: folder of an earlier search, whose best points are tried first.
        out: where progress is shown. None: standard error.

    Raises:
        ConfigError: a value that cannot be used, or another search under this run's name. DataError, WeightsError: the
        data or weights. Refused: another process is at it. RunFailed: no trial gave a score. KeyboardInterrupt: it was
        interrupted; all that is known so far is written.
    """
    out = out or sys.stderr
    setting = setting_of(
        cfg,
        space,
        sets=sets,
        num_samples=num_samples,
        algorithm=algorithm,
        scheduler=scheduler,
        objectives=objectives,
        concurrent=concurrent,
        budget=budget,
        confirm=confirm,
        patience=patience,
        warm_start=warm_start,
    )
    plan = first_plan(setting)
    with held(setting.folder):
        write_identity(setting)
        print("\n".join([*begins(setting, plan), *_describe(setting)]), file=out, flush=True)
        found = Session(setting, out).run()
    return _result(setting, found)


def setting_of(cfg: Config, space: str | Mapping[str, Any] | None, *, budget: str | None, **settings: Any) -> Setting:
    """Return what `tune` is asked for, checked; see there."""
    return make_setting(cfg, space, budget_s=None if budget is None else parse_budget(budget), **settings)


def first_plan(setting: Setting) -> Plan:
    """Return the plan of trial 1; whatever can be refused before Ray starts is refused here."""
    check_identity(setting)
    plan = make_plan(setting.trial(run_name(1), setting.space.points[0]))
    check_scaling(setting.cfg)
    return plan


def begins(setting: Setting, plan: Plan) -> list[str]:
    """Return the first lines of what a search shows: where it lies, and what all trials have in common."""
    lines = [line for line in describe_start(plan)[1:] if not line.startswith("continue")]  # trial 1, that is
    return [f"search    {setting.folder}", *lines]


def _describe(setting: Setting) -> list[str]:
    keys = ", ".join(setting.space.keys)
    how = setting.algorithm + (f" with {setting.scheduler}" if setting.scheduler != "none" else "")
    return [f"trials    {setting.num_samples} by {how}, over {keys}; trial 1 is the configuration itself"]


def _result(setting: Setting, search: Search) -> TuneResult:
    best = search.best
    if best is None or best.score is None:
        failed = [f"trial {row.number}: {row.error}" for row in search.rows if row.error]
        raise RunFailed("\n".join([f"no trial gave a score; see {setting.folder}", *failed[:4]]))
    metrics = {search.score: best.score, **best.values}
    config = best_config(search)
    assert config is not None
    return TuneResult(config, metrics, best, search, gain(search), setting.folder)
