"""The named EfficientDets: their sizes and what else tells them apart.

Source: Tan et al. 2020 (arXiv:1911.09070), table 1; the variants, their paddings and biases as
https://github.com/rwightman/efficientdet-pytorch has them (effdet/config/model_config.py).

Of the lite ones effdet has `tf_efficientdet_lite0` to 4 and `efficientdet_lite0`; the others are ours, by the same rule
as D1 to D3. Two image sizes of effdet's the pyramid does not divide, 320 (lite0) and 448 (lite2): here 384 and 512.
"""

from dataclasses import dataclass, replace

from raydet.models.bifpn import Fusion
from raydet.models.layers import Activation, Padding


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientDetVariant:
    """What tells one named EfficientDet from another."""

    backbone: str
    """A key of `raydet.models.efficientnet_variants.VARIANTS`."""
    image_size: int
    """Pixels a side the variant is documented with."""
    fpn_channels: int
    fpn_cells: int
    head_repeats: int
    """Separable convolutions before the prediction, in either head."""
    padding: Padding = "same"
    """Of the max-pools in the pyramid; the backbone has its own."""
    redundant_bias: bool = True
    """Convolutions before a BN have a bias, as in the TensorFlow weights."""
    fusion: Fusion = "attention"
    act: Activation = "silu"
    """In the pyramid and the heads; the backbone has its own."""
    anchor_scale: float = 4.0
    """Side of the smallest square anchor, in strides of its level."""
    min_level: int = 3
    max_level: int = 7
    drop_path: float = 0.2
    """In the backbone, linear over its blocks."""

    def __post_init__(self) -> None:
        if not 3 <= self.min_level <= 5 or self.max_level <= self.min_level:
            raise ValueError(
                f"min_level must be 3, 4 or 5 and max_level above it, got {self.min_level} and {self.max_level}"
            )
        if self.fusion not in ("attention", "sum"):
            raise ValueError(f"fusion must be 'attention' or 'sum', got {self.fusion!r}")


# number: backbone, pixels, pyramid channels, cells, head repeats
_SCALES = {
    "d0": ("b0", 512, 64, 3, 3),
    "d1": ("b1", 640, 88, 4, 3),
    "d2": ("b2", 768, 112, 5, 3),
    "d3": ("b3", 896, 160, 6, 4),
    "d4": ("b4", 1024, 224, 7, 4),
    "d5": ("b5", 1280, 288, 7, 4),
    "d6": ("b6", 1280, 384, 8, 5),
    "d7": ("b6", 1536, 384, 8, 5),
    "d7x": ("b7", 1536, 384, 8, 5),
}

# number: pixels, pyramid channels, cells, head repeats, anchor scale
_LITE_SCALES = {
    "lite0": (384, 64, 3, 3, 3.0),
    "lite1": (384, 88, 4, 3, 3.0),
    "lite2": (512, 112, 5, 3, 3.0),
    "lite3": (512, 160, 6, 4, 4.0),
    "lite4": (640, 224, 7, 4, 4.0),
}


def _variants() -> dict[str, EfficientDetVariant]:
    table: dict[str, EfficientDetVariant] = {}
    for scale, (backbone, image_size, fpn_channels, fpn_cells, head_repeats) in _SCALES.items():
        tensorflow = EfficientDetVariant(
            backbone=f"tf_efficientnet_{backbone}",
            image_size=image_size,
            fpn_channels=fpn_channels,
            fpn_cells=fpn_cells,
            head_repeats=head_repeats,
            fusion="sum" if scale in ("d6", "d7", "d7x") else "attention",
            anchor_scale=5.0 if scale == "d7" else 4.0,
            max_level=8 if scale == "d7x" else 7,
        )
        table[f"tf_efficientdet_{scale}"] = tensorflow
        drop_path = 0.1 if scale == "d0" else 0.2
        pytorch = replace(tensorflow, backbone=f"efficientnet_{backbone}", drop_path=drop_path)
        if scale in ("d0", "d1", "d2", "d3"):  # from d4 up effdet keeps TensorFlow's pyramid and heads
            pytorch = replace(pytorch, padding="symmetric", redundant_bias=False)
        table[f"efficientdet_{scale}"] = pytorch
    table |= _lite_variants()
    table["efficientdet_demo"] = EfficientDetVariant(
        backbone="efficientnet_demo",
        image_size=128,
        fpn_channels=48,
        fpn_cells=2,
        head_repeats=2,
        padding="symmetric",
        redundant_bias=False,
        anchor_scale=3.0,
        max_level=5,  # at 128 pixels P6 and P7 would be 2x2 and 1x1
        drop_path=0.0,
    )
    return table


def _lite_variants() -> dict[str, EfficientDetVariant]:
    table: dict[str, EfficientDetVariant] = {}
    for scale, (image_size, fpn_channels, fpn_cells, head_repeats, anchor_scale) in _LITE_SCALES.items():
        tensorflow = EfficientDetVariant(
            backbone=f"tf_efficientnet_{scale}",
            image_size=image_size,
            fpn_channels=fpn_channels,
            fpn_cells=fpn_cells,
            head_repeats=head_repeats,
            fusion="sum",
            act="relu6",
            anchor_scale=anchor_scale,
            drop_path=0.0 if scale == "lite0" else 0.2,
        )
        table[f"tf_efficientdet_{scale}"] = tensorflow
        backbone = f"efficientnet_{scale}"
        if scale == "lite0":  # effdet's, which is no sum
            pytorch = replace(tensorflow, backbone=backbone, fusion="attention", anchor_scale=4.0, drop_path=0.1)
        else:  # ours: effdet has none
            pytorch = replace(tensorflow, backbone=backbone, padding="symmetric")
        table[backbone.replace("net", "det")] = replace(pytorch, redundant_bias=False)
    return table


VARIANTS: dict[str, EfficientDetVariant] = _variants()
