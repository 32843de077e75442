"""Schedules against timm's and NVIDIA's formulas, parameter groups, the EMA, clipping, freezing."""

import math

import pytest
import torch
from torch import nn

from raydet import models
from raydet.config import Config, Ema, Optim, override
from raydet.recipes import recipe
from raydet.training.ema import ModelEma
from raydet.training.optim import build_optimizer, clip_gradients, freeze
from raydet.training.schedule import learning_rate


def test_the_scripts_schedule_equals_timms_with_its_noise() -> None:
    pytest.importorskip("timm")
    from timm.scheduler import CosineLRScheduler

    cfg = recipe("efficientdet_d0_coco_8x150")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.63)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=300,
        lr_min=1e-5,
        warmup_t=50,
        warmup_lr_init=1e-4,
        cycle_limit=1,
        noise_range_t=(120, 270),
        noise_seed=12711,
    )
    for epoch in range(300):
        theirs.step(epoch)
        assert learning_rate(cfg, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_cool_down_stays_at_the_lowest_rate() -> None:
    cfg = recipe("efficientdet_d0_coco")
    assert cfg.schedule.total_epochs == 310
    assert [learning_rate(cfg, e) for e in (300, 309)] == [1e-5, 1e-5]


@pytest.mark.parametrize(("name", "peak"), [("efficientnet_b0_imagenet", 0.08), ("efficientnet_b4_imagenet", 0.16)])
def test_nvidias_classification_schedule(name: str, peak: float) -> None:
    cfg = recipe(name)
    for epoch in range(400):
        cosine = peak * (1 + math.cos(math.pi * (epoch - 16) / 384)) / 2
        assert learning_rate(cfg, epoch) == pytest.approx(peak * (epoch + 1) / 16 if epoch < 16 else cosine, rel=1e-12)


def test_linear_step_and_constant_schedules() -> None:
    base = {"schedule.warmup_epochs": 0.0, "schedule.min_lr": 0.0, "schedule.epochs": 90, "optim.lr": 1.0}
    linear = override(Config(), base | {"schedule.name": "linear"})
    assert [learning_rate(linear, e) for e in (0, 45)] == [1.0, 0.5]
    step = override(Config(), base | {"schedule.name": "step"})
    assert [learning_rate(step, e) for e in (29, 30, 60, 80)] == pytest.approx([1.0, 0.1, 0.01, 0.001])
    constant = override(Config(), base | {"schedule.name": "constant"})
    assert learning_rate(constant, 89) == 1.0


def test_the_rate_scales_with_the_global_batch() -> None:
    cfg = override(Config(), {"optim.lr": 0.1, "optim.lr_batch_size": 64, "schedule.warmup_epochs": 0.0})
    cfg = override(cfg, {"data.batch_size": 32, "scaling.num_workers": 8})
    assert learning_rate(cfg, 0) == pytest.approx(0.4)


def decayed(model: nn.Module, cfg: Optim) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for g in build_optimizer(model, cfg).param_groups if g["weight_decay"] for p in g["params"]}


def test_by_default_only_matrices_decay() -> None:
    model = models.build("efficientdet_demo", 3)
    some = decayed(model, Optim())
    assert some == {name for name, p in model.named_parameters() if p.ndim > 1}
    assert not any("bn" in name or name.endswith("bias") or "edge_weights" in name for name in some)


def test_nvidias_exception_decays_squeeze_excite_and_classifier_biases_but_no_batch_norm() -> None:
    model = models.build("efficientnet_demo", 3)
    some = decayed(model, recipe("efficientnet_b0_imagenet").optim)
    biases = {name for name in some if name.endswith("bias")}
    assert "classifier.bias" in biases and any(".se." in name for name in biases)
    assert not any(".bn" in name or name.startswith("bn") for name in some)
    everything = decayed(model, Optim(decay_bn=True, decay_biases=True))
    assert everything == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_optimizers_move_as_torchs_plain_ones(name: str) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 4), torch.randn(6, 5, 4)
    ours, theirs = nn.Linear(4, 5, bias=False), nn.Parameter(start.clone())
    ours.weight.data.copy_(start)
    cfg = Optim(name=name, lr=0.1, eps=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    mine = build_optimizer(ours, cfg)
    plain = {
        "sgd": lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.1),
        "rmsprop": lambda p: torch.optim.RMSprop([p], lr=0.1, alpha=0.9, eps=0.01, momentum=0.9, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.999), eps=0.01, weight_decay=0.1),
    }[name](theirs)
    for gradient in gradients:
        ours.weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        plain.step()
    torch.testing.assert_close(ours.weight, theirs, rtol=1e-5, atol=1e-6)


def test_rmsprop_takes_the_loss_scale_and_skips_an_overflow() -> None:
    weights = []
    for scale in (1.0, 1024.0):
        layer = nn.Linear(3, 2, bias=False)
        layer.weight.data.fill_(0.5)
        optimizer = build_optimizer(layer, Optim(name="rmsprop", lr=0.1, eps=0.01, weight_decay=0.0))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for inputs in (torch.ones(1, 3), torch.full((1, 3), float("inf")), torch.ones(1, 3) * 2):
            scaler.scale(layer(inputs).sum()).backward()
            scaler.step(optimizer)  # not unscaled before: the optimiser divides by the scale itself
            scaler.update()
            optimizer.zero_grad()
        assert scaler.get_scale() == scale / 2
        weights.append(layer.weight.detach().clone())
    assert weights[0].isfinite().all() and (weights[0] != 0.5).all()
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=0)


def test_the_average_follows_parameters_and_buffers_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = ModelEma(model, Ema(decay=0.75))
    before = {k: v.clone() for k, v in average.model.state_dict().items()}
    model.train()(torch.randn(8, 3))
    with torch.no_grad():
        model[0].weight += 1
    average.update(average.decay(1))
    for key, value in average.model.state_dict().items():
        now = model.state_dict()[key]
        expected = now if key.endswith("num_batches_tracked") else 0.75 * before[key] + 0.25 * now
        torch.testing.assert_close(value, expected)


def test_the_averages_warm_up_trusts_the_model_at_first() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = ModelEma(model, Ema(decay=0.9, warmup=True))
    with torch.no_grad():
        model.weight += 1.0
    start = float(average.model.weight)
    average.update(average.decay(1))
    assert float(average.model.weight) - start == pytest.approx(1 - 2 / 11)
    average.update(average.decay(1000))
    assert float(average.model.weight) - start == pytest.approx(1 - 2 / 11 * 0.9)


def test_clipping_keeps_the_direction_and_none_keeps_all() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    for p in parameters:
        p.grad = torch.full_like(p, 3.0)
    norm = clip_gradients(parameters, 1.0)
    assert float(norm) == pytest.approx(math.sqrt(45))
    assert math.sqrt(sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None)) == pytest.approx(
        1, abs=1e-5
    )
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    assert float(clip_gradients(parameters, None)) == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(p.grad, old) for p, old in zip(parameters, before, strict=True) if p.grad is not None)


def test_freezing_an_unknown_part_names_those_there_are() -> None:
    model = models.build("efficientdet_demo", 3)
    assert freeze(model, ("backbone",)) and not any(p.requires_grad for p in model.backbone.parameters())
    with pytest.raises(ValueError, match="it has backbone, fpn"):
        freeze(model, ("bakbone",))
