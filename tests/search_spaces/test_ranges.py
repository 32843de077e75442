"""Ranges of the spaces: round the default, aware of the batch, and with the documented settings in them."""

from typing import Any

import pytest

from raydet.config import override
from raydet.recipes import recipe
from raydet.search_spaces import get
from raydet.search_spaces.domains import bounds, holds, spelt
from raydet.search_spaces.ranges import carried, documented_lr, flat_range, log_range, options

D0 = recipe("efficientdet_d0_coco")


@pytest.mark.parametrize("workers", [1, 2, 8, 64])
def test_sgds_learning_rate_grows_with_the_batch_and_is_the_second_point(workers: int) -> None:
    cfg = override(D0, {"scaling.num_workers": workers})
    assert documented_lr(cfg) == pytest.approx(0.01 * workers)
    space = get("lr", cfg)
    assert space.points[0] == {"optim.lr": 0.01}
    assert [p["optim.lr"] for p in space.points[1:]] == pytest.approx([0.01 * workers] if workers > 1 else [])


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_an_adaptive_optimisers_learning_rate_grows_with_the_root_of_the_batch(name: str) -> None:
    cfg = override(D0, {"optim.name": name, "optim.batch_size": 4 * 32})
    assert carried(0.01, 32, cfg) == pytest.approx(0.02)


def test_a_rate_that_follows_the_batch_by_itself_is_not_scaled_twice() -> None:
    cfg = override(D0, {"scaling.num_workers": 8, "optim.lr": 0.02, "optim.lr_batch_size": 64})
    assert documented_lr(cfg) * cfg.lr_scale == pytest.approx(0.08)
    assert get("lr", cfg).points == [{"optim.lr": 0.02}]


@pytest.mark.parametrize("rounding", [1 - 1e-15, 1, 1 + 1e-15])
def test_what_differs_by_rounding_only_is_not_tried_twice(rounding: float) -> None:
    cfg = override(D0, {"scaling.num_workers": 3, "optim.lr": 0.01 * 3 * rounding})
    assert len(get("lr", cfg).points) == 1


def test_with_another_optimiser_the_recipes_rate_says_nothing() -> None:
    cfg = override(D0, {"optim.name": "adamw", "optim.lr": 3e-4})
    assert documented_lr(cfg) == 3e-4
    assert get("lr_wd", cfg).points == [get("lr_wd", cfg).points[0]]


@pytest.mark.parametrize("factor", [1 / 1000, 1 / 30, 1, 30, 1000])
def test_a_rate_far_off_leaves_the_recipes_in_the_range(factor: float) -> None:
    cfg = override(recipe("demo_classification"), {"optim.lr": 3e-3 * factor})
    domain = get("lr", cfg).domains["optim.lr"]
    low, high = bounds(domain)
    assert low <= 3e-3 / 10 and high >= 3e-3 * 9.9
    assert holds(domain, 3e-3 * factor)


@pytest.mark.parametrize("factor", [10, 30])
def test_a_rate_too_high_is_left_behind_also_without_a_recipe(factor: float) -> None:
    cfg = override(recipe("demo_classification"), {"recipe": None, "optim.lr": 3e-3 * factor})
    assert bounds(get("lr", cfg).domains["optim.lr"])[0] <= 3e-3


def test_the_peak_is_not_searched_below_the_schedules_end() -> None:
    cfg = override(D0, {"schedule.min_lr": 5e-3})
    assert bounds(get("lr", cfg).domains["optim.lr"])[0] == 5e-3


@pytest.mark.parametrize(("inside", "line"), [(0.0, "uniform(0, 0.03)"), (5.0, "loguniform(0.001, 5)")])
def test_a_logarithmic_range_holds_what_must_be_in_it(inside: float, line: str) -> None:
    assert spelt(log_range(0.00101, 0.0301, inside)) == line


def test_a_flat_range_and_a_choice_hold_the_users_own() -> None:
    assert spelt(flat_range(0.8, 0.95, 0.99)) == "uniform(0.8, 0.99)"
    assert spelt(options(0.5, None, 0.9)) == "choice(None, 0.9, 0.5)"
    assert spelt(options(None, None, 0.9)) == "choice(None, 0.9)"


B0 = {
    "optim.name": "sgd",
    "optim.lr": 0.0125,
    "optim.momentum": 0.89,
    "optim.weight_decay": 4.5e-5,
    "schedule.name": "cosine",
    "schedule.epochs": 10,
}
B4 = {
    "optim.name": "rmsprop",
    "optim.lr": 4.09e-6,
    "optim.alpha": 0.853,
    "optim.eps": 0.00422,
    "optim.momentum": 0.9,
    "optim.weight_decay": 9.714e-4,
    "schedule.name": "linear",
    "schedule.epochs": 2,
}
CALIBRATION = {
    "quantization.calibration": "percentile",
    "quantization.percentile": 99.99,
    "quantization.batches": 10,
    "quantization.freeze_bn_after": None,
}


@pytest.mark.parametrize("of", ["efficientnet_b0_qat", "efficientnet_widese_b4_qat", "demo_classification_qat"])
@pytest.mark.parametrize(("setting", "images"), [(B0, 1024), (B4, 256)])
def test_nvidias_quantized_trainings_are_points_of_qat(of: str, setting: dict[str, Any], images: int) -> None:
    cfg = override(recipe(of), {"optim.batch_size": images, "data.batch_size": 8})
    wanted = setting | CALIBRATION
    points = get("qat", cfg).points
    assert any(all(point[key] == pytest.approx(value) for key, value in wanted.items()) for point in points)


@pytest.mark.parametrize("images", [32, 256, 4096])
def test_the_rates_of_qat_follow_the_batch(images: int) -> None:
    cfg = override(recipe("efficientdet_d0_qat"), {"optim.batch_size": images})
    _, b0, b4 = get("qat", cfg).points
    assert b0["optim.lr"] == pytest.approx(0.0125 * images / 1024)
    assert b4["optim.lr"] == pytest.approx(4.09e-6 * (images / 256) ** 0.5)


def test_points_of_qat_have_no_warm_up_where_the_configuration_has_one() -> None:
    cfg = override(D0, {"quantization.bits": 8})
    points = get("qat", cfg).points
    assert [point["schedule.warmup_epochs"] for point in points] == [5.0, 0.0, 0.0]
    assert "schedule.warmup_epochs" not in get("qat", recipe("efficientdet_d0_qat")).keys


@pytest.mark.parametrize(("epochs", "per_step", "line"), [(300, False, "randint(0, 91)"), (3, True, "uniform(0, 0.9)")])
def test_a_warm_up_is_whole_epochs_unless_it_moves_by_steps(epochs: int, per_step: bool, line: str) -> None:
    cfg = override(D0, {"schedule.epochs": epochs, "schedule.warmup_epochs": 0.0, "schedule.per_step": per_step})
    assert spelt(get("lr_wd", cfg).domains["schedule.warmup_epochs"]) == line


def test_a_run_too_short_for_a_whole_epoch_of_warm_up_does_not_search_it() -> None:
    cfg = override(D0, {"schedule.epochs": 3, "schedule.warmup_epochs": 0.0})
    assert "schedule.warmup_epochs" not in get("lr_wd", cfg).keys


def test_classifiers_and_detectors_vary_their_images_differently() -> None:
    detector, classifier = get("augment", D0), get("augment", recipe("demo_classification"))
    assert "augment.scale" in detector.keys and "augment.mixup" not in detector.keys
    assert "augment.mixup" in classifier.keys and "augment.scale" not in classifier.keys
    assert not any("hflip" in key for key in detector.keys + classifier.keys)
