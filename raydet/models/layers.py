"""The layers of EfficientNet and EfficientDet: convolutions, squeeze-excite, the two blocks, seeded randomness.

Sources: Tan & Le 2019 (arXiv:1905.11946) for the blocks, Huang et al. 2016 (arXiv:1603.09382) for stochastic depth.
The parameter names are timm's (`conv_pw`, `bn1`, `se.conv_reduce`, ...), so that its files load as they are.

Given up: in-place activations. They save no memory in training (autograd clones the input: 48 clones, 127 MB an image
in EfficientDet-D0) and are left out in evaluation too, so that one code path serves both.

Pools, products, sums and activations are modules without parameters, one for each place: a fake-quantizer can be hung
on each, and none leaves a key in a state dict.

Shapes: B images, N draws a sample, C channels, H W pixels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["symmetric", "same"]
Activation = Literal["silu", "relu6"]

# What a draw is for. A salt in use is never given another meaning: resumed runs would change their draws.
SALT_DROP_PATH = 1
SALT_DROPOUT = 2

_MASK = 0xFFFFFFFF


def sample_uniform(seeds_B: Tensor, salt: int, count: int) -> Tensor:
    """Return uniform_BN, float32 in [0, 1): a pure function of (seed, salt, index), whatever the rank or the position.

    A chain of 32-bit integer hashes (two multiplications each, constants of the hash-prospector project,
    https://github.com/skeeto/hash-prospector), held in int64 because no product then leaves 63 bits and every backend,
    compiled or not, agrees.

    Args:
        seeds_B: int64, one seed a sample, any value; the draws are made on its device.
        salt: tells one use of the seeds from another; 0 <= salt < 2**32.
        count: draws a sample.
    """
    state_B = _hash32(_hash32(seeds_B & _MASK) ^ ((seeds_B >> 32) & _MASK))
    state_B1 = _hash32(state_B ^ (salt & _MASK))[:, None]
    index_N = torch.arange(count, device=seeds_B.device)
    # The state comes in twice: once only, two samples whose states differ in a few low bits would share their draws.
    bits_BN = _hash32((_hash32(state_B1 ^ index_N) + state_B1) & _MASK)
    return (bits_BN >> 8).to(torch.float32) * 2.0**-24


def _hash32(x: Tensor) -> Tensor:
    x = (x ^ (x >> 16)) + 0x9E3779B9 & _MASK  # the sum keeps zero from being a fixed point
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _MASK
    x = (x ^ (x >> 15)) * 0x735A2D97 & _MASK
    return x ^ (x >> 15)


def drop_path_scales(images_B3HW: Tensor, rate: float, blocks: int, seeds_B: Tensor | None) -> list[Tensor]:
    """Return for each block a scale_B111: 0 where the sample skips its branch, 1 / (1 - its rate) where it keeps it.

    Block i of n is dropped with probability rate * i / n. All blocks are drawn at once: a few kernels a step, not a
    few a block.
    """
    device = images_B3HW.device
    if seeds_B is None:
        uniform_BN = torch.rand(images_B3HW.shape[0], blocks, device=device)
    else:
        uniform_BN = sample_uniform(seeds_B, SALT_DROP_PATH, blocks)
    rate_N = torch.arange(blocks, device=device) * (rate / blocks)
    scale_BN = (uniform_BN >= rate_N) / (1 - rate_N)
    return [scale_B[:, None, None, None] for scale_B in scale_BN.unbind(1)]


def dropout(features_BC: Tensor, rate: float, seeds_B: Tensor | None) -> Tensor:
    """Return the features with each zeroed at `rate` and the rest scaled up; drawn by seed where seeds are given."""
    if seeds_B is None:
        return F.dropout(features_BC, rate)
    kept_BC = sample_uniform(seeds_B, SALT_DROPOUT, features_BC.shape[1]) >= rate
    return features_BC * (kept_BC / (1 - rate)).to(features_BC.dtype)


@dataclass(frozen=True, slots=True)
class Norm:
    """The constants of a part's batch normalisations."""

    eps: float
    momentum: float
    """PyTorch's: the weight of the new batch."""

    def over(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, worked out from the size of each input.

    When a total is odd the extra row or column goes to the bottom or right, so the symmetric padding of `nn.Conv2d`
    cannot express it. Only strided convolutions need this class: with stride 1 and an odd kernel both paddings agree.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # int: torch.onnx.export gives sizes as tensors, which are no padding.
        top, bottom = _same_padding(int(x.shape[2]), self.kernel_size[0], self.stride[0])
        left, right = _same_padding(int(x.shape[3]), self.kernel_size[1], self.stride[1])
        if top == bottom and left == right:  # no padded copy needed
            return F.conv2d(x, weight, bias, self.stride, (top, left), 1, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, self.stride, 0, 1, self.groups)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    outputs = (size + stride - 1) // stride
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv2d(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: Padding = "symmetric",
) -> nn.Conv2d:
    """Return a convolution with an odd kernel, padded by k // 2 all round or, with "same", as TensorFlow does."""
    if padding == "same" and stride > 1:
        return Conv2dSame(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def activation(name: Activation) -> nn.Module:
    """Return a new activation. ReLU6 is bounded, so that eight bits cover it; SiLU needs a sigmoid in float."""
    if name not in ("silu", "relu6"):
        raise ValueError(f"act must be 'silu' or 'relu6', got {name!r}")
    return nn.SiLU() if name == "silu" else nn.ReLU6()


def max_pool_half(x: Tensor, padding: Padding) -> Tensor:
    """Return x halved (rounded up) by a 3x3 max-pool of stride 2."""
    if padding == "symmetric":
        return F.max_pool2d(x, 3, 2, 1)
    # SAME without a padded copy: an even size lacks one column at the end, which ceil_mode allows to be missing; an
    # odd one lacks a column at either end.
    return F.max_pool2d(x, 3, 2, (int(x.shape[2]) % 2, int(x.shape[3]) % 2), ceil_mode=True)


class AveragePool(nn.AdaptiveAvgPool2d):
    """The mean of each channel, [B, C, 1, 1]: exported as a GlobalAveragePool, which runtimes have in int8."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training or x_BCHW.dtype.itemsize < 4:  # a sum could pass float16's 65504
            return super().forward(x_BCHW)
        # The gradient of a sum is a view, that of a mean a whole map: 2 % of a D0 step at 512 px (one CPU thread, n=6).
        return x_BCHW.sum((2, 3), keepdim=True) * (1 / (x_BCHW.shape[2] * x_BCHW.shape[3]))


class Multiply(nn.Module):
    """The product of squeeze-excite: features by gate."""

    def forward(self, x_BCHW: Tensor, gate_BC11: Tensor) -> Tensor:
        return x_BCHW * gate_BC11


class Add(nn.Module):
    """The sum at the end of a shortcut: x + branch, the branch scaled per sample where stochastic depth is on."""

    def forward(self, branch: Tensor, x: Tensor, scale_B111: Tensor | None = None) -> Tensor:
        if scale_B111 is None:
            return branch + x
        return torch.addcmul(x, branch, scale_B111.to(branch.dtype))  # in one kernel


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int, act: Activation) -> None:
        super().__init__()
        self.pool = AveragePool()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.act1 = activation(act)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()
        self.multiply = Multiply()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        squeezed_BC11 = self.act1(self.conv_reduce(self.pool(x_BCHW)))
        y_BCHW: Tensor = self.multiply(x_BCHW, self.gate(self.conv_expand(squeezed_BC11)))
        return y_BCHW


def _squeeze_excite(channels: int, squeezed: int | None, act: Activation) -> nn.Module:
    return nn.Identity() if squeezed is None else SqueezeExcite(channels, squeezed, act)


class DepthwiseSeparable(nn.Module):
    """The block of the first stage: depthwise, squeeze-excite, pointwise. Its shortcut needs equal shapes."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        squeezed: int | None,
        padding: Padding,
        norm: Norm,
        act: Activation,
    ) -> None:
        super().__init__()
        self.conv_dw = conv2d(inputs, inputs, kernel, stride=stride, groups=inputs, padding=padding)
        self.bn1 = norm.over(inputs)
        self.act1 = activation(act)
        self.se = _squeeze_excite(inputs, squeezed, act)
        self.conv_pw = conv2d(inputs, outputs, 1)
        self.bn2 = norm.over(outputs)
        self.add = Add() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor, scale_B111: Tensor | None = None) -> Tensor:
        branch: Tensor = self.act1(self.bn1(self.conv_dw(x)))
        branch = self.bn2(self.conv_pw(self.se(branch)))
        return branch if self.add is None else self.add(branch, x, scale_B111)


class MBConv(nn.Module):
    """Inverted residual (pointwise up, depthwise, squeeze-excite, pointwise down), the block of all later stages."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        stride: int,
        squeezed: int | None,
        padding: Padding,
        norm: Norm,
        act: Activation,
    ) -> None:
        super().__init__()
        self.conv_pw = conv2d(inputs, hidden, 1)
        self.bn1 = norm.over(hidden)
        self.act1 = activation(act)
        self.conv_dw = conv2d(hidden, hidden, kernel, stride=stride, groups=hidden, padding=padding)
        self.bn2 = norm.over(hidden)
        self.act2 = activation(act)
        self.se = _squeeze_excite(hidden, squeezed, act)
        self.conv_pwl = conv2d(hidden, outputs, 1)
        self.bn3 = norm.over(outputs)
        self.add = Add() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor, scale_B111: Tensor | None = None) -> Tensor:
        branch: Tensor = self.act1(self.bn1(self.conv_pw(x)))
        branch = self.act2(self.bn2(self.conv_dw(branch)))
        branch = self.bn3(self.conv_pwl(self.se(branch)))
        return branch if self.add is None else self.add(branch, x, scale_B111)
