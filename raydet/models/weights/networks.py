"""The network within a file's tensors: what wrappers have put before its names, and what lies beside it.

Lightning modules, DDP, torch.compile, EMA wrappers, training benches and transformers put a prefix of their own before
every name of the network, and keep buffers and losses beside it.
"""

import re
from dataclasses import dataclass

from torch import Tensor

from raydet.exceptions import WeightsError

_FIRST = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?:_?conv_stem(?:\.conv)?\.weight|stem\.conv\.weight|input_conv\.0\.weight|features\.0\.0\.weight)"
)
"""The first layer by the names of timm and effdet, lukemelas and zylo117, NVIDIA's two, and torchvision."""
_BACKBONES = ("backbone.", "backbone_net.model.")
"""What effdet, NVIDIA and zylo117 put before a detector's backbone."""
_DETECTOR_PARTS = ("fpn.", "bifpn.", "class_net.", "classifier.", "regressor.")
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|shadow|averaged?|teacher)(?:[._]|$)")


@dataclass(frozen=True, slots=True)
class Network:
    """One network of a file."""

    tensors: dict[str, Tensor]
    """By names without what stood before all of them, such as `module.` or `model.model.`."""
    beside: tuple[str, ...]
    """The file's names that are no part of it: buffers of a loss or a metric, another copy of the network."""


def network_in(tensors: dict[str, Tensor], *, ema: bool) -> Network:
    """Return the network that the tensors hold; all of them where no name is known.

    Args:
        tensors: by the file's names.
        ema: take the averaged copy where there are two.

    Raises:
        WeightsError: the tensors hold several networks, and nothing says which is meant.
    """
    firsts = (match for key in tensors if (match := _FIRST.fullmatch(key)))
    prefixes = sorted({_without_backbone(match["prefix"], tensors) for match in firsts})
    if not prefixes:
        return Network(tensors, ())
    averaged = [prefix for prefix in prefixes if _AVERAGED.search(prefix)]
    plain = [prefix for prefix in prefixes if prefix not in averaged]
    chosen = averaged if averaged and (ema or not plain) else plain
    if len(chosen) > 1:
        raise WeightsError(f"it holds {len(chosen)} networks, named {', '.join(chosen)}; save the one that is meant")
    (prefix,) = chosen
    others = [other for other in prefixes if other != prefix and other.startswith(prefix)]
    inner = {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and not any(key.startswith(other) for other in others) and not _is_anchors(key)
    }
    return Network(inner, tuple(key for key in tensors if not key.startswith(prefix) or _is_anchors(key)))


def _without_backbone(prefix: str, tensors: dict[str, Tensor]) -> str:
    """The prefix of the whole detector, where the first layer is that of a detector's backbone."""
    for backbone in _BACKBONES:
        outer = prefix.removesuffix(backbone)
        if outer != prefix and any(key.startswith(f"{outer}{part}") for part in _DETECTOR_PARTS for key in tensors):
            return outer
    return prefix


def _is_anchors(key: str) -> bool:
    """effdet's training bench keeps its anchors beside the model; ours are computed."""
    return key.endswith("anchors.boxes")
