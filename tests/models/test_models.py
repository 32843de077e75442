"""The table of names and `build`."""

import pytest
import torch

from raydet import models

# DEFAULTS B1, B3 and B2: parameters with 1000 and with 90 classes.
CLASSIFIERS = {
    "b0": (5_288_548, 8_423_848),
    "b1": (7_794_184, 13_336_204),
    "b2": (9_109_994, 15_678_504),
    "b3": (12_233_232, 21_530_032),
    "b4": (19_341_616, 34_927_246),
    "b5": (30_389_784, 56_146_944),
    "b6": (43_040_704, 80_444_154),
    "b7": (66_347_960, 125_844_160),
}
DETECTORS = {
    "efficientdet_d0": 3_877_763,
    "tf_efficientdet_d0": 3_880_067,
    "efficientdet_d1": 6_622_026,
    "tf_efficientdet_d1": 6_625_898,
    "efficientdet_d2": 8_091_215,
    "tf_efficientdet_d2": 8_097_039,
    "efficientdet_d3": 12_022_376,
    "tf_efficientdet_d3": 12_032_296,
    "efficientdet_d4": 20_723_675,
    "tf_efficientdet_d4": 20_723_675,
    "efficientdet_d5": 33_653_315,
    "tf_efficientdet_d5": 33_653_315,
    "efficientdet_d6": 51_871_782,
    "tf_efficientdet_d6": 51_871_782,
    "efficientdet_d7": 51_871_782,
    "tf_efficientdet_d7": 51_871_782,
    "efficientdet_d7x": 77_147_166,
    "tf_efficientdet_d7x": 77_147_166,
}
COUNTS = {
    **{f"efficientnet_{scale}": plain for scale, (plain, _) in CLASSIFIERS.items()},
    **{f"tf_efficientnet_{scale}": plain for scale, (plain, _) in CLASSIFIERS.items()},
    **{f"efficientnet_widese_{scale}": wide for scale, (_, wide) in CLASSIFIERS.items()},
    **DETECTORS,
}


def test_the_counts_cover_every_model_but_the_demos():
    assert set(models.MODELS) - set(COUNTS) == {"efficientnet_demo", "efficientdet_demo"}


@pytest.mark.parametrize("name", COUNTS)
def test_model_has_the_documented_number_of_parameters(name):
    with torch.device("meta"):
        model = models.build(name)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
    assert model.name == name


def test_default_image_sizes():
    sizes = [models.default_image_size(f"efficientnet_b{i}") for i in range(8)]
    assert sizes == [224, 240, 260, 300, 380, 456, 528, 600]
    numbers = ["0", "1", "2", "3", "4", "5", "6", "7", "7x"]
    sizes = [models.default_image_size(f"efficientdet_d{i}") for i in numbers]
    assert sizes == [512, 640, 768, 896, 1024, 1280, 1280, 1536, 1536]
    assert models.default_image_size("efficientnet_demo") == 64
    assert models.default_image_size("efficientdet_demo") == 128


def test_is_detector():
    assert models.is_detector("tf_efficientdet_d7x")
    assert not models.is_detector("efficientnet_widese_b4")


@pytest.mark.parametrize("call", [models.build, models.is_detector, models.default_image_size])
def test_unknown_name_lists_the_nearest(call):
    with pytest.raises(ValueError, match=r"no model named 'efficientdet-d0'.*efficientdet_d0"):
        call("efficientdet-d0")


def test_unknown_field_is_named():
    with pytest.raises(TypeError, match=r"efficientdet_d0 has no field 'fpn_depth'; it has anchor_scale"):
        models.build("efficientdet_d0", fpn_depth=3)


def test_field_of_the_other_family_is_refused_unless_it_is_none():
    models.build("efficientdet_demo", 2, dropout=None)
    with pytest.raises(TypeError, match="efficientdet_demo has no field 'dropout'"):
        models.build("efficientdet_demo", 2, dropout=0.1)


def test_a_none_for_an_unknown_field_is_refused_too():
    with pytest.raises(TypeError, match="'drop_paths'"):
        models.build("efficientnet_demo", drop_paths=None)


@pytest.mark.parametrize(
    ("name", "eps", "momentum"),
    [("efficientnet_b0", 1e-5, 0.1), ("tf_efficientnet_b0", 1e-3, 0.1), ("efficientnet_widese_b0", 1e-3, 0.01)],
)
def test_batch_norm_constants_of_the_variants(name, eps, momentum):
    with torch.device("meta"):
        model = models.build(name)
        changed = models.build(name, bn_eps=0.5, bn_momentum=0.25)
    assert {(m.eps, m.momentum) for m in _norms(model)} == {(eps, momentum)}
    assert {(m.eps, m.momentum) for m in _norms(changed)} == {(0.5, 0.25)}


def test_nvidias_detector_by_field():
    with torch.device("meta"):
        plain = models.build("efficientdet_d0")
        nvidia = models.build("efficientdet_d0", bn_eps=1e-3, bn_momentum=0.01)
    assert {(m.eps, m.momentum) for m in _norms(plain)} == {(1e-5, 0.1), (1e-3, 0.01)}
    assert {(m.eps, m.momentum) for m in _norms(nvidia)} == {(1e-3, 0.01)}


def _norms(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
