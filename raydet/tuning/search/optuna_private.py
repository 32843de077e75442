"""The private names of Optuna that a search needs, seen in optuna 5.0.0; a test fails when one goes.

A trial that was asked for in an earlier session can be written to again only through its id, and a proposal that a kill
cut short can be drawn to its end only by `_suggest`, which is what `Study.ask` calls for each key.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial


def open_trial(study: "Study", frozen: "FrozenTrial") -> "Trial":
    """Return the trial as `Study.ask` returned it: it can report values and take attributes."""
    from optuna.trial import Trial

    return Trial(study, frozen._trial_id)


def draw_missing(trial: "Trial", distributions: "Mapping[str, BaseDistribution]") -> None:
    """Draw the values that an interrupted `Study.ask` left out."""
    for key, distribution in distributions.items():
        if key not in trial.params:
            trial._suggest(key, distribution)
