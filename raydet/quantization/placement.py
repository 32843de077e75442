"""Where fake-quantizers stand in a model, by groups that can be left out; and putting them there.

A layer gets its quantizers as submodules and its class becomes a subclass of what it was (as
`torch.nn.utils.parametrize` does it): parameters stay the same objects under the same keys, so a float checkpoint fits
a quantized model in all but the ranges.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn

from raydet.config import Quantization, nearest
from raydet.exceptions import ConfigError
from raydet.models.bifpn import Fuse
from raydet.models.layers import Add, AveragePool, Conv2dSame, Multiply
from raydet.quantization import modules
from raydet.quantization.libraries import make_quantizer

GROUPS: dict[str, str] = {
    "stem": r"(backbone\.)?conv_stem",
    "se": r"(.+\.)?se\.(pool|conv_reduce|conv_expand|multiply)",
    "residual": r"(.+\.)?add",
    "fusion": r"fpn\..+\.fuse",
    "fpn": r"fpn\..+",
    "predict": r"(class|box)_net\.predict\..+",
    "towers": r"(class|box)_net\..+",
    "depthwise": r".+\.conv_dw",
    "pointwise": r".+\.conv_pwl?",
    "head": r"conv_head|pool",
    "classifier": r"classifier",
}
"""Group -> the layers in it, by their dotted names; the first that matches is a layer's."""

_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: modules.QuantConv2d,
    Conv2dSame: modules.QuantConv2dSame,
    nn.Linear: modules.QuantLinear,
    nn.AdaptiveAvgPool2d: modules.QuantPool,
    AveragePool: modules.QuantAveragePool,
    Multiply: modules.QuantMultiply,
    Add: modules.QuantAdd,
    Fuse: modules.QuantFuse,
}


@dataclass(frozen=True, slots=True)
class Placed:
    """A layer that computes in INT8, or could."""

    name: str
    """Dotted, within the model."""
    group: str


def placements(model: nn.Module) -> list[Placed]:
    """Return the layers of a float or quantized model that can be quantized, in its order.

    Raises:
        TypeError: a convolution or linear layer that no group or class here knows; it would silently stay in floats.
    """
    found = []
    for name, layer in model.named_modules():
        if type(layer) in _QUANTIZED or type(layer) in _QUANTIZED.values():
            group = next((group for group, form in GROUPS.items() if re.fullmatch(form, name)), None)
            if group is None:
                raise TypeError(f"{name} is in no group of raydet.quantization.placement.GROUPS")
            found.append(Placed(name, group))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            raise TypeError(f"{name}: {type(layer).__name__} has no quantized form in raydet.quantization.placement")
    return found


def quantize(model: nn.Module, cfg: Quantization) -> list[Placed]:
    """Put fake-quantizers without ranges into `model`, in place; return the layers that have them now.

    Optimisers and averages must be built afterwards.

    Raises:
        ValueError: it has some already. ConfigError: quantization.skip names what the model has not, or all it has.
        QuantizationNotAvailable: the library is not installed.
    """
    if is_quantized(model):
        raise ValueError("already quantized")
    chosen = _without(model, placements(model), cfg.skip)
    if not chosen:
        raise ConfigError("quantization.skip leaves nothing in INT8; leave fewer groups out")
    device = next(model.parameters()).device
    for placed in chosen:
        _quantize_layer(model.get_submodule(placed.name), cfg, device)
    return chosen


def _without(model: nn.Module, found: list[Placed], skip: tuple[str, ...]) -> list[Placed]:
    groups = {placed.group for placed in found}
    parts = {name for name, _ in model.named_modules() if name}
    for word in skip:
        if word not in groups and word not in parts:
            close = nearest(word, [*groups, *parts], 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(group for group in GROUPS if group in groups)
            raise ConfigError(f"quantization.skip: no group or part {word!r}{hint}; the groups are {known}")
    # `fpn` is a group and a part: the group is meant.
    by_name = tuple(f"{word}." for word in skip if word not in groups)
    return [p for p in found if p.group not in skip and not f"{p.name}.".startswith(by_name)]


def _quantize_layer(layer: nn.Module, cfg: Quantization, device: torch.device) -> None:
    def activation() -> nn.Module:
        return make_quantizer(cfg, (), device)

    if isinstance(layer, Multiply):
        layer.features_quantizer = activation()
        layer.gate_quantizer = activation()
        # Calibrated, a gate that is never near 1 would lose its upper part, and entropy has ruined nets that way.
        layer.gate_quantizer.get_buffer("_amax").fill_(1.0)
    elif isinstance(layer, Add):
        layer.residual_quantizer = activation()
    elif isinstance(layer, Fuse):
        layer.input_quantizers = nn.ModuleList(activation() for _ in layer.steps)
    else:
        layer.input_quantizer = activation()
    if isinstance(layer, nn.Conv2d | nn.Linear):
        channels, *others = layer.weight.shape
        layer.weight_quantizer = make_quantizer(cfg, (channels, *(1 for _ in others)), device)
    layer.__class__ = _QUANTIZED[type(layer)]


def quantizers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the fake-quantizers by their dotted names, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if re.search(r"_quantizers?(\.\d+)?$", name) and not isinstance(module, nn.ModuleList)
    }


def is_quantized(model: nn.Module) -> bool:
    """Say whether the model has fake-quantizers."""
    return any(type(module) in _QUANTIZED.values() for module in model.modules())
