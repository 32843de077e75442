"""The table of names and `build`."""

import functools
import hashlib
import json
from pathlib import Path

import pytest
import torch

from raydet import models
from tests.models.on_meta import on_meta

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
# timm's 1.0.31 and effdet's 0.4.1. Those without `tf_` are ours from lite1 on: the biases before a BN less.
LITE = {
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "efficientdet_lite0": 3_241_223,
    "efficientdet_lite1": 4_244_446,
    "efficientdet_lite2": 5_246_510,
    "efficientdet_lite3": 8_340_942,
    "efficientdet_lite4": 15_115_214,
    "tf_efficientdet_lite0": 3_243_470,
    "tf_efficientdet_lite1": 4_248_318,
    "tf_efficientdet_lite2": 5_252_334,
    "tf_efficientdet_lite3": 8_350_862,
    "tf_efficientdet_lite4": 15_130_894,
}
COUNTS = {
    **{f"efficientnet_{scale}": plain for scale, (plain, _) in CLASSIFIERS.items()},
    **{f"tf_efficientnet_{scale}": plain for scale, (plain, _) in CLASSIFIERS.items()},
    **{f"efficientnet_widese_{scale}": wide for scale, (_, wide) in CLASSIFIERS.items()},
    **DETECTORS,
    **LITE,
    **{f"tf_{name}": count for name, count in LITE.items() if name.startswith("efficientnet")},
}
# Of the keys and shapes of each state dict, in order: the digests that saved checkpoints and optimizer states rely on.
DIGESTS = json.loads((Path(__file__).parents[1] / "files" / "state_dict_digests.json").read_text())


def test_the_counts_cover_every_model_but_the_demos():
    assert set(models.MODELS) - set(COUNTS) == {"efficientnet_demo", "efficientdet_demo"}


@pytest.mark.soak
def test_models_have_the_documented_number_of_parameters():
    assert {name: sum(p.numel() for p in _on_meta(name).parameters()) for name in COUNTS} == COUNTS
    assert all(_on_meta(name).name == name for name in COUNTS)


@pytest.mark.slow
def test_keys_shapes_and_order_of_state_dicts_are_those_of_saved_ones():
    assert {name: _digest(_on_meta(name).state_dict()) for name in models.MODELS} == DIGESTS


@pytest.mark.parametrize("name", ["efficientnet_demo", "efficientdet_demo"])
def test_an_activation_leaves_no_trace_in_a_state_dict(name):
    assert _digest(models.build(name, act="relu6").state_dict()) == _digest(models.build(name).state_dict())


def test_the_pyramid_divides_every_default_image_size():
    for name in filter(models.is_detector, models.MODELS):
        assert models.default_image_size(name) % 2 ** models.MODELS[name].max_level == 0, name


def test_lite_weights_want_the_pixels_that_timm_gives_them():
    timm = pytest.importorskip("timm")
    for lite in (name for name in LITE if name.startswith("efficientnet")):
        for name in (lite, f"tf_{lite}"):
            theirs, ours = timm.get_pretrained_cfg(name), models.MODELS[name]
            assert (ours.mean, ours.std) == (theirs.mean, theirs.std), name


def test_default_image_sizes():
    sizes = [models.default_image_size(f"efficientnet_b{i}") for i in range(8)]
    assert sizes == [224, 240, 260, 300, 380, 456, 528, 600]
    numbers = ["0", "1", "2", "3", "4", "5", "6", "7", "7x"]
    sizes = [models.default_image_size(f"efficientdet_d{i}") for i in numbers]
    assert sizes == [512, 640, 768, 896, 1024, 1280, 1280, 1536, 1536]
    sizes = [models.default_image_size(f"tf_efficientnet_lite{i}") for i in range(5)]
    assert sizes == [224, 240, 260, 280, 300]
    sizes = [models.default_image_size(f"tf_efficientdet_lite{i}") for i in range(5)]
    assert sizes == [384, 384, 512, 512, 640]
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
    with pytest.raises(TypeError, match=r"efficientdet_d0 has no field 'fpn_depth'; it has act, anchor_scale"):
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
    with on_meta():
        model = models.build(name)
        changed = models.build(name, bn_eps=0.5, bn_momentum=0.25)
    assert {(m.eps, m.momentum) for m in _norms(model)} == {(eps, momentum)}
    assert {(m.eps, m.momentum) for m in _norms(changed)} == {(0.5, 0.25)}


@pytest.mark.slow
def test_nvidias_detector_by_field():
    with on_meta():
        plain = models.build("efficientdet_d0")
        nvidia = models.build("efficientdet_d0", bn_eps=1e-3, bn_momentum=0.01)
    assert {(m.eps, m.momentum) for m in _norms(plain)} == {(1e-5, 0.1), (1e-3, 0.01)}
    assert {(m.eps, m.momentum) for m in _norms(nvidia)} == {(1e-3, 0.01)}


@functools.cache
def _on_meta(name):
    with on_meta():
        return models.build(name)


def _digest(state):
    text = "\n".join(f"{key} {tuple(x.shape)}" for key, x in state.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _norms(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
