"""Every documented default of the predecessors (their cards, scripts and configs.yml), value by value."""

from dataclasses import asdict

import pytest

from raydet.config import as_flat, override
from raydet.config.arguments import parse_overrides
from raydet.exceptions import ConfigError
from raydet.recipes import RECIPES, recipe

COCO = {
    "model.num_classes": 90,
    "model.drop_path": 0.2,
    "model.bn_eps": 1e-3,
    "model.bn_momentum": 0.01,
    "data.batch_size": 32,
    "data.class_ids": "raw",
    "data.workers": 4,
    "data.drop_last": False,
    "data.skip_empty": True,
    "data.min_box": 1.0,
    "augment.hflip": 0.5,
    "augment.scale": (0.1, 2.0),
    "augment.fill": "mean",
    "augment.interpolation": "bilinear",
    "loss.alpha": 0.25,
    "loss.gamma": 1.5,
    "loss.delta": 0.1,
    "loss.box_weight": 50.0,
    "loss.label_smoothing": 0.0,
    "loss.match_iou": 0.5,
    "optim.name": "sgd",
    "optim.lr": 0.01,
    "optim.lr_batch_size": None,
    "optim.momentum": 0.9,
    "optim.weight_decay": 4e-5,
    "optim.decay_biases": False,
    "optim.grad_clip": 10.0,
    "schedule.name": "cosine",
    "schedule.epochs": 300,
    "schedule.cooldown_epochs": 10,
    "schedule.warmup_epochs": 5.0,
    "schedule.warmup_lr": 1e-4,
    "schedule.warmup_prefix": False,
    "schedule.min_lr": 1e-5,
    "schedule.per_step": False,
    "schedule.noise": None,
    "schedule.noise_limit": 0.67,
    "ema.decay": None,
    "precision.mode": "fp32",
    "precision.loss_scale": 65536.0,
    "precision.loss_scale_interval": 2000,
    "evaluation.top_k": 5000,
    "evaluation.nms_iou": 0.5,
    "evaluation.max_detections": 100,
    "evaluation.score_threshold": 0.001,
    "run.seed": 42,
    "run.checkpoint_epochs": 10,
    "run.eval_epochs": 1,
    "run.eval_after": 0,
}
SCRIPT = {
    "data.workers": 16,
    "model.sync_bn": True,
    "data.batch_size": 150,
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
WAYMO = {
    "model.image_size": 1536,
    "model.num_classes": 3,
    "model.freeze": ("backbone",),
    "data.batch_size": 8,
    "optim.lr": 0.2,
    "schedule.epochs": 24,
    "schedule.warmup_epochs": 1.0,
    "run.checkpoint_epochs": 1,
}
IMAGENET = {
    "model.num_classes": 1000,
    "model.bn_eps": 1e-3,
    "model.bn_momentum": 0.01,
    "data.workers": 10,
    "data.prefetch": 4,
    "augment.interpolation": "bicubic",
    "augment.autoaugment": "imagenet",
    "augment.mixup": 0.2,
    "augment.crop_area": (0.08, 1.0),
    "augment.crop_ratio": (3 / 4, 4 / 3),
    "augment.hflip": 0.5,
    "augment.eval_margin": 32,
    "loss.label_smoothing": 0.1,
    "optim.name": "rmsprop",
    "optim.batch_size": 4096,
    "optim.alpha": 0.9,
    "optim.eps": 0.01,
    "optim.momentum": 0.9,
    "optim.decay_biases": True,
    "optim.decay_bn": False,
    "optim.grad_clip": None,
    "schedule.name": "cosine",
    "schedule.epochs": 400,
    "schedule.warmup_epochs": 16.0,
    "schedule.min_lr": 0.0,
    "ema.decay": None,
    "precision.loss_scale": 128.0,
    "precision.loss_scale_interval": 100,
}
SMALL = {"optim.lr": 0.08, "optim.weight_decay": 1e-5, "data.batch_size": 256, "model.drop_path": 0.0}
LARGE = {"optim.lr": 0.16, "optim.weight_decay": 5e-6, "data.batch_size": 128, "model.drop_path": 0.2}
# quant_main.py's defaults, where its two scripts give nothing: configs.yml is not read.
QAT = {
    "data.workers": 5,
    "data.prefetch": 2,
    "augment.interpolation": "bilinear",
    "augment.autoaugment": None,
    "augment.mixup": 0.0,
    "augment.crop_area": (0.08, 1.0),
    "augment.hflip": 0.5,
    "augment.eval_margin": 32,
    "loss.label_smoothing": 0.0,
    "optim.decay_biases": True,
    "optim.decay_bn": False,
    "optim.grad_clip": None,
    "schedule.warmup_epochs": 0.0,
    "schedule.min_lr": 0.0,
    "schedule.per_step": False,
    "ema.decay": None,
    "precision.mode": "fp32",
    "model.bn_eps": 1e-3,
    "model.bn_momentum": 0.01,
    "model.freeze_bn": False,
    "quantization.backend": "pytorch-quantization",
    "quantization.bits": 8,
    "quantization.calibration": "percentile",
    "quantization.percentile": 99.99,
    "quantization.batches": 10,
    "quantization.skip": (),
    "quantization.freeze_bn_after": None,
}
QAT_B0 = QAT | {
    "optim.name": "sgd",
    "optim.lr": 0.0125,
    "optim.momentum": 0.89,
    "optim.weight_decay": 4.5e-5,
    "optim.batch_size": 1024,
    "data.batch_size": 128,
    "schedule.name": "cosine",
    "schedule.epochs": 10,
    "model.drop_path": 0.0,
}
QAT_B4 = QAT | {
    "optim.name": "rmsprop",
    "optim.lr": 4.09e-6,
    "optim.alpha": 0.853,
    "optim.eps": 0.00422,
    "optim.momentum": 0.9,
    "optim.weight_decay": 9.714e-4,
    "optim.batch_size": 256,
    "data.batch_size": 32,
    "schedule.name": "linear",
    "schedule.epochs": 2,
    "model.drop_path": 0.2,
}
QAT_RECIPES = [name for name in RECIPES if name.endswith("_qat")]


@pytest.mark.parametrize(
    ("name", "documented"),
    [
        ("efficientdet_d0_coco", COCO),
        ("efficientdet_d4_coco", COCO),
        ("efficientdet_d7x_coco", COCO),
        ("efficientdet_d0_coco_8x150", COCO | SCRIPT),
        ("efficientdet_d0_waymo", COCO | WAYMO),
        ("efficientnet_b0_imagenet", IMAGENET | SMALL),
        ("efficientnet_b3_imagenet", IMAGENET | SMALL),
        ("efficientnet_b4_imagenet", IMAGENET | LARGE),
        ("efficientnet_widese_b0_imagenet", IMAGENET | SMALL),
        ("efficientnet_widese_b4_imagenet", IMAGENET | LARGE),
        ("efficientnet_b0_qat", QAT_B0),
        ("efficientnet_b4_qat", QAT_B4),
        ("efficientnet_widese_b0_qat", QAT_B0),
        ("efficientnet_widese_b4_qat", QAT_B4),
    ],
)
def test_a_recipe_holds_every_documented_value(name: str, documented: dict[str, object]) -> None:
    flat = as_flat(recipe(name))
    assert {key: flat[key] for key in documented} == documented


def test_all_documented_recipes_are_there() -> None:
    kinds = ("efficientnet", "efficientnet_widese")
    assert {f"{kind}_b{i}_imagenet" for kind in kinds for i in range(8)} <= set(RECIPES)
    assert {f"efficientdet_{d}_coco" for d in ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x")} <= set(RECIPES)
    assert {f"{kind}_{size}_qat" for kind in kinds for size in ("b0", "b4")} <= set(RECIPES)
    assert {"demo_detection", "demo_classification"} <= set(RECIPES)


def test_the_global_batch_of_nvidias_scripts() -> None:
    assert recipe("efficientdet_d0_coco_8x150").global_batch == 1200
    assert recipe("efficientnet_b4_imagenet").global_batch == 4096


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_itself_and_a_model_that_exists(name: str) -> None:
    from raydet.models import MODELS, is_detector

    cfg = recipe(name)
    assert cfg.recipe == name and cfg.model.name in MODELS
    assert is_detector(cfg.model.name) == (cfg.task == "detection")


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="efficientdet_d0_coco"):
        recipe("efficientdet_d0_cocoo")


# --- quantization-aware training ---


@pytest.mark.parametrize("name", QAT_RECIPES)
def test_a_flag_makes_the_float_control_of_a_qat_recipe_and_changes_nothing_else(name: str) -> None:
    cfg = recipe(name)
    control = override(cfg, parse_overrides(["--quantization", "none", "--run.name", "control"]))
    assert cfg.quantization is not None and control.quantization is None
    assert override(control, {"run.name": cfg.run.name, "quantization": asdict(cfg.quantization)}) == cfg


@pytest.mark.parametrize("name", QAT_RECIPES)
def test_qat_is_a_fine_tuning_of_the_recipe_it_comes_from(name: str) -> None:
    """The same net, data and classes under another name; shorter, without warm-up, from weights that are given."""
    base = {"demo_classification_qat": "demo_classification", "demo_detection_qat": "demo_detection"}.get(name)
    base = base or name.replace("_qat", "_coco" if "det" in name else "_imagenet")
    cfg, trained = recipe(name), recipe(base)
    for section in ("model", "scaling", "evaluation"):
        assert getattr(cfg, section) == getattr(trained, section)
    assert (cfg.data.root, cfg.data.train, cfg.data.val) == (trained.data.root, trained.data.train, trained.data.val)
    assert cfg.run.name == name != trained.run.name
    assert cfg.schedule.epochs < trained.schedule.epochs and cfg.schedule.warmup_epochs == 0.0
    assert cfg.optim.lr < trained.optim.lr and cfg.model.weights is None


def test_the_detectors_last_convolutions_stay_in_floats() -> None:
    for name in ("efficientdet_d0_qat", "demo_detection_qat"):
        quantization = recipe(name).quantization
        assert quantization is not None and quantization.skip == ("predict",)
        assert quantization.freeze_bn_after == 0.5


def test_d0s_learning_rate_goes_from_one_percent_to_one_percent_of_that() -> None:
    cfg, trained = recipe("efficientdet_d0_qat"), recipe("efficientdet_d0_coco")
    assert cfg.optim.lr == pytest.approx(trained.optim.lr / 100) and cfg.schedule.min_lr == cfg.optim.lr / 100
    assert cfg.schedule.name == "cosine" and cfg.ema.decay == 0.999


# --- another activation ---


@pytest.mark.parametrize("name", ["demo_classification", "demo_detection"])
@pytest.mark.parametrize("quantized", [False, True])
def test_relu6_reaches_every_activation_but_the_gate_and_leaves_the_keys(name: str, quantized: bool) -> None:
    from torch import nn

    from raydet.training.state import build_model

    if quantized:
        pytest.importorskip("pytorch_quantization")
        name += "_qat"
    cfg = override(recipe(name), parse_overrides(["--model.act", "relu6"]))
    usual, model = build_model(recipe(name), 10), build_model(cfg, 10)
    kinds = [type(module) for module in model.modules()]
    usually = [type(module) for module in usual.modules()]
    assert nn.SiLU not in kinds and nn.ReLU6 not in usually
    assert [nn.ReLU6 if kind is nn.SiLU else kind for kind in usually] == kinds
    assert kinds.count(nn.ReLU6) > 15 and kinds.count(nn.Sigmoid) == 7  # the gate of each of seven blocks
    assert list(model.state_dict()) == list(usual.state_dict())


def test_relu6_changes_what_the_net_computes() -> None:
    import torch

    from raydet.training.state import build_model

    cfg = recipe("demo_classification")
    relu6, usual = (build_model(override(cfg, {"model.act": act}), 10).eval() for act in ("relu6", None))
    relu6.load_state_dict(usual.state_dict())
    images_B3HW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        inner = [net.act1(net.bn1(net.conv_stem(images_B3HW))) for net in (relu6, usual)]
    assert inner[0].min() == 0 and inner[1].min() < 0
