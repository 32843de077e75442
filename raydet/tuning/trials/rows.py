"""What a search knows of its trials: plain rows that are recorded, shown, drawn and written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raydet.config import Config
from raydet.search_spaces import Space

State = Literal["waiting", "running", "finished", "stopped", "diverged", "failed"]
"""finished: trained to its end. stopped: early, for others did better at the same epoch. diverged: its loss was not
finite; counts as score 0. failed: see `error`; says nothing of the values. running: on workers now. waiting: started,
or about to start; continues when the search does."""

RAN: tuple[State, ...] = ("finished", "stopped", "diverged")
"""States in which a trial's score says something, and will not change."""

STATE_TEXT: dict[State, str] = {
    "finished": "finished",
    "stopped": "stopped early",
    "diverged": "diverged",
    "failed": "failed",
    "running": "running",
    "waiting": "waiting",
}
"""States in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One trial."""

    number: int
    """Counts from 1; trial 1 is the configuration itself, as documented."""
    state: State
    params: dict[str, Any]
    """Dotted key -> value as in the space (lists are text). With PBT the values it has now."""
    folder: Path
    """The folder of its run, with config.json, metrics.jsonl, checkpoints; need not exist while it waits."""
    curve: tuple[tuple[int, float], ...] = ()
    """(epochs done, score) of each evaluation, in order."""
    epochs: int = 0
    """Epochs it has trained."""
    seconds: float = 0.0
    """Wall time on workers, all its sessions together, start-up included."""
    device_hours: float = 0.0
    """GPU-hours where workers have GPUs, else CPU-hours: reserved devices times `seconds`."""
    values: dict[str, float] = field(default_factory=dict)
    """Further objectives of a multi-objective search, e.g. {"latency_ms": 3.1}; of finished trials only."""
    since: int = 0
    """PBT: epochs done when it last took over another's weights; what it inherited says nothing of its values."""
    spent: int | None = None
    """PBT: epochs trained in all its stages. None: `epochs`; `used_epochs` is either."""
    error: str | None = None
    """Why it failed or diverged, in one line."""

    @property
    def used_epochs(self) -> int:
        """Epochs that were trained for it."""
        return self.epochs if self.spent is None else self.spent

    @property
    def score(self) -> float | None:
        """The best so far: of the checkpoint that is kept as best. 0 where it diverged; None before any.

        Of PBT the best since it last took over another's weights.
        """
        if self.state == "diverged":
            return 0.0
        return max((score for epoch, score in self.curve if epoch > self.since), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """A run that repeats a trial's values with another seed."""

    number: int
    """The trial that it repeats."""
    seed: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Donation:
    """PBT: a trial gave up its weights and continued from another's, with changed values."""

    number: int
    epoch: int
    """Epochs done, by the donor, when its checkpoint was taken."""
    donor: int
    before: dict[str, Any]
    after: dict[str, Any]
    """The trial's values before and after; the donor's, changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """All there is to tell of a search, done or under way."""

    folder: Path
    cfg: Config
    """What every trial starts from: trial 1."""
    space: Space
    algorithm: str
    """tpe, random or pbt."""
    scheduler: str
    """asha or none (pbt: pbt)."""
    score: str
    """Name of the score, e.g. top1 or AP; a share from 0 to 1, higher is better."""
    objectives: tuple[str, ...] = ()
    """Further objectives, each to be made small, e.g. ("latency_ms",)."""
    num_samples: int
    """Trials wanted."""
    concurrent: int
    """Trials at a time."""
    device: Literal["GPU", "CPU"]
    rows: tuple[Row, ...]
    """In order of number."""
    repeats: tuple[Repeat, ...] = ()
    donations: tuple[Donation, ...] = ()
    seconds: float = 0.0
    """Wall time, all its sessions together."""
    ended: str | None = None
    """Why it ended before all trials were made, in one line; None otherwise."""

    @property
    def total_epochs(self) -> int:
        """Epochs of a trial that is trained to its end (a searched schedule.epochs aside)."""
        return self.cfg.schedule.total_epochs

    @property
    def ran(self) -> list[Row]:
        """The trials whose score says something, and will not change."""
        return [row for row in self.rows if row.state in RAN and row.score is not None]

    @property
    def tied(self) -> bool:
        """Whether several trials have ended and all have one score: then it says nothing of the values."""
        return len(self.ran) > 1 and len({row.score for row in self.ran}) == 1

    @property
    def default(self) -> Row | None:
        """Trial 1."""
        return next((row for row in self.rows if row.number == 1), None)

    @property
    def best(self) -> Row | None:
        """The finished trial with the highest score, the earlier of equals; where none is finished, of the others."""
        for states in (("finished",), ("stopped", "waiting", "running"), ("diverged",)):
            found = [row for row in self.rows if row.state in states and row.score is not None]
            if found:
                return max(found, key=lambda row: (row.score or 0.0, -row.number))
        return None
