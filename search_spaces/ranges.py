"""How the spaces make their ranges: round the configuration's own value, and never without it."""

from typing import TYPE_CHECKING, Any

from raydet.config import Config
from raydet.recipes import RECIPES, recipe
from raydet.search_spaces.domains import plain_choice

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain


def documented(cfg: Config) -> Config:
    """Return the recipe that `cfg` started from, as documented; `cfg` itself if it names none of raydet's."""
    return recipe(cfg.recipe) if cfg.recipe in RECIPES else cfg


def carried(lr: float, images: int, cfg: Config) -> float:
    """Return the optim.lr of `cfg` that stands for a learning rate `lr` at a global batch of `images`.

    SGD's grows with the batch (arXiv:1706.02677), RMSprop's and AdamW's with its root (arXiv:2205.10287).
    """
    ratio = cfg.global_batch / images
    return lr * (ratio if cfg.optim.name == "sgd" else ratio**0.5) / cfg.lr_scale


def documented_lr(cfg: Config) -> float:
    """Return the recipe's learning rate for the global batch of `cfg`; its own where it has another optimiser."""
    theirs = documented(cfg)
    if theirs.optim.name != cfg.optim.name:
        return cfg.optim.lr
    return carried(theirs.optim.lr * theirs.lr_scale, theirs.global_batch, cfg)


def log_range(low: float, high: float, *inside: float) -> "Domain":
    """Return a log-uniform range from low to high, wider where `inside` lies outside; uniform from 0 if 0 must be in.

    Bounds have two digits, but where a value of `inside` is the bound.
    """
    from ray import tune

    low, high = (min(float(f"{low:.1e}"), *inside), max(float(f"{high:.1e}"), *inside))
    return tune.loguniform(low, high) if low > 0 else tune.uniform(low, high)


def flat_range(low: float, high: float, inside: float) -> "Domain":
    """Return a uniform range from low to high, wider where `inside` lies outside."""
    from ray import tune

    return tune.uniform(min(low, inside), max(high, inside))


def options(own: Any, *known: Any) -> "Domain":
    """Return a choice of the known values, and of `own` if it is none of them."""
    return plain_choice([*known, own], "")
