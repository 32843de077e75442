"""Named, complete runs. Each recipe is a function that returns a Config; its docstring says where the values stand.

Sources: the model cards and scripts of NVIDIA/DeepLearningExamples at 729963d, PyTorch/Detection/Efficientdet (DET) and
PyTorch/Classification/ConvNets (CLS). Where card and script differ, the card's value is the recipe's and the script has
a recipe of its own. Two things differ on purpose: activations are channels-last everywhere but in the script's recipe
(same numbers, faster), and the last epoch is always saved and scored.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from raydet.config import Config, ConfigError, nearest, override

_IMAGENET = {
    "data.format": "folder",
    "data.train": "train",
    "data.val": "val",
    "data.workers": 10,
    "data.prefetch": 4,
    "data.drop_last": True,
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
    return _make(
        _IMAGENET,
        {
            "model.name": model,
            "model.num_classes": 1000,
            "model.drop_path": 0.2 if model.endswith("b4") else 0.0,
            "data.batch_size": 128 if large else 256,
            "optim.lr": 0.16 if large else 0.08,
            "optim.weight_decay": 5e-6 if large else 1e-5,
        },
    )


def efficientnet_b0_qat() -> Config:
    """Quantization-aware training of B0 from a trained model: CLS configs.yml, efficientnet-quant-b0."""
    changes = {
        "optim.name": "sgd",
        "optim.lr": 0.0125,
        "optim.momentum": 0.89,
        "optim.weight_decay": 4.5e-5,
        "data.batch_size": 128,
        "schedule.name": "cosine",
        "schedule.epochs": 10,
    }
    return _qat("efficientnet_b0", changes)


def efficientnet_b4_qat() -> Config:
    """Quantization-aware training of B4 from a trained model: CLS configs.yml, efficientnet-quant-b4."""
    changes = {
        "optim.lr": 4.09e-6,
        "optim.alpha": 0.853,
        "optim.eps": 0.00422,
        "optim.weight_decay": 9.714e-4,
        "data.batch_size": 32,
        "schedule.name": "linear",
        "schedule.epochs": 2,
    }
    return _qat("efficientnet_b4", changes)


def _qat(model: str, changes: dict[str, Any]) -> Config:
    common = {"optim.batch_size": None, "schedule.warmup_epochs": 0.0, "quantization": {"calibration": "percentile"}}
    return override(efficientnet_imagenet(model), common | changes)


_COCO = {
    "data.format": "coco",
    "data.train": "annotations/instances_train2017.json",
    "data.val": "annotations/instances_val2017.json",
    "data.class_ids": "raw",
    "model.num_classes": 90,
    "model.drop_path": 0.2,
    "model.bn_eps": 1e-3,
    "model.bn_momentum": 0.01,
    "data.batch_size": 32,
    "optim.name": "sgd",
    "optim.lr": 0.01,
    "schedule.cooldown_epochs": 10,
    "ema.decay": None,
    "run.checkpoint_epochs": 10,
    "run.seed": 42,
}


def efficientdet_coco(model: str) -> Config:
    """EfficientDet on COCO: DET's card (learning rate 0.01, 300 epochs, 32 images per GPU) and train.py's defaults.

    Labels are COCO's category ids less one, 90 with gaps, as all published weights have them. Drop path is 0.2 because
    that is what the predecessor's backbone runs with, whatever its config says (survival 0.8). 10 epochs of cool-down
    at min_lr follow the 300, as in its scheduler.
    """
    return _make(_COCO, {"model.name": model})


def efficientdet_d0_coco_8x150() -> Config:
    """EfficientDet-D0 as NVIDIA trained it: DET scripts/D0/train_AMP_8xA100-80G.sh, 8 GPUs x 150 images, fp16, EMA.

    Published: AP 0.3407 (seeds 0.3412 +- 0.002), 1835 images/s on 8 A100. Start the backbone from an ImageNet B0 by
    model.backbone_weights, as the script does.
    """
    changes = {
        "model.sync_bn": True,
        "data.batch_size": 150,
        "data.workers": 16,
        "optim.lr": 1.63,
        "schedule.warmup_epochs": 50.0,
        "schedule.noise": (0.4, 0.9),
        "ema.decay": 0.999,
        "precision.mode": "fp16",
        "precision.memory_format": "contiguous",
        "scaling.num_workers": 8,
        "scaling.use_gpu": True,
        "run.seed": 12711,
        "run.eval_after": 200,
    }
    return override(efficientdet_coco("efficientdet_d0"), changes)


def efficientdet_d0_waymo() -> Config:
    """Fine-tuning D0 on Waymo (3 classes, 1536 px) from COCO weights: DET scripts/waymo. Give model.weights."""
    changes = {
        "model.num_classes": 3,
        "model.image_size": 1536,
        "model.freeze": ("backbone",),
        "data.train": "annotations/train.json",
        "data.val": "annotations/val.json",
        "data.batch_size": 8,
        "optim.lr": 0.2,
        "schedule.epochs": 24,
        "schedule.warmup_epochs": 1.0,
        "run.checkpoint_epochs": 1,
    }
    return override(efficientdet_coco("efficientdet_d0"), changes)


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
    return _make(_DEMO, changes)


def demo_detection() -> Config:
    """Find handwritten digits in 128 px pictures, made on the spot; best from the backbone of `demo_classification`."""
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
    return _make(_DEMO, changes)


def _make(*changes: dict[str, Any]) -> Config:
    merged = {key: value for part in changes for key, value in part.items()}
    return override(Config(), merged)


RECIPES: dict[str, Callable[[], Config]] = {
    **{
        f"{model}_imagenet": partial(efficientnet_imagenet, model)
        for kind in ("efficientnet", "efficientnet_widese")
        for model in (f"{kind}_b{i}" for i in range(8))
    },
    "efficientnet_b0_qat": efficientnet_b0_qat,
    "efficientnet_b4_qat": efficientnet_b4_qat,
    **{
        f"efficientdet_{d}_coco": partial(efficientdet_coco, f"efficientdet_{d}")
        for d in ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x")
    },
    "efficientdet_d0_coco_8x150": efficientdet_d0_coco_8x150,
    "efficientdet_d0_waymo": efficientdet_d0_waymo,
    "demo_classification": demo_classification,
    "demo_detection": demo_detection,
}


def recipe(name: str) -> Config:
    """Return the complete Config of that name.

    Raises:
        ConfigError: no such recipe; names the nearest ones.
    """
    if name not in RECIPES:
        close = nearest(name, RECIPES)
        hint = f"did you mean {' or '.join(close)}?" if close else "`raydet fit --help` lists them"
        raise ConfigError(f"no recipe {name!r}; {hint}")
    cfg = override(RECIPES[name](), {"recipe": name})
    return cfg if cfg.run.name != "run" else override(cfg, {"run.name": name})
