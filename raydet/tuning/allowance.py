"""How many epochs a search with ASHA takes at most: half of those that all its trials would take, trained to their end.

Asynchronous halving alone gives no such bound. It lets a trial go on that is the best of its rung so far, and in a bad
order each is; in trials of a few epochs the first rung is a third of the whole, too. So beyond the first rung epochs
are granted from what is left of the half, when trial 1, that is never stopped, and everyone's first rung are paid for.
What one trial needs for its end is kept for the best of those that were stopped, which goes on when all have been
tried. One half of the rest is there from the start, the other comes with the trials: later ones, which a searcher
proposes with more knowledge, find some left. One trial can always go on to its end, so that a search of few trials
finds more than the default; of fewer than 12 trials of three epochs that makes more than the half.
"""

from collections.abc import Sequence


class Allowance:
    """Grants of epochs beyond the first rung.

    Args:
        trials: of the whole search.
        epochs: of the longest trial.
        rungs: epochs done at which trials are compared, in order.
    """

    def __init__(self, trials: int, epochs: int, rungs: Sequence[int]) -> None:
        self._trials, self._marks = trials, (*rungs, epochs)
        first = self._marks[0]
        half = trials * epochs // 2 - epochs - (trials - 1) * first
        self._beyond = max(half - (epochs - first), epochs - first)
        self._reaches: dict[int, int] = {}

    @property
    def most(self) -> int:
        """Epochs of the whole search, if all that can be granted is, and the best goes on from the first rung."""
        first, epochs = self._marks[0], self._marks[-1]
        return epochs + (self._trials - 1) * first + self._beyond + epochs - first

    def started(self, number: int) -> None:
        """Count a trial; the first rung is its own."""
        self._reaches.setdefault(number, self._marks[0])

    def spent(self, number: int, epochs: int) -> None:
        """Count what a trial of an earlier session has trained."""
        self._reaches[number] = max(self._marks[0], epochs)

    def grant(self, number: int, epoch: int) -> bool:
        """Return whether a trial that has done `epoch` epochs may go on to the next rung, which is paid for then."""
        self.started(number)
        until = next((mark for mark in self._marks if mark > epoch), self._marks[-1])
        if number != 1 and until > self._reaches[number]:
            paced = self._beyond * (1 + min(1.0, len(self._reaches) / self._trials)) / 2
            others = sum(reach - self._marks[0] for n, reach in self._reaches.items() if n not in (1, number))
            if others + until - self._marks[0] > max(paced, self._marks[-1] - self._marks[0]):
                return False
            self._reaches[number] = until
        return True
