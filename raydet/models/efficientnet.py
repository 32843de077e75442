"""EfficientNet as classifier and as the backbone of EfficientDet; `efficientnet_variants` has the named sizes.

Source: Tan & Le 2019 (arXiv:1905.11946). The state-dict keys are timm's.

Shapes: B images, C classes or channels, H W pixels.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

from raydet.models.efficientnet_variants import (
    STAGES,
    TAPS,
    EfficientNetVariant,
    end_channels,
    scaled_channels,
    squeeze_width,
    stage_depths,
)
from raydet.models.layers import (
    Activation,
    DepthwiseSeparable,
    MBConv,
    Norm,
    Padding,
    activation,
    conv2d,
    drop_path_scales,
    dropout,
)


class Backbone(nn.Module):
    """EfficientNet without its head: `features` gives the maps a detector needs."""

    name: str = "an EfficientNet"

    def __init__(
        self,
        variant: EfficientNetVariant,
        *,
        drop_path: float | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        padding: Padding | None = None,
        act: Activation | None = None,
    ) -> None:
        """Build the stem and the seven stages; None takes the variant's value.

        Args:
            variant: one of `efficientnet_variants.VARIANTS`.
            drop_path: stochastic depth; block i of n skips its branch with probability drop_path * i / n. None is 0.
            bn_eps: added to the variance in every BN.
            bn_momentum: weight of the new batch in the running statistics.
            padding: of the strided convolutions.
            act: every activation but squeeze-excite's gate.
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
        self.act: Activation = variant.act if act is None else act
        stem = end_channels(32, variant)
        self.conv_stem = conv2d(3, stem, 3, stride=2, padding=self.padding)
        self.bn1 = self.norm.over(stem)
        self.act1 = activation(self.act)
        self.blocks = nn.ModuleList()
        channels = [stem]
        for stage, depth in zip(STAGES, stage_depths(variant), strict=True):
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
            common = (
                outputs,
                kernel,
                stride,
                squeeze_width(self.variant, inputs, hidden),
                self.padding,
                self.norm,
                self.act,
            )
            blocks.append(DepthwiseSeparable(inputs, *common) if expansion == 1 else MBConv(inputs, hidden, *common))
            inputs, stride = outputs, 1
        return blocks

    def features(self, images_B3HW: Tensor, seeds_B: Tensor | None = None) -> list[Tensor]:
        """Return [C3, C4, C5], the maps of strides 8, 16 and 32.

        Args:
            images_B3HW: normalised, floating point.
            seeds_B: int64, what stochastic depth draws from while training; None: the global generator.
        """
        x = self.act1(self.bn1(self.conv_stem(images_B3HW)))
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
        variant: EfficientNetVariant,
        num_classes: int = 1000,
        *,
        dropout: float | None = None,
        drop_path: float | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        padding: Padding | None = None,
        act: Activation | None = None,
    ) -> None:
        """Build the net with random weights; None takes the variant's value. See `Backbone` for the other arguments.

        Args:
            variant: one of `efficientnet_variants.VARIANTS`.
            num_classes: outputs, at least 1.
            dropout: on the pooled features.
        """
        super().__init__(variant, drop_path=drop_path, bn_eps=bn_eps, bn_momentum=bn_momentum, padding=padding, act=act)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.dropout = _probability("dropout", variant.dropout if dropout is None else dropout)
        head = end_channels(1280, variant)
        self.conv_head = conv2d(self.channels[-1], head, 1)
        self.bn2 = self.norm.over(head)
        self.act2 = activation(self.act)
        self.pool = nn.AdaptiveAvgPool2d(1)
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
        features_BC = self.pool(self.act2(self.bn2(self.conv_head(x)))).flatten(1)
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
