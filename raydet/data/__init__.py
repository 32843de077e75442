"""Data sets: annotations, decoding, augmentation, batches. Each name loads its module on first use."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydet.data.formats.demo.datasets import make_classification, make_detection
    from raydet.data.formats.index import ClassificationIndex, DetectionIndex, Index
    from raydet.data.images.color import mixup, mixup_weight
    from raydet.data.images.decode import read_rgb
    from raydet.data.left_out import open_split
    from raydet.data.loading.batch import Batch
    from raydet.data.loading.loader import EvalLoader, TrainLoader
    from raydet.data.loading.sampler import EpochSampler, eval_shard
    from raydet.data.validation.rules import RULES

_WHERE = {
    "Batch": "loading.batch",
    "ClassificationIndex": "formats.index",
    "DetectionIndex": "formats.index",
    "EpochSampler": "loading.sampler",
    "EvalLoader": "loading.loader",
    "Index": "formats.index",
    "RULES": "validation.rules",
    "TrainLoader": "loading.loader",
    "eval_shard": "loading.sampler",
    "make_classification": "formats.demo.datasets",
    "make_detection": "formats.demo.datasets",
    "mixup": "images.color",
    "mixup_weight": "images.color",
    "open_split": "left_out",
    "read_rgb": "images.decode",
}
__all__ = [
    "RULES",
    "Batch",
    "ClassificationIndex",
    "DetectionIndex",
    "EpochSampler",
    "EvalLoader",
    "Index",
    "TrainLoader",
    "eval_shard",
    "make_classification",
    "make_detection",
    "mixup",
    "mixup_weight",
    "open_split",
    "read_rgb",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'raydet.data' has no attribute {name!r}; it has {', '.join(_WHERE)}")
    return getattr(importlib.import_module(f"raydet.data.{_WHERE[name]}"), name)
