"""What a run would do, without doing it: its settings against the recipe's, its steps, its memory."""

from typing import Any

import torch
from torch import nn

from raydet.config import Config, as_flat, differences
from raydet.driver.plan import Plan, describe_start, make_plan
from raydet.quantization import quantizers
from raydet.recipes import RECIPES, recipe
from raydet.training.state import build_model

_SLOTS = {"sgd": 1, "rmsprop": 2, "adamw": 2}
"""Tensors of a parameter's size that an optimiser keeps."""


def dry_run(cfg: Config, quiet: bool = False) -> dict[str, Any]:
    """Print what `fit(cfg)` would do, unless quiet, and return it as JSON values. Writes nothing.

    Raises:
        ConfigError, DataError, WeightsError: as `fit` would.
    """
    plan = make_plan(cfg)
    changes = _changes(plan.cfg)
    memory = memory_bytes(plan)
    done = 0 if plan.continues is None else plan.continues.step
    total = plan.cfg.schedule.total_epochs * plan.steps_per_epoch
    if not quiet:
        print("\n".join(describe_start(plan)))
        print(f"steps     {total} of {plan.cfg.global_batch} images, {max(0, total - done)} to go")
        parts = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in memory.items())
        print(f"memory    {sum(memory.values()) / 2**20:.0f} MiB a worker, besides torch itself: {parts}")
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


def memory_bytes(plan: Plan) -> dict[str, int]:
    """Return the bytes that one worker's training needs, by kind, computed on torch's meta device.

    Activations are what autograd keeps for the backward pass of one micro-batch; workspace of single operations is not
    counted, so the true peak is some 10 to 30 % higher.
    """
    cfg = plan.cfg
    with torch.device("meta"):
        model = build_model(cfg, len(plan.classes))
    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    trained = sum(p.numel() * p.element_size() for p in model.parameters())
    share = -(-cfg.global_batch // max(1, cfg.scaling.worker_range[1]))
    images = min(cfg.data.batch_size, share)
    on_grid = 0 if cfg.quantization is None else trained
    half = 2 if cfg.precision.mode in ("bf16", "fp16") else 1
    return {
        "weights": weights,
        "gradients": trained,
        "optimizer": _SLOTS[cfg.optim.name] * trained,
        "average": 0 if cfg.ema.decay is None else weights,
        "activations": activation_bytes(model, int(cfg.model.image_size or 0)) * images // half + on_grid,
    }


def activation_bytes(model: nn.Module, image_size: int) -> int:
    """Return the bytes autograd keeps for one float32 image through `model`, which lies on the meta device."""
    for name, quantizer in quantizers(model).items():
        # abs keeps as much for the backward pass, and asks for no value; weights on a grid are kept once, not per image
        quantizer.forward = _same if name.endswith("weight_quantizer") else torch.abs
    kept: dict[int, int] = {}
    parameters = {id(p) for p in model.parameters()}
    held: list[torch.Tensor] = []  # so that no id is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in parameters and id(base) not in kept:
            kept[id(base)] = base.numel() * base.element_size()
            held.append(base)
        return tensor

    images_B3HW = torch.zeros(1, 3, image_size, image_size, device="meta")
    seeds_B = torch.zeros(1, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.train()(images_B3HW, seeds_B)
    return sum(kept.values())


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
