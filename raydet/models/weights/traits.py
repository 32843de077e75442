"""What no tensor shows: how the network that weights come from pads, its BatchNorm's eps, the pixels it was trained on.

Read off the sources: timm 1.0.31 (default_cfgs), effdet 0.4.1 (model_config), torchvision 0.29.2 (efficientnet),
efficientnet_pytorch 0.7.1, NVIDIA/DeepLearningExamples 729963d. What a file does not say by its names stays None.
"""

import re
from dataclasses import dataclass
from typing import Literal

from raydet.models.weights.files import WeightFile

VARIANT_NAME = re.compile(r"(?<![a-z])(tf_)?efficient(net|det)[_-]?(b[0-7]|d[0-6]|d7x?|lite[0-4])(?![0-9])")
_HALF_PIXELS = re.compile(r"[._-]ap(?:[._-]|$)|(?<![a-z])adv-|[._]ra4_")
"""AdvProp's weights and timm's ra4 recipe are trained on pixels from -1 to 1."""
_TORCHVISION_B5 = 2048
"""Channels of B5's last layer: from there on torchvision has BatchNorm's eps of 1e-3."""

Channels = tuple[float, float, float]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Traits:
    """What weights want of the network and its input; None where nothing says so."""

    padding: Literal["symmetric", "same"] | None = None
    bn_eps: float | None = None
    pixels: tuple[Channels, Channels] | None = None
    """Mean and standard deviation of each channel, of intensities from 0 to 1."""


def traits_of(file: WeightFile, source: str) -> Traits:
    """Return what the weights in `file` want.

    Args:
        source: whose file it is, one of `key_maps.SOURCES`.
    """
    if source == "raydet":  # its checkpoint's configuration says all of it
        return Traits()
    text = next((text.lower() for text in file.names if VARIANT_NAME.search(text.lower())), "")
    named = VARIANT_NAME.search(text)
    lite = not any(".se." in key or "_se_" in key or ".fc1." in key for key in file.tensors)
    pixels = HALF if _HALF_PIXELS.search(text) else IMAGENET
    if source.startswith("nvidia"):
        return Traits("symmetric", 1e-3, IMAGENET)
    if source == "torchvision":
        last = file.tensors.get("features.8.0.weight")
        return Traits("symmetric", 1e-3 if last is not None and last.shape[0] >= _TORCHVISION_B5 else 1e-5, IMAGENET)
    if source == "efficientnet_pytorch":  # TensorFlow's weights, whatever they are called
        return Traits("same", 1e-3, HALF if lite else pixels)
    if named is None:
        return Traits()
    if named[1]:
        return Traits("same", 1e-3, HALF if lite else pixels)
    return Traits("symmetric", 1e-5, pixels)
