"""Learning rate and weight decay, and what they hang together with: momentum, warm-up, EMA."""

from typing import TYPE_CHECKING, Any

from raydet.config import Config
from raydet.search_spaces import lr, wd
from raydet.search_spaces.ranges import flat_range, options

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

_WARM_UP = 0.3
"""Longest warm-up, as a share of the epochs."""


def space(cfg: Config) -> "dict[str, Domain]":
    """The ranges of `lr` and `wd`, and

    optim.momentum: 0.8 to 0.95, about the documented 0.9 and 0.89 (B0's quantized training); the range is ours. It is
    AdamW's first beta, 0.9 there too.
    schedule.warmup_epochs: none to 30 % of the epochs, in whole ones unless schedule.per_step. Documented are 1.7 %
    (D0's card), 4 % (EfficientNet), 17 to 30 % (D0's scripts for batches of 1200 to 1920). Not searched where 30 % is
    less than one epoch.
    ema.decay: off (both cards), 0.99 (raydet's demos), 0.999 (D0's script), 0.9998 (effdet's and NVIDIA's default).
    ema.warmup stays as it is: with it the longest decays do short runs no harm.
    """
    from ray import tune

    domains = lr.space(cfg) | wd.space(cfg)
    domains["optim.momentum"] = flat_range(0.8, 0.95, cfg.optim.momentum)
    now, longest = cfg.schedule.warmup_epochs, _WARM_UP * cfg.schedule.epochs
    if cfg.schedule.per_step:
        domains["schedule.warmup_epochs"] = flat_range(0.0, longest, now)
    elif max(now, longest) >= 1:
        domains["schedule.warmup_epochs"] = tune.randint(0, int(max(now, longest)) + 1)
    domains["ema.decay"] = options(cfg.ema.decay, None, 0.99, 0.999, 0.9998)
    return domains


def points(cfg: Config) -> list[dict[str, Any]]:
    """The recipe's learning rate, for the batch in use, and weight decay."""
    return [point | decay for point in lr.points(cfg) for decay in wd.points(cfg)]
