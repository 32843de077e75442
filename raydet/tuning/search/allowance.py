"""How many epochs a search with ASHA takes at most: half of those that all its trials would take, trained to their end.

Asynchronous halving alone gives no such bound. It lets a trial go on that is the best of its rung so far, and in a bad
order each is; in trials of a few epochs the first rung is a third of the whole, too. So beyond the first rung epochs
are granted from what is left of the half, when trial 1, that is never stopped, and everyone's first rung are paid for.
What one trial needs for its end is kept for the best of those that were stopped, which goes on when all have been
tried. One half of the rest is there from the start, the other comes with the trials: later ones, which a searcher
proposes with more knowledge, find some left. One trial can always go on to its end, so that a search of few trials
finds more than the default; of fewer than 12 trials of three epochs that makes more than the half.
"""

import bisect
import functools
import math
import random
from collections.abc import Sequence

from raydet.tuning.settings import REDUCTION

_ORDERS = 200


class Allowance:
    """Grants of epochs beyond the first rung.

    Args:
        trials: of the whole search.
        epochs: of the longest trial.
        rungs: epochs done at which trials are compared, in order.
    """

    def __init__(self, trials: int, epochs: int, rungs: Sequence[int]) -> None:
        self._trials, self._marks = trials, (*rungs, epochs)
        self._whole = epochs - self._marks[0]
        """What a trial takes from the first rung to its end."""
        half = trials * epochs // 2 - epochs - (trials - 1) * self._marks[0]
        self._beyond = max(half - self._whole, self._whole)
        self._given: dict[int, int] = {}
        """Number -> epochs beyond the first rung; trial 1, which is paid for, has none."""

    @property
    def most(self) -> int:
        """Epochs of the whole search, if all that can be granted is, and the best goes on from the first rung."""
        return self._trials * self._marks[0] + self._whole + self._beyond + self._whole

    def started(self, number: int) -> None:
        """Count a trial; the first rung is its own."""
        self._given.setdefault(number, 0)

    def spent(self, number: int, epochs: int) -> None:
        """Count what a trial of an earlier session has trained."""
        self._given[number] = 0 if number == 1 else max(0, epochs - self._marks[0])

    def grant(self, number: int, epoch: int) -> bool:
        """Return whether a trial that has done `epoch` epochs may go on to the next rung, which is paid for then."""
        self.started(number)
        until = next((mark for mark in self._marks if mark > epoch), self._marks[-1])
        wanted = until - self._marks[0]
        if number != 1 and wanted > self._given[number]:
            paced = self._beyond * (1 + min(1.0, len(self._given) / self._trials)) / 2
            others = sum(self._given.values()) - self._given[number]
            if others + wanted > max(paced, self._whole):
                return False
            self._given[number] = wanted
        return True


@functools.cache
def asha_share(trials: int, epochs: int, rungs: tuple[int, ...], reduction: int = REDUCTION) -> float:
    """Return the share of all epochs that ASHA trains of so many trials, on average over random orders of them.

    A trial that reaches a rung goes on if it is not below the 75th percentile (with reduction 4) of those that were
    there before: the first always, of the next more than a quarter. 12 trials of 9 epochs take 0.36 of all epochs, with
    the allowance; a quarter at each rung would leave 0.24.

    Args:
        rungs: epochs done at which trials are compared.
        reduction: of those at a rung one in so many goes on.
    """
    draw, trained = random.Random(0), 0
    for _ in range(_ORDERS):
        reached: dict[int, list[float]] = {rung: [] for rung in rungs}
        allowance = Allowance(trials, epochs, rungs)
        for trial in range(1, trials + 1):
            score, end = draw.random(), epochs
            allowance.started(trial)
            for rung, others in reached.items():
                stops = trial > 1 and (score < _bar(others, reduction) or not allowance.grant(trial, rung))
                bisect.insort(others, score)
                if stops:
                    end = rung
                    break
            trained += end
    return trained / (_ORDERS * trials * epochs)


def _bar(scores: Sequence[float], reduction: int) -> float:
    """Return what a trial must reach to go on past a rung where others, sorted, had these scores."""
    if not scores:
        return -math.inf
    place = (1 - 1 / reduction) * (len(scores) - 1)
    low = int(place)
    above = scores[min(low + 1, len(scores) - 1)]
    return scores[low] + (place - low) * (above - scores[low])
