"""EfficientNet B0-B7, WideSE and the small net of the demo, as classifier and as the backbone of EfficientDet.

Source: Tan & Le 2019 (arXiv:1905.11946), table 1; widths and depths of
https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/efficientnet_builder.py. The state-dict keys
are timm's. Variants differ in more than their size:

* `efficientnet_*`: timm's PyTorch variants, symmetric padding, BN eps 1e-5.
* `tf_efficientnet_*`: the weights of TensorFlow: SAME padding, BN eps 1e-3.
* `efficientnet_widese_*`: NVIDIA's, squeeze width a quarter of the *hidden* channels, BN eps 1e-3, momentum 0.01.

Shapes: B images, C classes or channels, H W pixels.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet.models.layers import DepthwiseSeparable, MBConv, Norm, Padding, conv2d, drop_path_scales, dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What tells one named EfficientNet from another."""

    width: float
    """Factor on every channel count."""
    depth: float
    """Factor on the blocks of every stage, rounded up."""
    image_size: int
    """Pixels a side the variant is documented with."""
    dropout: float
    """Before the classifier."""
    padding: Padding = "symmetric"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    """PyTorch's: the weight of the new batch."""
    squeeze_from: Literal["inputs", "hidden"] = "inputs"
    """The channels the squeeze width is a quarter of."""


# name: width, depth, pixels, dropout (DEFAULTS B3, the documented sizes of both predecessors)
_SCALES = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
}

# kernel, stride, expansion, channels and blocks at width and depth 1
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

# The stages whose last block feeds the detector: strides 8, 16 and 32.
TAPS = (2, 4, 6)


def _variants() -> dict[str, Variant]:
    table = {}
    for scale, (width, depth, image_size, rate) in _SCALES.items():
        plain = Variant(width=width, depth=depth, image_size=image_size, dropout=rate)
        table[f"efficientnet_{scale}"] = plain
        table[f"tf_efficientnet_{scale}"] = replace(plain, padding="same", bn_eps=1e-3)
        wide = replace(plain, bn_eps=1e-3, bn_momentum=0.01, squeeze_from="hidden")
        table[f"efficientnet_widese_{scale}"] = wide
    # One block a stage at half width: learns 64 px digits in 90 CPU seconds where the deeper nets do not.
    table["efficientnet_demo"] = Variant(width=0.5, depth=0.25, image_size=64, dropout=0.2)
    return table


VARIANTS: dict[str, Variant] = _variants()


