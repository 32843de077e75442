"""The named EfficientNets: their sizes and what else tells them apart.

Source: Tan & Le 2019 (arXiv:1905.11946), table 1; widths and depths of
https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/efficientnet_builder.py.

* `efficientnet_*`: timm's PyTorch variants, symmetric padding, BN eps 1e-5.
* `tf_efficientnet_*`: the weights of TensorFlow: SAME padding, BN eps 1e-3.
* `efficientnet_widese_*`: NVIDIA's, squeeze width a quarter of the *hidden* channels, BN eps 1e-3, momentum 0.01.
* `efficientnet_lite*`, `tf_efficientnet_lite*`: made for eight bits, ReLU6 and no squeeze-excite
  (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from raydet.models.layers import Activation, Padding


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientNetVariant:
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
    squeeze_from: Literal["inputs", "hidden"] | None = "inputs"
    """The channels the squeeze width is a quarter of; None: no squeeze-excite."""
    act: Activation = "silu"
    fixed_ends: bool = False
    """Stem and head keep their width, the first and the last stage their depth."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """What the published weights want subtracted from red, green and blue in [0, 1]; data.mean follows them."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What they want the rest divided by."""


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

# As Google documents them; timm evaluates lite3 at 300 and lite4 at 380.
_LITE_SCALES = {
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3),
    "lite4": (1.4, 1.8, 300, 0.3),
}

# kernel, stride, expansion, channels and blocks at width and depth 1
STAGES = (
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


def _variants() -> dict[str, EfficientNetVariant]:
    table = {}
    for scale, (width, depth, image_size, rate) in _SCALES.items():
        plain = EfficientNetVariant(width=width, depth=depth, image_size=image_size, dropout=rate)
        table[f"efficientnet_{scale}"] = plain
        table[f"tf_efficientnet_{scale}"] = replace(plain, padding="same", bn_eps=1e-3)
        wide = replace(plain, bn_eps=1e-3, bn_momentum=0.01, squeeze_from="hidden")
        table[f"efficientnet_widese_{scale}"] = wide
    for scale, (width, depth, image_size, rate) in _LITE_SCALES.items():
        lite = EfficientNetVariant(
            width=width,
            depth=depth,
            image_size=image_size,
            dropout=rate,
            squeeze_from=None,
            act="relu6",
            fixed_ends=True,
        )
        table[f"efficientnet_{scale}"] = lite
        half = (0.5, 0.5, 0.5)
        table[f"tf_efficientnet_{scale}"] = replace(lite, padding="same", bn_eps=1e-3, mean=half, std=half)
    # One block a stage at half width: learns 64 px digits in 90 CPU seconds where the deeper nets do not.
    table["efficientnet_demo"] = EfficientNetVariant(width=0.5, depth=0.25, image_size=64, dropout=0.2)
    return table


VARIANTS: dict[str, EfficientNetVariant] = _variants()


def scaled_channels(channels: int, width: float) -> int:
    """Return channels * width, rounded to a multiple of 8 that is not more than 10 % below it."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def stage_depths(variant: EfficientNetVariant) -> tuple[int, ...]:
    """Return the number of blocks in each of the seven stages."""
    first, *inner, last = (blocks for *_, blocks in STAGES)
    factor = 1.0 if variant.fixed_ends else variant.depth
    return math.ceil(first * factor), *(math.ceil(blocks * variant.depth) for blocks in inner), math.ceil(last * factor)


def end_channels(channels: int, variant: EfficientNetVariant) -> int:
    """Return the channels of the stem or the head, from those at width 1."""
    return channels if variant.fixed_ends else scaled_channels(channels, variant.width)


def squeeze_width(variant: EfficientNetVariant, inputs: int, hidden: int) -> int | None:
    """Return the squeeze width of a block with so many input and hidden channels; None: no squeeze-excite."""
    if variant.squeeze_from is None:
        return None
    return max(1, (hidden if variant.squeeze_from == "hidden" else inputs) // 4)
