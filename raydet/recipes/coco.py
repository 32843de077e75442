"""EfficientDet on COCO, and on Waymo from COCO's weights."""

from raydet.config import Config, override

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
    return override(Config(), _COCO | {"model.name": model})


def efficientdet_d0_coco_8x150() -> Config:
    """EfficientDet-D0 as NVIDIA trained it: DET scripts/D0/train_AMP_8xA100-80G.sh, 8 GPUs x 150 images, fp16, EMA.

    Published: AP 0.3407 (seeds 0.3412 +- 0.002), 1835 images/s on 8 A100. Start the backbone from an ImageNet B0 by
    model.backbone_weights, as the script does.
    """
    changes = {
        "model.sync_bn": True,
        "data.batch_size": 150,
        "data.exif": False,
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
