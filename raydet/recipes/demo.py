"""Small nets that learn something within minutes on two CPU cores, from data made on the spot."""

from raydet.config import Config, override

_DEMO = {
    "augment.hflip": 0.0,  # a mirrored digit is another sign
    "data.workers": 1,
    "optim.name": "adamw",
    "optim.momentum": 0.9,
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.01,
    "optim.grad_clip": 5.0,
    "schedule.per_step": True,
    "schedule.warmup_lr": 0.0,
    "schedule.min_lr": 0.0,
    "ema.decay": 0.99,
    "ema.warmup": True,
    "scaling.threads": 1,  # nets this small gain nothing from a second
    "run.log_steps": 10,
}


def demo_classification() -> Config:
    """Handwritten digits on photos, 64 px, made on the spot; a small EfficientNet learns them in a minute or two."""
    changes = {
        "model.name": "efficientnet_demo",
        "model.dropout": 0.0,
        "data.format": "folder",
        "data.root": "demo://classification",
        "data.train": "train",
        "data.val": "val",
        "data.batch_size": 8,
        "data.eval_batch_size": 32,
        "augment.crop_area": (0.7, 1.0),
        "augment.crop_ratio": (0.9, 1.1),
        "augment.eval_margin": 0,
        "optim.batch_size": 8,
        "optim.lr": 3e-3,
        "schedule.epochs": 3,
        "schedule.warmup_epochs": 0.15,
        "run.name": "demo_classification",
    }
    return override(Config(), _DEMO | changes)


def demo_detection() -> Config:
    """Find handwritten digits in 128 px images, made on the spot; best from the backbone of `demo_classification`."""
    changes = {
        "model.name": "efficientdet_demo",
        "data.root": "demo://detection",
        "data.train": "annotations/instances_train.json",
        "data.val": "annotations/instances_val.json",
        "data.batch_size": 4,
        "data.eval_batch_size": 8,
        "augment.scale": (0.8, 1.25),
        "optim.batch_size": 4,
        "optim.lr": 5e-3,
        "schedule.epochs": 10,
        "schedule.warmup_epochs": 0.5,
        "evaluation.recalibrate_bn": 160,
        "run.name": "demo_detection",
    }
    return override(Config(), _DEMO | changes)
