"""Quantization-aware training: fine-tuning of a trained net with fake-quantizers. Give it as model.weights.

`--quantization none --run.name control` makes of each the same fine-tuning in floats, without which a gain of longer
training would pass for one of quantization-aware training.
"""

from typing import Any

from raydet.config import Config, override
from raydet.recipes.coco import efficientdet_coco
from raydet.recipes.demo import demo_classification, demo_detection
from raydet.recipes.imagenet import efficientnet_imagenet

_NVIDIA = {
    "data.workers": 5,
    "data.prefetch": 2,
    "augment.interpolation": "bilinear",
    "augment.autoaugment": None,
    "augment.mixup": 0.0,
    "loss.label_smoothing": 0.0,
    "schedule.warmup_epochs": 0.0,
    "precision.mode": "fp32",
    "quantization": {"calibration": "percentile", "percentile": 99.99, "batches": 10},
}
_NVIDIA_SIZES: dict[str, dict[str, Any]] = {
    "b0": {
        "data.batch_size": 128,
        "optim.batch_size": 8 * 128,
        "optim.name": "sgd",
        "optim.lr": 0.0125,
        "optim.momentum": 0.89,
        "optim.weight_decay": 4.5e-5,
        "schedule.name": "cosine",
        "schedule.epochs": 10,
    },
    "b4": {
        "data.batch_size": 32,
        "optim.batch_size": 8 * 32,
        "optim.name": "rmsprop",
        "optim.lr": 4.09e-6,
        "optim.alpha": 0.853,
        "optim.eps": 0.00422,
        "optim.momentum": 0.9,
        "optim.weight_decay": 9.714e-4,
        "schedule.name": "linear",
        "schedule.epochs": 2,
    },
}


def efficientnet_qat(model: str) -> Config:
    """B0 or B4 on ImageNet: CLS efficientnet/quantization/DGX1V-32G_efficientnet-quant-{b0,b4}_FP32.sh, 8 GPUs.

    Published: top-1 77.12 for B0 and 82.54 for B4, 0.51 and 0.44 below the float nets. WideSE has the settings of the
    plain size; no figure of it was ever published. The scripts start quant_main.py without configs.yml, so its defaults
    hold, not those of the float training: no mixup, label smoothing, AutoAugment or EMA, no warm-up, bilinear images,
    in training as in validation. Compare with the control, not with a float score on bicubic images.

    Ranges there come from 10 training batches in name and 11 in fact (the loop ends one late), of each GPU; here from
    10 in all. The learning rate, "for 128 images" on the card, is that of 8 GPUs with 128 images each, hence the batch.
    """
    return override(efficientnet_imagenet(model), _NVIDIA | _NVIDIA_SIZES[model[-2:]])


def efficientdet_qat(model: str) -> Config:
    """EfficientDet on COCO. Ours: no reference has one, and no figure exists yet.

    From `efficientdet_*_coco`, with the learning rate from 1 % of its own down to 1 % of that along a cosine, as
    pytorch-quantization's guide has it; the guide's 10 % of the epochs would be 30, here 10 as for B0, for at 8 bits
    most comes back in the first. EMA as in the script of `efficientdet_d0_coco_8x150`. BatchNorm's statistics stand
    still in the second half, as in torchvision's reference and Krishnamoorthi 2018 (arXiv:1806.08342): the weights then
    settle to what evaluation uses. The last convolution of each head stays in floats: its few outputs decide every box,
    and 8 bits cost D0 over 10 % of its AP elsewhere (google/automl issue 1069).
    """
    changes = {
        "optim.lr": 1e-4,
        "schedule.epochs": 10,
        "schedule.cooldown_epochs": 0,
        "schedule.warmup_epochs": 0.0,
        "schedule.min_lr": 1e-6,
        "ema.decay": 0.999,
        "quantization": {"skip": ("predict",), "freeze_bn_after": 0.5},
        "run.checkpoint_epochs": 1,
    }
    return override(efficientdet_coco(model), changes)


def demo_classification_qat() -> Config:
    """One epoch more of `demo_classification` in 8 bits, at a tenth of its learning rate."""
    changes = {
        "optim.lr": 3e-4,
        "schedule.epochs": 1,
        "schedule.warmup_epochs": 0.0,
        "quantization": {"calibration": "percentile"},
        "run.name": "demo_classification_qat",
    }
    return override(demo_classification(), changes)


def demo_detection_qat() -> Config:
    """Two epochs more of `demo_detection` in 8 bits, at a fifth of its learning rate; skipping as D0's does."""
    changes = {
        "optim.lr": 1e-3,
        "schedule.epochs": 2,
        "schedule.warmup_epochs": 0.0,
        "quantization": {"skip": ("predict",), "freeze_bn_after": 0.5},
        "run.name": "demo_detection_qat",
    }
    return override(demo_detection(), changes)
