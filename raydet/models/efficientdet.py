"""EfficientDet: images to class logits and box codes of every anchor; `efficientdet_variants` has the named sizes.

Source: Tan et al. 2020 (arXiv:1911.09070). The state-dict keys are those of effdet
(https://github.com/rwightman/efficientdet-pytorch). One thing differs: a box code is (tx, ty, tw, th) here and
(ty, tx, th, tw) there, which `raydet.models.weights` turns round when it reads such a file.

Shapes: B images, A anchors, C classes, H W pixels. Anchors come in the order level, row, column, scale, ratio.
"""

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from raydet.models.bifpn import BiFPN, Fusion, SeparableConv, named
from raydet.models.efficientdet_variants import EfficientDetVariant
from raydet.models.efficientnet import Backbone
from raydet.models.efficientnet_variants import TAPS
from raydet.models.efficientnet_variants import VARIANTS as BACKBONES
from raydet.models.layers import Activation, Norm, Padding, activation

ASPECT_RATIOS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height of an anchor, as factors on its side."""


class Head(nn.Module):
    """Predicts for every anchor of every level. The convolutions are shared by the levels, the BNs are not."""

    def __init__(
        self, channels: int, outputs: int, *, levels: int, repeats: int, bias: bool, norm: Norm, act: Activation
    ) -> None:
        super().__init__()
        self.conv_rep = nn.ModuleList(SeparableConv(channels, channels, bias) for _ in range(repeats))
        self.bn_rep = nn.ModuleList(
            nn.ModuleList(named("bn", norm.over(channels)) for _ in range(levels)) for _ in range(repeats)
        )
        self.act_rep = nn.ModuleList(activation(act) for _ in range(repeats))
        self.predict = SeparableConv(channels, outputs, bias=True)
        for conv in (*self.conv_rep, self.predict):
            init_fan_in(conv.conv_dw)
            init_fan_in(conv.conv_pw)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return [B, outputs, cells, 1]: the predictions for the cells of all levels, finest first, row by row."""
        features = []
        for level, x in enumerate(maps):
            for conv, bns, act in zip(self.conv_rep, self.bn_rep, self.act_rep, strict=True):
                x = act(cast("nn.ModuleList", bns)[level](conv(x)))
            # Joining the levels here, not after the last convolution, copies 64 values a cell instead of 810.
            features.append(self.predict.conv_dw(x).permute(0, 2, 3, 1).flatten(1, 2))
        x_BCN1 = torch.cat(features, 1)[:, :, None].permute(0, 3, 1, 2)
        predictions: Tensor = self.predict.conv_pw(x_BCN1)
        return predictions


