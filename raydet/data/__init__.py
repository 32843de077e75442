"""Data sets: annotations, decoding, augmentation, batches. Each name loads its module on first use."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydet.data.augment import mixup, mixup_weight
    from raydet.data.batch import Batch
    from raydet.data.coco import CocoIndex
    from raydet.data.decode import read_rgb
    from raydet.data.demo import make_classification, make_detection
    from raydet.data.errors import RULES, DataError
    from raydet.data.folder import FolderIndex, check_same_classes
    from raydet.data.loader import EvalLoader, TrainLoader
    from raydet.data.sampler import EpochSampler, eval_shard
    from raydet.data.samples import Index
    from raydet.data.splits import open_split

_WHERE = {
    "Batch": "batch",
    "CocoIndex": "coco",
    "DataError": "errors",
    "EpochSampler": "sampler",
    "EvalLoader": "loader",
    "FolderIndex": "folder",
    "Index": "samples",
    "RULES": "errors",
    "TrainLoader": "loader",
    "check_same_classes": "folder",
    "eval_shard": "sampler",
    "make_classification": "demo",
    "make_detection": "demo",
    "mixup": "augment",
    "mixup_weight": "augment",
    "open_split": "splits",
    "read_rgb": "decode",
}
__all__ = [
    "RULES",
    "Batch",
    "CocoIndex",
    "DataError",
    "EpochSampler",
    "EvalLoader",
    "FolderIndex",
    "Index",
    "TrainLoader",
    "check_same_classes",
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
