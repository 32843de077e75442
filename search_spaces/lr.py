"""Learning rate."""

from typing import TYPE_CHECKING, Any

from raydet.config import Config
from raydet.search_spaces.ranges import documented_lr, log_range

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain


def space(cfg: Config) -> "dict[str, Domain]":
    """optim.lr: log-uniform, from a hundredth of the least to ten times the largest of two values.

    The two are the configuration's own and its recipe's, carried to the batch in use: whoever trains D0 with 8 workers
    at the card's 0.01 for 32 images has a good one in the range, and so has who set it far too high.

    Up to ten times: NVIDIA's scripts train D0 with 1.26e-3 to 1.56e-3 an image (1.63 for 1200, 2.42 for 1920, 0.375 for
    240; DET scripts/D0), 4 to 5 times the card's. Down to a hundredth: for a net that starts from trained weights 1 %
    of the first training's is documented (pytorch-quantization's guide). Log-uniform: arXiv:1206.5533, section 3.3. Not
    below schedule.min_lr, to which it would rise.
    """
    known = (cfg.optim.lr, documented_lr(cfg))
    low = max(min(known) / 100, min(cfg.schedule.min_lr, *known))
    return {"optim.lr": log_range(low, max(known) * 10, *known)}


def points(cfg: Config) -> list[dict[str, Any]]:
    """The recipe's, for the batch in use; worth a trial where the configuration has another."""
    return [{"optim.lr": documented_lr(cfg)}]
