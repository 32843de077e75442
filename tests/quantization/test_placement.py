"""Where fake-quantizers stand, what can be left out, and that a float checkpoint still fits."""

import copy
from collections import Counter

import pytest
from torch import nn

from raydet import models
from raydet.config import Quantization
from raydet.exceptions import ConfigError
from raydet.models.bifpn import Fuse
from raydet.models.layers import Add, Multiply
from raydet.quantization import GROUPS, is_quantized, placements, quantize, quantizers
from tests.models.on_meta import on_meta

NAMES = [
    "efficientnet_demo",
    "efficientnet_b0",
    "efficientnet_widese_b0",
    "tf_efficientnet_b0",
    "efficientnet_lite0",
    "efficientdet_demo",
    "efficientdet_d0",
    "tf_efficientdet_d0",
    "efficientdet_lite0",
]


def expected(model: nn.Module) -> int:
    """Count quantizers by what the layers are: inputs and weights, pools, two factors, a shortcut, every fused map."""
    kinds = ((nn.Conv2d | nn.Linear, 2), (nn.AdaptiveAvgPool2d, 1), (Multiply, 2), (Add, 1))
    found = sum(count for m in model.modules() for kind, count in kinds if isinstance(m, kind))
    return found + sum(len(m.steps) for m in model.modules() if isinstance(m, Fuse))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_place_of_a_model_gets_its_quantizers(name: str) -> None:
    with on_meta():
        model = models.build(name)
        wanted = expected(model)
        quantize(model, Quantization())
    assert is_quantized(model) and len(quantizers(model)) == wanted > 90


def test_b0_has_as_many_quantizers_as_nvidias() -> None:
    with on_meta():
        model = models.build("efficientnet_b0")
        quantize(model, Quantization())
    kinds = Counter(name.rpartition(".")[2] for name in quantizers(model))
    # 81 convolutions and a linear layer; 17 pools; 16 squeeze-excites; 9 shortcuts (common.py, efficientnet.py).
    assert kinds == {
        "input_quantizer": 82 + 17,
        "weight_quantizer": 82,
        "features_quantizer": 16,
        "gate_quantizer": 16,
        "residual_quantizer": 9,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_stay_the_same_objects_under_the_same_keys(name: str) -> None:
    with on_meta():
        model = models.build(name, 3)
        before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        quantize(model, Quantization())
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[key] is value for key, value in before.items())
    assert all(key.endswith("_amax") for key in set(after) - set(before))


def test_layers_keep_the_class_they_had_as_a_base() -> None:
    model = models.build("tf_efficientnet_b0")
    before = {name: type(layer) for name, layer in model.named_modules()}
    quantize(model, Quantization())
    assert all(isinstance(model.get_submodule(name), cls) for name, cls in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name.endswith(("demo", "lite0")) else pytest.mark.soak) for name in NAMES]
)
def test_each_group_can_be_left_out(name: str) -> None:
    with on_meta():
        plain = models.build(name)
        groups = {placed.group for placed in placements(plain)}
        for group in groups:
            model = copy.deepcopy(plain)
            done = {placed.group for placed in quantize(model, Quantization(skip=(group,)))}
            assert done == groups - {group}
            left = [p for p in placements(model) if p.group == group]
            assert left and not any(quantizers(model.get_submodule(p.name)) for p in left)
    assert groups <= set(GROUPS)


def test_a_part_can_be_left_out_by_its_name() -> None:
    model = models.build("efficientnet_b0")
    quantize(model, Quantization(skip=("blocks.1", "conv_head")))
    names = quantizers(model)
    assert not any(name.startswith(("blocks.1.", "conv_head.")) for name in names)
    assert any(name.startswith("blocks.2.") for name in names)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("depthwiese", "did you mean depthwise"),
        ("predict", "the groups are stem, se, residual"),
        ("blocks.99", "blocks."),
    ],
)
def test_what_cannot_be_left_out_is_refused_with_what_can(word: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"quantization.skip: no group or part '{word}'.*{told}"):
        quantize(models.build("efficientnet_b0"), Quantization(skip=(word,)))


def test_leaving_everything_out_is_refused() -> None:
    model = models.build("efficientnet_demo")
    groups = tuple({placed.group for placed in placements(model)})
    with pytest.raises(ConfigError, match=r"quantization\.skip leaves nothing in INT8"):
        quantize(model, Quantization(skip=groups))


def test_a_second_time_is_refused() -> None:
    model = models.build("efficientnet_demo")
    quantize(model, Quantization())
    with pytest.raises(ValueError, match="already quantized"):
        quantize(model, Quantization())


def test_a_convolution_of_a_kind_without_a_quantized_form_is_not_passed_over() -> None:
    class Another(nn.Conv2d):
        pass

    model = models.build("efficientnet_demo")
    model.conv_stem = Another(3, 16, 3)
    with pytest.raises(TypeError, match="conv_stem: Another has no quantized form"):
        quantize(model, Quantization())


def test_a_layer_in_no_group_is_not_passed_over() -> None:
    model = models.build("efficientnet_demo")
    model.extra = nn.Conv2d(3, 16, 3)
    with pytest.raises(TypeError, match="extra is in no group"):
        quantize(model, Quantization())
