"""What a proposal rests on: the same in every run with the same seed, whichever trial happens to be the faster.

TPE draws from the results it has, and of several trials at a time these come in an order that no second run repeats.
So proposal k rests on trials 1 to k - concurrent alone, each with its score at the first rung: these have been there
when k is begun, for later ones were begun after them. A straggler is waited for, but not long. Given up: what TPE could
learn from the scores of later rungs, where few trials are left and those that are were the best at the first.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydet.tuning.quiet import quiet_optuna
from raydet.tuning.settings import Setting
from raydet.tuning.trials.rows import Row

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANDOM_TRIALS = 10
"""TPE draws at random until it knows so many results (Optuna's default)."""


def first_rung(setting: Setting) -> int:
    """Return the epochs after which a trial's score counts; without early stopping those of a whole one."""
    return setting.grace_epochs if setting.scheduler == "asha" else setting.total_epochs


def is_known(setting: Setting, row: Row) -> bool:
    """Return whether a trial has got as far as the first rung, or has ended before."""
    return row.state not in ("running", "waiting") or any(epoch >= first_rung(setting) for epoch, _ in row.curve)


def rung_score(setting: Setting, row: Row) -> float | None:
    """Return a trial's best score up to the first rung; of a diverged one 0, so that the search keeps away."""
    if row.state == "diverged":
        return 0.0
    if row.state == "failed" or not is_known(setting, row):
        return None
    scores = []
    for epoch, score in row.curve:
        scores.append(score)
        if epoch >= first_rung(setting):
            break
    return max(scores, default=None)


def draw(
    setting: Setting, number: int, rows: Sequence[Row], distributions: Mapping[str, "BaseDistribution"]
) -> dict[str, Any]:
    """Return the values to try as trial `number`, from what is known of `rows`.

    Each proposal has a seed of its own, made of the search's and its number, so that a search that was taken up does
    not draw its first points once more.
    """
    import optuna

    with quiet_optuna():
        study = optuna.create_study(directions=setting.directions, sampler=_sampler(setting, number))
        for row in rows:
            score = rung_score(setting, row)
            if score is not None and all(name in row.values for name in setting.objectives):
                values = [score, *(row.values[name] for name in setting.objectives)]
                study.add_trial(
                    optuna.trial.create_trial(params=row.params, distributions=dict(distributions), values=values)
                )
        return study.ask(dict(distributions)).params


def _sampler(setting: Setting, number: int) -> Any:
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.default_rng([setting.cfg.run.seed, number]).integers(2**32))
    if setting.algorithm != "tpe":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=RANDOM_TRIALS)
