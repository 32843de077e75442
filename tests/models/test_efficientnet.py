import math

import pytest
import torch

from raydet import models
from raydet.models.efficientnet import Backbone
from raydet.models.efficientnet_variants import VARIANTS


@pytest.mark.parametrize(
    ("name", "act", "size"),
    [
        ("efficientnet_b0", None, (96, 129)),
        ("efficientnet_b0", "relu6", (64, 65)),
        ("tf_efficientnet_b0", None, (97, 130)),
        ("efficientnet_b4", None, (64, 64)),
        pytest.param("tf_efficientnet_b3", None, (75, 64), marks=pytest.mark.slow),
        ("efficientnet_lite0", None, (96, 65)),
        ("tf_efficientnet_lite0", None, (97, 130)),
        ("tf_efficientnet_lite0", "silu", (64, 64)),
        *(pytest.param(f"tf_efficientnet_lite{i}", None, (65, 64), marks=pytest.mark.slow) for i in range(1, 5)),
    ],
)
@torch.no_grad()
def test_equals_timm_with_timms_weights(name, act, size, randomise):
    timm = pytest.importorskip("timm")
    theirs = randomise(timm.create_model(name, **({} if act is None else {"act_layer": act})))
    ours = models.build(name, act=act).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)
    images = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.to(memory_format=torch.channels_last)(images), theirs(images), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_features_equal_timms(randomise):
    timm = pytest.importorskip("timm")
    theirs = randomise(timm.create_model("efficientnet_b0", features_only=True, out_indices=(2, 3, 4)))
    ours = Backbone(VARIANTS["efficientnet_b0"]).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 96)
    for tap, wanted in zip(ours.features(images), theirs(images), strict=True):
        torch.testing.assert_close(tap, wanted, atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient():
    model = models.build("efficientnet_demo", 10, drop_path=0.0)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_first_loss_of_ten_classes_is_that_of_guessing():
    model = models.build("efficientnet_b0", 10)
    loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.arange(8))
    assert abs(loss.item() - math.log(10)) < 0.3


def test_training_with_seeds_does_not_depend_on_the_generator_nor_on_the_place_in_the_batch():
    model = models.build("efficientnet_b0", 10, drop_path=0.5).train()
    for norm in model.modules():  # whose statistics would mix the samples
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval()
    images, seeds_B = torch.randn(4, 3, 32, 32), torch.tensor([5, 6, 7, 8])
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        first = model(images, seeds_B)
        again = model(images[order], seeds_B[order])
        other = model(images, seeds_B + 100)
    largest = first.abs().max()  # of an untrained net with BN in eval mode: 1e-6
    assert (again - first[order]).abs().max() < 1e-4 * largest
    assert (other - first).abs().max() > 0.1 * largest


def test_stochastic_depth_is_per_sample_and_off_in_eval():
    model = models.build("efficientnet_b0", 10, drop_path=0.5, dropout=0.0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval()
    images = torch.randn(1, 3, 32, 32).expand(6, -1, -1, -1)
    with torch.no_grad():
        spread = model.train().features(images)[-1].std(0).max()
        steady = model.eval().features(images)[-1].std(0).max()
    assert spread > 1e-3
    assert steady < 1e-5


@pytest.mark.parametrize(
    ("field", "value"),
    [("dropout", 1.0), ("drop_path", -0.1), ("padding", "valid"), ("num_classes", 0), ("act", "swish")],
)
def test_bad_values_are_refused_with_the_value(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be .*got {value!r}"):
        models.build("efficientnet_demo", **{field: value})


def test_demo_has_one_block_a_stage():
    model = models.build("efficientnet_demo", 10)
    assert [len(stage) for stage in model.blocks] == [1] * 7
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_no_activation_is_done_in_place():
    # In training, autograd clones the input of an in-place SiLU: 127 MB an image in EfficientDet-D0.
    model = models.build("efficientnet_demo", 10).eval()
    kept = []
    model.bn1.register_forward_hook(lambda module, inputs, output: kept.append((output, output.clone())))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert torch.equal(*kept[0])
