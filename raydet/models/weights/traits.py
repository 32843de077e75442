"""What no tensor shows: how the network that weights come from pads, its BatchNorm's eps, the pixels it was trained on.

Read off the sources: timm 1.0.31 (default_cfgs), effdet 0.4.1 (model_config), torchvision 0.29.2 (efficientnet),
efficientnet_pytorch 0.7.1, NVIDIA/DeepLearningExamples 729963d. What a file does not say by its names stays None.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from raydet.models.efficientdet_variants import VARIANTS as DETECTORS
from raydet.models.efficientnet_variants import VARIANTS as CLASSIFIERS
from raydet.models.weights.files import WeightFile

VARIANT_NAME = re.compile(r"(?<![a-z])(tf_)?efficient(net|det)[_-]?(b[0-7]|d[0-6]|d7x?|lite[0-4])(?![0-9])")
_HALF_PIXELS = re.compile(r"[._-]ap(?:[._-]|$)|(?<![a-z])adv-|[._]ra4_")
"""AdvProp's weights and timm's ra4 recipe are trained on pixels from -1 to 1."""
_TORCHVISION_B5 = 2048
"""Channels of B5's last layer: from there on torchvision has BatchNorm's eps of 1e-3."""

Channels = tuple[float, float, float]
_HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


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
    if source.startswith("nvidia"):
        return _of("efficientnet_widese_b0")
    if source == "torchvision":
        last = file.tensors.get("features.8.0.weight")
        large = last is not None and last.shape[0] >= _TORCHVISION_B5
        return replace(_of("efficientnet_b0"), bn_eps=1e-3) if large else _of("efficientnet_b0")
    named = next((match for text in file.names if (match := VARIANT_NAME.search(text.lower()))), None)
    if source == "efficientnet_pytorch":  # TensorFlow's weights, whatever they are called
        lite = not any("_se_" in key for key in file.tensors)
        found = _of("tf_efficientnet_lite0" if lite else "tf_efficientnet_b0")
    elif named is None:
        return Traits()
    else:
        found = _of(named[0].replace("-", "_"))
    half = named is not None and _HALF_PIXELS.search(named.string)
    return replace(found, pixels=_HALF) if half else found


def _of(name: str) -> Traits:
    """What the published weights of a variant want; of a detector those of its backbone."""
    variant = CLASSIFIERS[DETECTORS[name].backbone if name in DETECTORS else name]
    return Traits(variant.padding, variant.bn_eps, (variant.mean, variant.std))
