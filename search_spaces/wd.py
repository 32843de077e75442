"""Weight decay."""

from typing import TYPE_CHECKING, Any

from raydet.config import Config
from raydet.search_spaces.ranges import documented, log_range

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

FOR_ZERO = 1e-4
"""Stands for a weight decay of 0 when a range is made round it; NVIDIA's default for classifiers (CLS main.py)."""


def space(cfg: Config) -> "dict[str, Domain]":
    """optim.weight_decay: log-uniform, a thirtieth to thirty times; uniform from 0 where it is off.

    Round the configuration's own and, with the recipe's optimiser, the recipe's. What is documented for these nets goes
    from 5e-6 (B4) over 4e-5 (D0) to 9.7e-4 (B4's quantized training), a factor of 200 without a rule; thirty times
    either way round D0's holds them all. AdamW's is decoupled, another quantity: 0.01 in raydet's demos, 0.05 for
    ConvNeXt (arXiv:2201.03545).
    """
    own, theirs = cfg.optim.weight_decay, documented(cfg).optim
    known = (own, theirs.weight_decay if theirs.name == cfg.optim.name else own)
    low, high = min(value or FOR_ZERO for value in known) / 30, max(value or FOR_ZERO for value in known) * 30
    return {"optim.weight_decay": log_range(low, high, *known)}


def points(cfg: Config) -> list[dict[str, Any]]:
    """The recipe's; worth a trial where the configuration has another."""
    theirs = documented(cfg).optim
    return [{"optim.weight_decay": theirs.weight_decay}] if theirs.name == cfg.optim.name else []
