"""EfficientNet on ImageNet."""

from raydet.config import Config, override

_IMAGENET = {
    "data.format": "folder",
    "data.train": "train",
    "data.val": "val",
    "data.workers": 10,
    "data.prefetch": 4,
    "data.drop_last": True,
    "data.exif": False,
    "augment.interpolation": "bicubic",
    "augment.autoaugment": "imagenet",
    "augment.mixup": 0.2,
    "model.bn_eps": 1e-3,
    "model.bn_momentum": 0.01,
    "loss.label_smoothing": 0.1,
    "optim.name": "rmsprop",
    "optim.batch_size": 4096,
    "optim.alpha": 0.9,
    "optim.eps": 0.01,
    "optim.momentum": 0.9,
    "optim.decay_biases": True,
    "optim.grad_clip": None,
    "schedule.epochs": 400,
    "schedule.warmup_epochs": 16.0,
    "schedule.warmup_lr": 0.0,
    "schedule.warmup_first": True,
    "schedule.warmup_prefix": True,
    "schedule.min_lr": 0.0,
    "ema.decay": None,
    "precision.loss_scale": 128.0,
    "precision.loss_scale_interval": 100,
}
_LARGE = ("b4", "b5", "b6", "b7")


def efficientnet_imagenet(model: str) -> Config:
    """EfficientNet on ImageNet: CLS configs.yml, mode convergence, A100 AMP batch; mixed precision by precision.mode.

    B0 and B4 (and their WideSE variants) are documented: learning rate 0.08 and 0.16 and weight decay 1e-5 and 5e-6
    for 4096 images a step, 256 and 128 images per GPU, survival probability 1.0 and 0.8. B1 to B3 follow B0, B5 to B7
    follow B4. Published top-1 of the predecessor: b0 77.42, b4 82.85, widese_b0 77.84, widese_b4 83.1.
    """
    large = model.endswith(_LARGE)
    changes = {
        "model.name": model,
        "model.num_classes": 1000,
        "model.drop_path": 0.2 if model.endswith("b4") else 0.0,
        "data.batch_size": 128 if large else 256,
        "optim.lr": 0.16 if large else 0.08,
        "optim.weight_decay": 5e-6 if large else 1e-5,
    }
    return override(Config(), _IMAGENET | changes)
