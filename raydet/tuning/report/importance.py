"""Which searched key separates the good trials from the rest: PED-ANOVA (arXiv:2304.10255), as Optuna computes it.

Which score counts. Trials that were stopped early have no score at the end, and at the last epoch that all reached,
often the first, other values are good than at the end. PED-ANOVA asks only which trials are among the best: so each has
its best score so far, a diverged one 0, and a stopped one, which was worse than others at the same epoch, hardly ever
belongs to the best. What starts slowly and wins late is underrated by that, as it is by stopping trials early.

The best are the best third: on made-up searches with five keys of which one matters, that key came out first in 83 % of
those with 12 trials and in 98 % with 20; with Optuna's own tenth in 67 % and 88 %, with its fANOVA (which would need
scikit-learn) in 60 % and 80 %. (60 searches each, 10 for fANOVA; optuna 5.0.0.) Shares add up to 1 even if nothing but
chance is at work, hence `beyond_chance`.
"""

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from raydet.search_spaces import spelt
from raydet.search_spaces.domains import bounds
from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.trials.rows import Row, Search

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FEWEST = 4
"""Trials below which nothing is said."""
MANY = 20
"""Trials below which the shares tell little."""
_BEST = 1 / 3
_DEALS = 39


def importances(search: Search) -> dict[str, float]:
    """Return each key's share, 1 in all, the largest first.

    Empty with fewer than 4 trials to compare, if all have one score, or if values change while a trial runs (PBT).
    """
    rows = comparable(search)
    if not rows or search.tied:
        return {}
    (found,) = _separations(search, rows, [[row.score or 0.0 for row in rows]])
    total = sum(found.values())
    order = sorted(search.space.keys, key=lambda key: -found[key])
    return {key: found[key] / total for key in order} if total > 0 else {}


def beyond_chance(search: Search) -> set[str]:
    """Return the keys that separate the best trials more than the same scores dealt out to the trials at random do.

    In at most one of 39 deals may a key do as well, so of keys that do nothing one in twenty is named all the same.
    """
    rows = comparable(search)
    if not rows or search.tied:
        return set()
    scores = [row.score or 0.0 for row in rows]
    deals = [random.Random(seed).sample(scores, len(scores)) for seed in range(_DEALS)]
    found, *dealt = _separations(search, rows, [scores, *deals])
    return {key for key, value in found.items() if sum(one[key] >= value for one in dealt) <= 1}


def _separations(search: Search, rows: list[Row], deals: list[list[float]]) -> list[dict[str, float]]:
    """Return, for each list of scores of these trials, how much each key separates the best third."""
    with quiet_optuna():
        study, judge = scored_study(search, rows), evaluator()
        scores_of = [dict(zip((row.number for row in rows), scores, strict=True)) for scores in deals]
        found = [judge.evaluate(study, target=_low(scores)) for scores in scores_of]
    return [{key: float(one.get(key, 0.0)) for key in search.space.keys} for one in found]


def _low(scores: Mapping[int, float]) -> "Callable[[FrozenTrial], float]":
    """Return what gives a trial's score as the evaluator wants it, low for good."""
    return lambda trial: -scores[trial.number]


def evaluator() -> "PedAnovaImportanceEvaluator":
    """Return what judges the keys."""
    from optuna.importance import PedAnovaImportanceEvaluator

    return PedAnovaImportanceEvaluator(target_quantile=_BEST)


def reservations(search: Search) -> list[str]:
    """Return what must be said before the shares, in sentences: few trials, scores of trainings of other lengths."""
    rows = comparable(search)
    stopped = sum(row.state == "stopped" for row in rows)
    said = []
    if 0 < len(rows) < MANY:
        said.append(f"Only {len(rows)} trials can be compared: below {MANY} the shares tell little.")
    if stopped:
        said.append(
            f"{stopped} of the {len(rows)} trials compared were stopped early and count with the score they had then: "
            "what starts slowly looks worse here than it is."
        )
    return said


def comparable(search: Search) -> list[Row]:
    """Return the trials that shares follow from; empty where nothing is said."""
    rows = [row for row in search.ran if all(key in row.params for key in search.space.keys)]
    return [] if len(rows) < FEWEST or search.algorithm == "pbt" else rows


def scored_study(search: Search, rows: list[Row]) -> "Study":
    """Return a study in memory in which each of these trials, stopped ones too, is complete with its best score.

    Numbers are those of the search: Optuna's start at 0, where a failed trial stands, as in all other gaps.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    study, by_number = optuna.create_study(direction="maximize"), {row.number: row for row in rows}
    keys = search.space.keys
    spaces = {key: _distribution(search, key, [row.params[key] for row in rows]) for key in keys}
    for number in range(max(by_number, default=0) + 1):
        row = by_number.get(number)
        if row is None:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        params, curve = {key: row.params[key] for key in keys}, dict(row.curve)
        study.add_trial(create_trial(params=params, distributions=spaces, value=row.score, intermediate_values=curve))
    return study


def kind(search: Search, key: str) -> str:
    """Return the function that a key is drawn with: choice, uniform, loguniform, quniform, randint or lograndint."""
    return spelt(search.space.domains[key]).partition("(")[0]


def _distribution(search: Search, key: str, seen: list[Any]) -> "BaseDistribution":
    """Return a key's range for Optuna; it holds what was seen, also of an earlier search with a wider range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    how, values = kind(search, key), [*bounds(search.space.domains[key]), *seen]
    if how == "choice":
        return CategoricalDistribution(list(dict.fromkeys(values)))
    make = IntDistribution if how.endswith("randint") else FloatDistribution
    return make(min(values), max(values), log=how.startswith("log"))
