"""Recipes for data of one's own, named after their model: what holds for any data set.

`raydet.driver.own_data` fits the rest to the data: input size, anchors, batch, epochs, learning rate, average. The
optimizer and the augmentation are for fine-tuning in a few hundred to some thousand steps, not for 300 epochs.
"""

import math

from raydet.config import Config, override

_ANY = {
    "optim.name": "adamw",
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.01,
    "optim.grad_clip": 5.0,
    "schedule.per_step": True,
    "schedule.warmup_lr": 0.0,
    "schedule.min_lr": 1e-5,
    "ema.warmup": True,
    "evaluation.recalibrate_bn": 64,
    "data.on_bad": "skip",
    "run.checkpoint_epochs": 1,
    "run.checkpoint_minutes": 10.0,
    "run.log_steps": 5,
}
DETECTORS = tuple(f"efficientdet_{size}" for size in (*(f"d{i}" for i in range(8)), *(f"lite{i}" for i in range(5))))
CLASSIFIERS = tuple(f"efficientnet_{size}" for size in (*(f"b{i}" for i in range(8)), *(f"lite{i}" for i in range(5))))
OWN_DATA = DETECTORS + CLASSIFIERS
LR_BATCH = 16
"""The batch that their learning rates are for; of smaller ones they go with the root, of larger ones they stay."""


def lr_share(batch: int) -> float:
    """Return the share of their learning rates that goes with a batch."""
    return math.sqrt(min(1.0, batch / LR_BATCH))


def own_detector(model: str) -> Config:
    """A detector for boxes of your own: give `--data.root`, or the data itself as in `raydet fit DATA`."""
    changes = {
        "model.name": model,
        "optim.lr": 1.6e-2,
        "augment.scale": (0.6, 1.5),
        "data.class_ids": "contiguous",
    }
    return override(Config(), _ANY | changes)


def own_classifier(model: str) -> Config:
    """A classifier for classes of your own: give `--data.root`, or the data itself as in `raydet fit DATA`."""
    changes = {
        "model.name": model,
        "data.format": "folder",
        "data.train": "train",
        "data.val": "val",
        "optim.lr": 1e-3,
        "augment.crop_area": (0.35, 1.0),
        "loss.label_smoothing": 0.1,
    }
    return override(Config(), _ANY | changes)