def scaled_channels(channels: int, width: float) -> int:
    """Return channels * width, rounded to a multiple of 8 that is not more than 10 % below it."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def stage_depths(variant: Variant) -> tuple[int, ...]:
    """Return the number of blocks in each of the seven stages."""
    return tuple(math.ceil(blocks * variant.depth) for *_, blocks in _STAGES)


class Backbone(nn.Module):
    """EfficientNet without its head: `features` gives the maps a detector needs."""

    name: str = "an EfficientNet"

    def __init__(
        self,
        variant: Variant,
        *,
        drop_path: float | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        padding: Padding | None = None,
    ) -> None:
        """Build the stem and the seven stages; None takes the variant's value.

        Args:
            variant: one of VARIANTS.
            drop_path: stochastic depth; block i of n skips its branch with probability drop_path * i / n. None is 0.
            bn_eps: added to the variance in every BN.
            bn_momentum: weight of the new batch in the running statistics.
            padding: of the strided convolutions.
        """
        super().__init__()
        self.variant = variant
        self.drop_path = _probability("drop_path", 0.0 if drop_path is None else drop_path)
        self.norm = Norm(
            eps=variant.bn_eps if bn_eps is None else bn_eps,
            momentum=variant.bn_momentum if bn_momentum is None else bn_momentum,
        )
        self.padding: Padding = variant.padding if padding is None else padding
        if self.padding not in ("symmetric", "same"):
            raise ValueError(f"padding must be 'symmetric' or 'same', got {padding!r}")
        stem = scaled_channels(32, variant.width)
        self.conv_stem = conv2d(3, stem, 3, stride=2, padding=self.padding)
        self.bn1 = self.norm.over(stem)
        self.blocks = nn.ModuleList()
        channels = [stem]
        for stage, depth in zip(_STAGES, stage_depths(variant), strict=True):
            self.blocks.append(self._stage(channels[-1], depth, *stage[:4]))
            channels.append(scaled_channels(stage[3], variant.width))
        self.channels = tuple(channels[1:])
        """Output channels of the seven stages."""
        init_convs(self)

    def _stage(self, inputs: int, depth: int, kernel: int, stride: int, expansion: int, channels: int) -> nn.ModuleList:
        outputs = scaled_channels(channels, self.variant.width)
        blocks = nn.ModuleList()
        for _ in range(depth):
            hidden = inputs * expansion
            squeezed = max(1, (hidden if self.variant.squeeze_from == "hidden" else inputs) // 4)
            common = (outputs, kernel, stride, squeezed, self.padding, self.norm)
            blocks.append(DepthwiseSeparable(inputs, *common) if expansion == 1 else MBConv(inputs, hidden, *common))
            inputs, stride = outputs, 1
        return blocks

    def features(self, images_B3HW: Tensor, seeds_B: Tensor | None = None) -> list[Tensor]:
        """Return [C3, C4, C5], the maps of strides 8, 16 and 32.

        Args:
            images_B3HW: normalised, floating point.
            seeds_B: int64, what stochastic depth draws from while training; None: the global generator.
        """
        x = F.silu(self.bn1(self.conv_stem(images_B3HW)))
        stages = [cast("nn.ModuleList", stage) for stage in self.blocks]
        count = sum(map(len, stages))
        scales: list[Tensor | None] = [None] * count
        if self.training and self.drop_path > 0:
            scales = [*drop_path_scales(images_B3HW, self.drop_path, count, seeds_B)]
        taps, first = [], 0
        for number, stage in enumerate(stages):
            for block, scale_B111 in zip(stage, scales[first : first + len(stage)], strict=True):
                x = block(x, scale_B111)
            first += len(stage)
            if number in TAPS:
                taps.append(x)
        return taps


class EfficientNet(Backbone):
    """The classifier: images to logits."""

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        *,
        dropout: float | None = None,
        drop_path: float | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        padding: Padding | None = None,
    ) -> None:
        """Build the net with random weights; None takes the variant's value. See `Backbone` for the other arguments.

        Args:
            variant: one of VARIANTS.
            num_classes: outputs, at least 1.
            dropout: on the pooled features.
        """
        super().__init__(variant, drop_path=drop_path, bn_eps=bn_eps, bn_momentum=bn_momentum, padding=padding)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.dropout = _probability("dropout", variant.dropout if dropout is None else dropout)
        head = scaled_channels(1280, variant.width)
        self.conv_head = conv2d(self.channels[-1], head, 1)
        self.bn2 = self.norm.over(head)
        self.classifier = nn.Linear(head, num_classes)
        init_convs(self.conv_head)
        init_classifier(self.classifier)

    def forward(self, images_B3HW: Tensor, seeds_B: Tensor | None = None) -> Tensor:
        """Return logits_BC.

        Args:
            images_B3HW: normalised, floating point, any size from 32 pixels.
            seeds_B: int64, what dropout and stochastic depth draw from while training; None: the global generator.
        """
        x = self.features(images_B3HW, seeds_B)[-1]
        features_BC = F.silu(self.bn2(self.conv_head(x))).mean((2, 3))
        if self.training and self.dropout > 0:
            features_BC = dropout(features_BC, self.dropout, seeds_B)
        logits_BC: Tensor = self.classifier(features_BC)
        return logits_BC


@torch.no_grad()
def init_convs(module: nn.Module) -> None:
    """Draw every convolution of `module` from normal(0, 2 / fan_out), biases zero, as the reference does."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels // conv.groups
            conv.weight.normal_(0, math.sqrt(2 / fan_out))
            if conv.bias is not None:
                conv.bias.zero_()


@torch.no_grad()
def init_classifier(linear: nn.Linear) -> None:
    """Draw the classifier from normal(0, 0.01), bias zero.

    The reference's uniform(+-1 / sqrt(classes)) starts ten classes at a loss of 3.3-5 instead of ln 10 = 2.3.
    """
    linear.weight.normal_(0, 0.01)
    linear.bias.zero_()


def _probability(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return value