class EfficientDet(nn.Module):
    """The detector, with random weights; a None takes the variant's value.

    Args:
        variant: one of `efficientdet_variants.VARIANTS`.
        num_classes: at least 1.
        drop_path: of the backbone's blocks, see `Backbone`.
        bn_eps: of the backbone's BNs.
        bn_momentum: of the backbone's BNs, the weight of the new batch.
        fpn_bn_eps: of the BNs in the pyramid and the heads.
        fpn_bn_momentum: of the BNs in the pyramid and the heads.
        padding: "symmetric" or "same", in backbone and pyramid; None leaves each its own (they differ in d4-d7x).
        act: every activation but squeeze-excite's gate; None leaves backbone and the rest each its own.
        redundant_bias: give the convolutions before a BN a bias.
        fusion: "attention" or "sum".
        anchor_scale: side of the smallest square anchor, in strides of its level.
        aspect_ratios: (width, height) factors of an anchor's side.
        num_scales: anchor sizes within an octave.
        min_level: finest level, 3 to 5.
        max_level: coarsest level, above min_level.
    """

    name: str = "an EfficientDet"

    def __init__(
        self,
        variant: EfficientDetVariant,
        num_classes: int = 90,
        *,
        drop_path: float | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        fpn_bn_eps: float = 1e-3,
        fpn_bn_momentum: float = 0.01,
        padding: Padding | None = None,
        act: Activation | None = None,
        redundant_bias: bool | None = None,
        fusion: Fusion | None = None,
        anchor_scale: float | None = None,
        aspect_ratios: tuple[tuple[float, float], ...] = ASPECT_RATIOS,
        num_scales: int = 3,
        min_level: int | None = None,
        max_level: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.variant = _changed(
            variant,
            drop_path=drop_path,
            padding=padding,
            act=act,
            redundant_bias=redundant_bias,
            fusion=fusion,
            anchor_scale=anchor_scale,
            min_level=min_level,
            max_level=max_level,
        )
        self.num_classes = num_classes
        self.aspect_ratios = tuple(aspect_ratios)
        self.num_scales = num_scales
        self.anchor_scale = self.variant.anchor_scale
        self.min_level, self.max_level = self.variant.min_level, self.variant.max_level
        backbone = BACKBONES[variant.backbone]
        backbone_norm = {"bn_eps": bn_eps, "bn_momentum": bn_momentum}
        # A None leaves the backbone its own padding and activation, which need not be the pyramid's.
        self.backbone = Backbone(backbone, drop_path=self.variant.drop_path, padding=padding, act=act, **backbone_norm)
        self._taps = slice(self.min_level - 3, self.max_level - 2)  # of the backbone's levels 3, 4 and 5
        norm = Norm(fpn_bn_eps, fpn_bn_momentum)
        self.fpn = self._pyramid(norm)
        anchors = len(self.aspect_ratios) * num_scales
        self.class_net = self._head(anchors * num_classes, norm)
        self.box_net = self._head(anchors * 4, norm)
        init_class_bias(self.class_net)

    def _pyramid(self, norm: Norm) -> BiFPN:
        channels = [self.backbone.channels[stage] for stage in TAPS]
        return BiFPN(
            tuple(channels[self._taps]),
            self.variant.fpn_channels,
            min_level=self.min_level,
            max_level=self.max_level,
            cells=self.variant.fpn_cells,
            fusion=self.variant.fusion,
            padding=self.variant.padding,
            redundant_bias=self.variant.redundant_bias,
            norm=norm,
            act=self.variant.act,
        )

    def _head(self, outputs: int, norm: Norm) -> Head:
        return Head(
            self.variant.fpn_channels,
            outputs,
            levels=self.max_level - self.min_level + 1,
            repeats=self.variant.head_repeats,
            bias=self.variant.redundant_bias,
            norm=norm,
            act=self.variant.act,
        )

    def forward(self, images_B3HW: Tensor, seeds_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (logits_BAC, codes_BA4): before the sigmoid, and (tx, ty, tw, th) relative to the anchor.

        Args:
            images_B3HW: normalised, floating point; H and W divisible by 2**max_level.
            seeds_B: int64, what stochastic depth draws from while training; None: the global generator.

        Raises:
            ValueError: a side of the images is not divisible by 2**max_level.
        """
        height, width = images_B3HW.shape[2:]
        stride = 2**self.max_level
        if height % stride or width % stride:
            raise ValueError(
                f"image height and width must be divisible by {stride} (2**max_level), got {height}x{width}; "
                f"set model.image_size or pad the batch"
            )
        maps = self.fpn(self.backbone.features(images_B3HW, seeds_B)[self._taps])
        return _by_anchor(self.class_net(maps), self.num_classes), _by_anchor(self.box_net(maps), 4)


def _changed(variant: EfficientDetVariant, **fields: Any) -> EfficientDetVariant:
    """Return the variant with the fields that are not None."""
    return replace(variant, **{field: value for field, value in fields.items() if value is not None})


def _by_anchor(predictions: Tensor, values: int) -> Tensor:
    """Return [B, A, values], a view, from [B, anchors of a cell * values, cells, 1]."""
    return predictions.permute(0, 2, 3, 1).reshape(predictions.shape[0], -1, values)


@torch.no_grad()
def init_fan_in(conv: nn.Conv2d) -> None:
    """Draw the weights from normal(0, 1 / fan_in), bias zero, as the reference does in its heads."""
    fan_in = conv.weight.shape[1] * conv.kernel_size[0] * conv.kernel_size[1]
    conv.weight.normal_(0, math.sqrt(1 / fan_in))
    if conv.bias is not None:
        conv.bias.zero_()


@torch.no_grad()
def init_class_bias(class_net: Head) -> None:
    """Start every anchor at probability 0.01, so that the many negatives do not swamp the first steps (RetinaNet)."""
    nn.init.constant_(class_net.predict.conv_pw.get_parameter("bias"), -math.log(99))
