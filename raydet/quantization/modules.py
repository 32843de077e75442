"""raydet's layers with fake-quantizers before what they compute with. Each keeps its class as a base and its keys.

Source of the places: NVIDIA/DeepLearningExamples 729963d, Classification/ConvNets, models/{common,efficientnet}.py: the
input and weight of every convolution, the pools, both factors of squeeze-excite, a block's shortcut but not its branch
(which TensorRT then adds within the convolution). The pyramid's sums are not in there: all their inputs are quantized.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from raydet.models.bifpn import Fuse
from raydet.models.layers import Add, AveragePool, Conv2dSame, Multiply
from raydet.quantization.libraries import fake_quantize


class QuantConv2d(nn.Conv2d):
    """An INT8 convolution."""

    input_quantizer: nn.Module
    weight_quantizer: nn.Module

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = fake_quantize(self.weight_quantizer, weight)
        y: Tensor = super()._conv_forward(fake_quantize(self.input_quantizer, x), weight, bias)
        return y


class QuantConv2dSame(QuantConv2d, Conv2dSame):
    """The same with TensorFlow's padding."""


class QuantLinear(nn.Linear):
    """An INT8 linear layer."""

    input_quantizer: nn.Module
    weight_quantizer: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        weight = fake_quantize(self.weight_quantizer, self.weight)
        return F.linear(fake_quantize(self.input_quantizer, x), weight, self.bias)


class QuantPool(nn.AdaptiveAvgPool2d):
    """An INT8 mean."""

    input_quantizer: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(fake_quantize(self.input_quantizer, x))


class QuantAveragePool(AveragePool):
    """An INT8 mean, within squeeze-excite."""

    input_quantizer: nn.Module

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(fake_quantize(self.input_quantizer, x_BCHW))


class QuantMultiply(Multiply):
    """The product of squeeze-excite. The gate is a sigmoid's output: its range is known, 1."""

    features_quantizer: nn.Module
    gate_quantizer: nn.Module

    def forward(self, x_BCHW: Tensor, gate_BC11: Tensor) -> Tensor:
        gate_BC11 = fake_quantize(self.gate_quantizer, gate_BC11)
        return super().forward(fake_quantize(self.features_quantizer, x_BCHW), gate_BC11)


class QuantAdd(Add):
    """The sum at the end of a shortcut."""

    residual_quantizer: nn.Module

    def forward(self, branch: Tensor, x: Tensor, scale_B111: Tensor | None = None) -> Tensor:
        return super().forward(branch, fake_quantize(self.residual_quantizer, x), scale_B111)


class QuantFuse(Fuse):
    """A sum of the pyramid's maps."""

    input_quantizers: nn.ModuleList

    def forward(self, inputs: list[Tensor], shares: tuple[Tensor, ...] | None = None) -> Tensor:
        return super().forward(
            [fake_quantize(q, x) for q, x in zip(self.input_quantizers, inputs, strict=True)], shares
        )
