"""Which variants have the sizes of a file's weights: what an error names as the remedy."""

import re

import torch
from torch import Tensor

from raydet.models import efficientdet_variants, efficientnet_variants


def fitting_names(tensors: dict[str, Tensor]) -> list[str]:
    """Return the models whose sizes the tensors (by our names) have; several, as padding leaves no trace in a file."""
    prefix = "backbone." if any(key.startswith("backbone.") for key in tensors) else ""
    backbones = [name for name, v in efficientnet_variants.VARIANTS.items() if _has_sizes_of(v, tensors, prefix)]
    if not any(key.startswith("fpn.") for key in tensors):
        return backbones
    channels = tensors.get("fpn.cell.0.fnode.0.after_combine.conv.conv_pw.weight", torch.empty(0)).shape[0]
    cells = _count(tensors, r"fpn\.cell\.(\d+)\.")
    biased = "fpn.cell.0.fnode.0.after_combine.conv.conv_pw.bias" in tensors
    return [
        name
        for name, v in efficientdet_variants.VARIANTS.items()
        if v.backbone in backbones and (v.fpn_channels, v.fpn_cells, v.redundant_bias) == (channels, cells, biased)
    ]


def _has_sizes_of(variant: efficientnet_variants.EfficientNetVariant, tensors: dict[str, Tensor], prefix: str) -> bool:
    depths = tuple(_count(tensors, rf"{re.escape(prefix)}blocks\.{stage}\.(\d+)\.") for stage in range(7))
    squeeze = tensors.get(f"{prefix}blocks.1.0.se.conv_reduce.weight")
    last = tensors.get(f"{prefix}blocks.6.0.conv_pwl.weight")
    if last is None or depths != efficientnet_variants.stage_depths(variant):
        return False
    if last.shape[0] != efficientnet_variants.scaled_channels(320, variant.width):
        return False
    if squeeze is None:
        return variant.squeeze_from is None
    hidden = squeeze.shape[1]
    return squeeze.shape[0] == efficientnet_variants.squeeze_width(variant, hidden // 6, hidden)


def _count(keys: dict[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1)
