"""BiFPN: the feature pyramid that EfficientDet repeats, with learned or plain fusion, over any range of levels.

Source: Tan et al. 2020 (arXiv:1911.09070), section 3; the parameter names are effdet's
(https://github.com/rwightman/efficientdet-pytorch), so that its files load as they are.

Given up: effdet's stack-and-sum fusion and its resampling to arbitrary sizes. Maps are added one after the other (no
copy of all inputs on a new dimension: forward and backward of a 2x64x64x64 node 16.2 -> 2.6 ms, one thread of a Xeon
with AVX-512, torch 2.15, n=15), and neighbouring levels differ by exactly a factor of two.

Shapes: B images, C channels, H W pixels. A "map" is a tensor [B, C, H, W].
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet.models.layers import Activation, Norm, Padding, activation, conv2d, max_pool_half

Fusion = Literal["attention", "sum"]


@dataclass(frozen=True, slots=True)
class Node:
    """One fusion in a cell: which maps make the new map of `level`."""

    level: int
    inputs: tuple[int, ...]
    """Indices into the cell's maps: first its inputs from the finest level up, then the nodes in order."""


def cell_nodes(min_level: int, max_level: int) -> tuple[Node, ...]:
    """Return the nodes of one BiFPN cell: top-down from max_level - 1, then bottom-up from min_level + 1.

    A top-down node takes its level's input and the coarser map. A bottom-up node takes its level's input, its level's
    top-down node (the coarsest level has none) and the finer map.
    """
    maps_of = {level: [level - min_level] for level in range(min_level, max_level + 1)}
    nodes: list[Node] = []

    def add(level: int, inputs: list[int]) -> None:
        maps_of[level].append(len(maps_of) + len(nodes))
        nodes.append(Node(level, tuple(inputs)))

    for level in range(max_level - 1, min_level - 1, -1):
        add(level, [maps_of[level][-1], maps_of[level + 1][-1]])
    for level in range(min_level + 1, max_level + 1):
        add(level, [*maps_of[level], maps_of[level - 1][-1]])
    return tuple(nodes)


