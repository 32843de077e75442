"""Who draws new trials: Optuna's TPE, or random search.

Each proposal has a seed of its own, made of the search's seed and the trial's number, so that a continued search does
not draw its first points again. TPE draws from the results that are there; trials side by side end in an order that no
second run repeats, so one seed gives the same points only with one trial at a time.
"""

from typing import TYPE_CHECKING

from raydet.tuning.settings import Setting

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def make_sampler(setting: Setting, number: int) -> "BaseSampler":
    """Return the sampler for trial `number`.

    TPE draws at random until it has ten results (Optuna's default). Of several trials at a time those under way count
    as bad ones (`constant_liar`), so that none is proposed twice.
    """
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.default_rng([setting.cfg.run.seed, number]).integers(2**32))
    if setting.algorithm != "tpe":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)
