"""The models by name: `build("efficientdet_d0", num_classes=80)`.

Every name stands in MODELS. `efficientnet_*` and `tf_efficientnet_*` are timm's variants, `efficientnet_widese_*`
NVIDIA's, `efficientdet_*` and `tf_efficientdet_*` effdet's; `*_demo` are the small nets of the demo.
"""

import difflib
import inspect
from typing import Any

from torch import nn

from raydet.models.efficientdet import EfficientDet
from raydet.models.efficientdet_variants import VARIANTS as DETECTORS
from raydet.models.efficientdet_variants import EfficientDetVariant as DetectorVariant
from raydet.models.efficientnet import EfficientNet
from raydet.models.efficientnet_variants import VARIANTS as CLASSIFIERS
from raydet.models.efficientnet_variants import EfficientNetVariant as ClassifierVariant

__all__ = ["MODELS", "EfficientDet", "EfficientNet", "build", "default_image_size", "is_detector"]

MODELS: dict[str, ClassifierVariant | DetectorVariant] = {**CLASSIFIERS, **DETECTORS}


def build(name: str, num_classes: int | None = None, **fields: object) -> EfficientNet | EfficientDet:
    """Return the named model with random weights.

    Args:
        name: a key of MODELS.
        num_classes: None for the variant's own: 1000 for a classifier, 90 for a detector.
        **fields: keyword arguments of `EfficientNet` or `EfficientDet`. A None means the variant's value, also for a
            field that only the other family has.

    Raises:
        ValueError: no such model; names the nearest.
        TypeError: no such field; names those there are.
    """
    variant = _variant(name)
    family = EfficientDet if isinstance(variant, DetectorVariant) else EfficientNet
    known = _fields(family)
    given: dict[str, Any] = {field: value for field, value in fields.items() if value is not None}
    unknown = sorted((set(given) - known) | (set(fields) - known - _fields(EfficientNet) - _fields(EfficientDet)))
    if unknown:
        raise TypeError(f"{name} has no field {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known))}")
    if num_classes is not None:
        given["num_classes"] = num_classes
    model: EfficientNet | EfficientDet
    model = EfficientDet(variant, **given) if isinstance(variant, DetectorVariant) else EfficientNet(variant, **given)
    model.name = name
    return model


def is_detector(name: str) -> bool:
    """Return whether the named model finds boxes. Raises ValueError for an unknown name."""
    return isinstance(_variant(name), DetectorVariant)


def default_image_size(name: str) -> int:
    """Return the pixels a side the named model is documented with. Raises ValueError for an unknown name."""
    return _variant(name).image_size


def _variant(name: str) -> ClassifierVariant | DetectorVariant:
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=4, cutoff=0.3)
        raise ValueError(f"no model named {name!r}; the nearest are {', '.join(nearest) or ', '.join(MODELS)}")
    return MODELS[name]


def _fields(family: type[nn.Module]) -> set[str]:
    return {p.name for p in inspect.signature(family).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
