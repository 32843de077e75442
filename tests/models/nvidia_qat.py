"""NVIDIA's quantized EfficientNet as its code builds it: the modules and their names, with ranges.

Written from the names and the order of operations in DeepLearningExamples 729963d, Classification/ConvNets,
image_classification/{models/efficientnet,models/common,quantization}.py; made for weights no training has to find.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from pytorch_quantization import nn as quant_nn
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn

from raydet.models.efficientnet_variants import STAGES, EfficientNetVariant, end_channels, scaled_channels, stage_depths

INPUT = QuantDescriptor(calib_method="max")  # they use histograms; where a range goes is the same, found sooner


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Module:
    where = {"stride": stride, "padding": kernel // 2, "groups": groups, "bias": bias, "quant_desc_input": INPUT}
    layer: nn.Module = quant_nn.QuantConv2d(inputs, outputs, kernel, **where)
    return layer


def _normed(conv: nn.Module, channels: int, act: str | None = "act") -> nn.Sequential:
    layers = [("conv", conv), ("bn", nn.BatchNorm2d(channels, eps=1e-3, momentum=0.5))]
    return nn.Sequential(OrderedDict([*layers, (act, nn.SiLU())] if act else layers))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pooling = quant_nn.QuantAdaptiveAvgPool2d(1, quant_desc_input=INPUT)
        self.squeeze = _conv(channels, squeezed, bias=True)
        self.expand = _conv(squeezed, channels, bias=True)
        self.mul_a_quantizer = quant_nn.TensorQuantizer(INPUT)
        self.mul_b_quantizer = quant_nn.TensorQuantizer(INPUT)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.expand(nn.functional.silu(self.squeeze(self.pooling(x)))))
        product: Tensor = self.mul_a_quantizer(gate) * self.mul_b_quantizer(x)
        return product


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = None if hidden == inputs else _normed(_conv(inputs, hidden), hidden)
        self.depsep = _normed(_conv(hidden, hidden, kernel, stride, hidden), hidden)
        self.se = _SqueezeExcite(hidden, max(1, inputs // 4))
        self.proj = _normed(_conv(hidden, outputs), outputs, None)
        residual = stride == 1 and inputs == outputs
        self.residual_quantizer = quant_nn.TensorQuantizer(INPUT) if residual else nn.Identity()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.proj(self.se(self.depsep(x if self.expand is None else self.expand(x))))
        return torch.add(self.residual_quantizer(x), branch) if self.residual else branch


class NvidiaEfficientNet(nn.Module):
    """The net under NVIDIA's names."""

    def __init__(self, variant: EfficientNetVariant, num_classes: int) -> None:
        super().__init__()
        channels = [end_channels(32, variant), *(scaled_channels(stage[3], variant.width) for stage in STAGES)]
        head = end_channels(1280, variant)
        self.stem = _normed(_conv(3, channels[0], 3, 2), channels[0], "activation")
        layers = []
        ends = pairwise(channels)
        for (kernel, stride, expansion, *_), depth, (first, last) in zip(
            STAGES, stage_depths(variant), ends, strict=True
        ):
            sizes = [(first, last, kernel, stride), *[(last, last, kernel, 1)] * (depth - 1)]
            blocks = [(f"block{i}", _Block(*size, expansion)) for i, size in enumerate(sizes)]
            layers.append(nn.Sequential(OrderedDict(blocks)))
        self.layers = nn.Sequential(*layers)
        self.features = _normed(_conv(channels[-1], head), head, "activation")
        pool = quant_nn.QuantAdaptiveAvgPool2d(1, quant_desc_input=INPUT)
        fc = quant_nn.QuantLinear(head, num_classes, quant_desc_input=INPUT)
        self.classifier = nn.Sequential(OrderedDict([("pooling", pool), ("squeeze", nn.Flatten()), ("fc", fc)]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(self.layers(self.stem(images))))
        return logits


@torch.no_grad()
def calibrated(variant: EfficientNetVariant, num_classes: int, batches: list[Tensor]) -> NvidiaEfficientNet:
    """Return a net with statistics and ranges of these batches and logits of rms about 1, in eval mode."""
    net = NvidiaEfficientNet(variant, num_classes)
    quantizers = [m for m in net.modules() if isinstance(m, quant_nn.TensorQuantizer)]
    for name, parameter in net.named_parameters():
        if ".bn." in name or name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) * 0.2)
    for quantizer in quantizers:
        quantizer.disable()
    net.train()
    for images in [*batches, *batches]:
        net(images)
    net.eval()
    fc: Any = net.classifier.fc
    fc.weight.div_(net(batches[0]).std())
    for quantizer in quantizers:
        quantizer.enable()
        quantizer.disable_quant()
        quantizer.enable_calib()
    for images in batches:
        net(images)
    for quantizer in quantizers:
        quantizer.load_calib_amax()
        quantizer.disable_calib()
        quantizer.enable_quant()
    return net
