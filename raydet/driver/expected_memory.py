"""How much memory a training step will take, worked out before a GPU is taken."""

import torch
from torch import nn

from raydet.driver.plan import Plan
from raydet.quantization import quantizers
from raydet.training.state import build_model

_SLOTS = {"sgd": 1, "rmsprop": 2, "adamw": 2}
"""Tensors of a parameter's size that an optimiser keeps."""


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
    """Return the bytes autograd keeps for one float32 image through `model`, which lies on the meta device.

    Two images go through it: BatchNorm trains on no single one that comes down to one pixel.
    """
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

    images_B3HW = torch.zeros(2, 3, image_size, image_size, device="meta")
    seeds_B = torch.zeros(2, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.train()(images_B3HW, seeds_B)
    return sum(kept.values()) // 2


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