class ConvBN(nn.Module):
    """A pointwise convolution and BN: brings a map to the pyramid's channels."""

    def __init__(self, inputs: int, outputs: int, bias: bool, norm: Norm) -> None:
        super().__init__()
        self.conv = conv2d(inputs, outputs, 1, bias=bias)
        self.bn = norm.over(outputs)
        init_glorot(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class SeparableConv(nn.Module):
    """Depthwise 3x3, pointwise 1x1 and, where `norm` is given, BN."""

    def __init__(self, inputs: int, outputs: int, bias: bool, norm: Norm | None = None) -> None:
        super().__init__()
        self.conv_dw = conv2d(inputs, inputs, 3, groups=inputs)
        self.conv_pw = conv2d(inputs, outputs, 1, bias=bias)
        self.bn = None if norm is None else norm.over(outputs)
        init_glorot(self.conv_dw)
        init_glorot(self.conv_pw)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_pw(self.conv_dw(x))
        return y if self.bn is None else self.bn(y)


class Fuse(nn.Module):
    """Sums maps of the pyramid's channels. A module, so that fake-quantizers can stand before its inputs."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = steps
        """1: the map is coarser by one level and is doubled here; else it has the size of the sum."""

    def forward(self, inputs: list[Tensor], shares: tuple[Tensor, ...] | None = None) -> Tensor:
        total = inputs[0] if shares is None else inputs[0] * shares[0]
        for i, (x, step) in enumerate(zip(inputs[1:], self.steps[1:], strict=True), 1):
            if step == 1:
                # A coarser map is weighted before it grows fourfold.
                total = total + _doubled(x if shares is None else x * shares[i])
            else:
                total = total + x if shares is None else torch.addcmul(total, x, shares[i])
        return total


class Combine(nn.Module):
    """Sums maps of neighbouring levels at one of the levels, weighted by non-negative learned shares or plainly."""

    def __init__(
        self,
        node: Node,
        levels: tuple[int, ...],
        channels: tuple[int, ...],
        out_channels: int,
        *,
        fusion: Fusion,
        padding: Padding,
        bias: bool,
        norm: Norm,
    ) -> None:
        """Build the fusion of one node.

        Args:
            node: what to fuse.
            levels: level of each map of the cell so far.
            channels: channels of each map of the cell so far; another count than out_channels gets a convolution.
            out_channels: of the pyramid.
            fusion: "attention" for learned weights.
            padding: of the max-pool that halves a finer map.
            bias: give the convolutions one, though BN follows.
            norm: constants of the BN.
        """
        super().__init__()
        self.inputs = node.inputs
        self.steps = tuple(levels[i] - node.level for i in node.inputs)  # 1: coarser by one level, -1: finer, 0: equal
        self.padding: Padding = padding
        self.resample = nn.ModuleDict()
        for i in node.inputs:
            if channels[i] != out_channels:
                self.resample[str(i)] = named("conv", ConvBN(channels[i], out_channels, bias, norm))
        self.edge_weights = nn.Parameter(torch.ones(len(node.inputs))) if fusion == "attention" else None
        self.fuse = Fuse(self.steps)

    def forward(self, maps: list[Tensor]) -> Tensor:
        inputs = [self._resampled(maps[i], str(i), step) for i, step in zip(self.inputs, self.steps, strict=True)]
        shares: tuple[Tensor, ...] | None = None
        if self.edge_weights is not None:
            positive = F.relu(self.edge_weights)
            # In the maps' type: under autocast a float32 factor would make the whole sum float32.
            shares = (positive / (positive.sum() + 1e-4)).to(inputs[0].dtype).unbind()
        total: Tensor = self.fuse(inputs, shares)
        return total

    def _resampled(self, x: Tensor, key: str, step: int) -> Tensor:
        """Return x with the pyramid's channels, halved if it is finer; a coarser one stays small as long as it can."""
        if key in self.resample:
            x = self.resample[key](x)
        return max_pool_half(x, self.padding) if step == -1 else x


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class FusionNode(nn.Module):
    """Fuse, activate, convolve: one new map."""

    def __init__(self, combine: Combine, act: nn.Module, conv: SeparableConv) -> None:
        super().__init__()
        self.combine = combine
        self.after_combine = nn.Sequential(OrderedDict(act=act, conv=conv))

    def forward(self, maps: list[Tensor]) -> Tensor:
        y: Tensor = self.after_combine(self.combine(maps))
        return y


class Cell(nn.Module):
    """One BiFPN layer: a map a level in, a map a level out."""

    def __init__(
        self,
        min_level: int,
        max_level: int,
        in_channels: tuple[int, ...],
        out_channels: int,
        *,
        fusion: Fusion,
        padding: Padding,
        bias: bool,
        norm: Norm,
        act: Activation,
    ) -> None:
        super().__init__()
        levels = tuple(range(min_level, max_level + 1))
        self.levels = len(levels)
        self.fnode = nn.ModuleList()
        for node in cell_nodes(min_level, max_level):
            channels = in_channels + (out_channels,) * len(self.fnode)
            combine = Combine(
                node, levels, channels, out_channels, fusion=fusion, padding=padding, bias=bias, norm=norm
            )
            conv = SeparableConv(out_channels, out_channels, bias, norm)
            self.fnode.append(FusionNode(combine, activation(act), conv))
            levels += (node.level,)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [*maps]
        for node in self.fnode:
            maps.append(node(maps))
        # The last `levels` maps: the finest top-down node, then every bottom-up node.
        return maps[-self.levels :]


class BiFPN(nn.Module):
    """Adds the coarser levels the backbone lacks, then repeats the cell."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        *,
        min_level: int,
        max_level: int,
        cells: int,
        fusion: Fusion,
        padding: Padding,
        redundant_bias: bool,
        norm: Norm,
        act: Activation = "silu",
    ) -> None:
        """Build the pyramid with random weights.

        Args:
            in_channels: of the backbone's maps, from min_level up; levels above them are made by max-pooling.
            out_channels: of every map that comes out.
            min_level: finest level; the maps of level n have stride 2**n.
            max_level: coarsest level, above min_level.
            cells: how often the cell is repeated.
            fusion: "attention" for learned weights, "sum" for none.
            padding: of the max-pools.
            redundant_bias: give the convolutions before a BN a bias, as the TensorFlow weights have it.
            norm: constants of the BNs.
            act: before every separable convolution.
        """
        super().__init__()
        self.padding: Padding = padding
        self.extra_levels = max_level - min_level + 1 - len(in_channels)
        self.resample = nn.ModuleDict()
        channels = in_channels
        for level in range(len(in_channels), len(in_channels) + self.extra_levels):
            if channels[-1] != out_channels:
                conv = ConvBN(channels[-1], out_channels, redundant_bias, norm)
                self.resample[str(level)] = named("conv", conv)
            channels += (out_channels,)
        self.cell = nn.ModuleList()
        cell_of = partial(
            Cell, min_level, max_level, fusion=fusion, padding=padding, bias=redundant_bias, norm=norm, act=act
        )
        for _ in range(cells):
            self.cell.append(cell_of(in_channels=channels, out_channels=out_channels))
            channels = (out_channels,) * len(channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return a map for every level, finest first; the list given is not changed."""
        maps = [*maps]
        for _ in range(self.extra_levels):
            x, key = maps[-1], str(len(maps))
            if key in self.resample:
                x = self.resample[key](x)
            maps.append(max_pool_half(x, self.padding))
        for cell in self.cell:
            maps = cell(maps)
        return maps


def named(name: str, module: nn.Module) -> nn.Sequential:
    """Return the module under a name of its own, as effdet's keys have it in places."""
    return nn.Sequential(OrderedDict([(name, module)]))


@torch.no_grad()
def init_glorot(conv: nn.Conv2d) -> None:
    """Draw the weights from uniform(+-sqrt(3 / mean of fan in and out)), bias zero, as the reference does."""
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    fan_mean = (conv.weight.shape[1] + conv.out_channels // conv.groups) * taps / 2
    limit = math.sqrt(3.0 / max(1.0, fan_mean))
    conv.weight.uniform_(-limit, limit)
    if conv.bias is not None:
        conv.bias.zero_()
