"""What a run would do, without doing it: its settings against the recipe's, its steps, its memory."""

from typing import Any

from raydet.config import Config, as_flat, differences
from raydet.driver.advice import before_start
from raydet.driver.expected_memory import memory_bytes
from raydet.driver.plan import describe_start, make_plan
from raydet.recipes import RECIPES, recipe


def dry_run(cfg: Config, quiet: bool = False) -> dict[str, Any]:
    """Print what `fit(cfg)` would do, unless quiet, and return it as JSON values. Writes nothing.

    Raises:
        ConfigError, DataError, WeightsError: as `fit` would.
    """
    plan = make_plan(cfg)
    changes = _changes(plan.cfg)
    memory = memory_bytes(plan)
    notes = before_start(plan, memory)
    done = 0 if plan.continues is None else plan.continues.step
    total = plan.cfg.schedule.total_epochs * plan.steps_per_epoch
    if not quiet:
        print("\n".join([*describe_start(plan), *notes]))
        print(f"steps     {total} of {plan.cfg.global_batch} images, {max(0, total - done)} to go")
        parts = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in memory.items())
        print(f"a worker  {sum(memory.values()) / 2**20:.0f} MiB besides torch itself: {parts}")
        print(f"settings that differ from {plan.cfg.recipe or 'the defaults'}:")
        for key, (was, now) in changes.items():
            print(f"  {key}: {was} -> {now}")
    return {
        "changes": {key: list(pair) for key, pair in changes.items()},
        "config": as_flat(plan.cfg),
        "train_images": plan.train_images,
        "val_images": plan.val_images,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": total,
        "steps_to_go": max(0, total - done),
        "memory_bytes": memory,
    }


def _changes(cfg: Config) -> dict[str, tuple[Any, Any]]:
    base = recipe(cfg.recipe) if cfg.recipe in RECIPES else Config()
    return differences(base, cfg)
