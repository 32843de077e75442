"""What a run is told while there is time to act: memory beyond the machine's, an odd learning rate, a score of 0."""

import math
from collections.abc import Callable, Mapping

from raydet.config import Config
from raydet.driver.expected_memory import memory_bytes
from raydet.driver.plan import Plan
from raydet.driver.resources import machine_bytes, wanted_address
from raydet.exceptions import ConfigError
from raydet.io.jsonable import JSON
from raydet.recipes import RECIPES, recipe
from raydet.recipes.own_data import LR_BATCH, OWN_DATA, lr_share
from raydet.runs import run_log

_EVALUATIONS = 3
"""So many evaluations without a score, and the likeliest cause is said."""
_TOO_HIGH, _TOO_LOW = 4.0, 1 / 32
"""Learning rates, in shares of what the recipe's comes to for the batch, from which one is called far from it."""
_TORCH_BYTES = 600 << 20
"""What a process with torch takes before it has a network."""


def before_start(plan: Plan, memory: Mapping[str, int] | None = None) -> list[str]:
    """Return lines for people: the memory against what there is, and a learning rate that does not go with the batch.

    Args:
        memory: bytes of a worker, by kind, as `memory_bytes` works them out. None: worked out here, but not for a
            cluster, whose machines are not known.

    Raises:
        ConfigError: training needs more memory than this machine, or its GPU, has, and scaling.check_memory is true.
    """
    lines = []
    if wanted_address(plan.cfg) is None:
        lines = [_memory_line(plan.cfg, sum((memory or memory_bytes(plan)).values()))]
    odd = odd_learning_rate(plan.cfg)
    return lines if odd is None else [*lines, f"note      {odd}"]


def _memory_line(cfg: Config, needed: int) -> str:
    there, where = machine_bytes(cfg.scaling.use_gpu), "this machine has"
    if cfg.scaling.use_gpu:
        there, where = int(there * cfg.scaling.gpus_per_worker), "the GPU has"
    else:
        needed = (needed + _TORCH_BYTES) * max(1, cfg.scaling.worker_range[0])
    text = f"{_gib(needed)} expected; {where} {_gib(there)}"
    if needed > there and cfg.scaling.check_memory:
        raise ConfigError(
            f"training needs more memory than there is: {text}. Lower data.batch_size (optim.batch_size keeps the "
            "images of a step) or model.image_size; or train all the same: --scaling.check_memory false"
        )
    return f"memory    {text}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def odd_learning_rate(cfg: Config) -> str | None:
    """Return a sentence where the learning rate is far from what the recipe's comes to for this batch, else None.

    Of SGD and RMSprop it grows with the batch (arXiv:1706.02677), of AdamW with its root (arXiv:2205.10287).
    """
    if cfg.recipe not in RECIPES:
        return None
    base = recipe(cfg.recipe)
    if base.optim.name != cfg.optim.name:
        return None
    own = cfg.recipe in OWN_DATA
    batch = LR_BATCH if own else base.global_batch
    ratio = cfg.global_batch / batch
    share = lr_share(cfg.global_batch) if own else math.sqrt(ratio) if cfg.optim.name == "adamw" else ratio
    usual = base.optim.lr * base.lr_scale * share
    lr = cfg.optim.lr * cfg.lr_scale
    if _TOO_LOW <= lr / usual <= _TOO_HIGH:
        return None
    times = f"{lr / usual:.0f} times" if lr > usual else f"1/{usual / lr:.0f} of"
    fits = _TOO_LOW <= lr / (base.optim.lr * base.lr_scale) <= _TOO_HIGH
    return (
        f"the learning rate {lr:g} is {times} what {cfg.recipe}'s comes to for {cfg.global_batch} images a step "
        f"({usual:.2g}): set optim.lr to that" + (f", or optim.batch_size to {batch}" if fits else "")
    )


def score_watch(plan: Plan) -> Callable[[Mapping[str, JSON]], str | None]:
    """Return a function that takes each epoch's figures and says once why the score is still nothing, where it is."""
    name = run_log.AP if plan.cfg.task == "detection" else run_log.TOP1
    chance = 1e-3 if plan.cfg.task == "detection" else 1.1 / max(2, len(plan.classes))
    losses: list[float] = []
    seen: list[float] = []

    def watch(row: Mapping[str, JSON]) -> str | None:
        loss, score = row.get(run_log.TRAIN_LOSS), row.get(name)
        if isinstance(loss, int | float):
            losses.append(loss)
        if not isinstance(score, int | float):
            return None
        seen.append(score)
        if len(seen) != _EVALUATIONS or max(seen) > chance:
            return None
        said = "0" if plan.cfg.task == "detection" else f"{max(seen):.1%}, no better than chance,"
        return f"{name} is {said} after {_EVALUATIONS} evaluations: {_why(plan, losses, row.get('step'))}"

    return watch


def _why(plan: Plan, losses: list[float], step: JSON) -> str:
    """The likeliest cause of a score of nothing."""
    cfg = plan.cfg
    odd = odd_learning_rate(cfg)
    if odd is not None:
        return odd
    if len(losses) > 1 and losses[-1] > 0.98 * losses[0]:
        return (
            f"the training loss does not fall ({losses[0]:.3g}, now {losses[-1]:.3g}); lower optim.lr "
            f"({cfg.optim.lr:g}), and look at the boxes in plots/"
        )
    steps = step if isinstance(step, int) else len(losses) * plan.steps_per_epoch
    total = plan.steps_per_epoch * cfg.schedule.total_epochs
    if cfg.model.weights is None and cfg.model.backbone_weights is None:
        return (
            f"the network started from random weights and has made {steps} of {total} steps, and from there it needs "
            "thousands; start from trained ones (model.weights), or train longer (schedule.epochs)"
        )
    warm = cfg.schedule.warmup_epochs * plan.steps_per_epoch
    if steps < warm + 100:
        return f"only {steps} of {total} steps are made, {warm:.0f} of them warm-up; wait, or lower optim.batch_size"
    return "look at the boxes in plots/, and at what `raydet check` says of anchors and of classes that are too rare"
