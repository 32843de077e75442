"""Every family of files, written here by names put together independently of the maps under test."""

import argparse
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from raydet import models
from raydet.config import Config, override
from raydet.exceptions import WeightsError
from raydet.models import weights
from raydet.training.resume import load_weights

DEPTHS = {"b0": (1, 2, 2, 3, 3, 4, 1), "b1": (2, 3, 3, 4, 4, 5, 2)}


def _trained(name, num_classes=None, **fields):
    """A model whose every tensor is random, so that one in the wrong place shows."""
    model = models.build(name, num_classes, **fields)
    with torch.no_grad():
        for x in model.state_dict().values():
            if x.is_floating_point():
                x.uniform_(0.1, 1)
            else:
                x.fill_(7)
    return model


def _same(model, other, prefix=""):
    """Whether all tensors of `model` under `prefix` equal those of `other`."""
    theirs = other.state_dict()
    return all(torch.equal(x, theirs[k]) for k, x in model.state_dict().items() if k.startswith(prefix))


def _effdet_codes(state):
    """The rows of the box predictor as effdet has them: ty tx th tw."""
    state = dict(state)
    for leaf in ("weight", "bias"):
        key = f"box_net.predict.conv_pw.{leaf}"
        state[key] = torch.stack([state[key][a * 4 + i] for a in range(9) for i in (1, 0, 3, 2)])
    return state


def _nvidia_block(stage, key, names, convs):
    """NVIDIA's name of a tensor in a block, from ours; `names` of their parts, `convs` of a part's conv and BN."""
    part, leaf = key.rsplit(".", 1)
    se = {"se.conv_reduce": "squeeze", "se.conv_expand": "expand"}
    if part in se:
        return f"{names['se']}.{se[part]}.{leaf}"
    ours = (
        ["conv_dw", "bn1", "conv_pw", "bn2"] if stage == 0 else ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
    )
    parts = [names["dw"], names["project"]] if stage == 0 else [names["expand"], names["dw"], names["project"]]
    index = ours.index(part)
    return f"{parts[index // 2]}.{convs[index % 2]}.{leaf}"


def _nvidia_classifier(state, layer="layers.{}", squeeze_dims=2):
    names = {"expand": "expand", "dw": "depsep", "project": "proj", "se": "se"}
    outer = {"conv_stem": "stem.conv", "bn1": "stem.bn", "conv_head": "features.conv", "bn2": "features.bn"}
    outer["classifier"] = "classifier.fc"
    out = {}
    for key, x in state.items():
        head, _, leaf = key.partition(".")
        if head in outer:
            out[f"{outer[head]}.{leaf}"] = x
            continue
        _, stage, i, rest = key.split(".", 3)
        theirs = _nvidia_block(int(stage), rest, names, ("conv", "bn"))
        if squeeze_dims == 2 and ".se." in key and x.dim() == 4:
            x = x[:, :, 0, 0]
        out[f"{layer.format(int(stage) + (layer == 'layer{}'))}.block{i}.{theirs}"] = x
    return out


def _nvidia_backbone(state, depths):
    names = {"expand": "expand_conv", "dw": "depthwise_conv", "project": "project_conv", "se": "squeeze_and_excitation"}
    out = {}
    for key, x in state.items():
        if not key.startswith("blocks."):
            out[key.replace("conv_stem", "input_conv.0").replace("bn1", "input_conv.1")] = x
            continue
        _, stage, i, rest = key.split(".", 3)
        flat = sum(depths[: int(stage)]) + int(i)
        x = x[:, :, 0, 0] if ".se." in key and x.dim() == 4 else x
        out[f"mbconv_blocks.{flat}.{_nvidia_block(int(stage), rest, names, ('0', '1'))}"] = x
    return out


def _nvidia_detector(state, depths=DEPTHS["b0"]):
    state = _effdet_codes(state)
    inner = {k.removeprefix("backbone."): x for k, x in state.items() if k.startswith("backbone.")}
    outer = {k: x for k, x in state.items() if not k.startswith("backbone.")}
    return {f"backbone.{k}": x for k, x in _nvidia_backbone(inner, depths).items()} | outer


# --- classifiers ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_classifier(name, suffix, tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, num_classes=12)
    path = tmp_path / f"{name}_ra-3dd342df{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(theirs.state_dict(), path)
    model = models.build(name, 12)
    report = weights.load(model, path)
    assert report.source == "timm" and not report.skipped and not report.reinitialised and not report.notes
    assert len(report.loaded) == 360 and _same(model, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b0",
        pytest.param("efficientnet_widese_b0", marks=pytest.mark.slow),
        pytest.param("efficientnet_b1", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", ["flat", "training", "ngc", "quantized"])
def test_nvidia_classifier(name, layout, tmp_path):
    trained = _trained(name, 10)
    dims = 4 if layout == "quantized" else 2
    state = _nvidia_classifier(trained.state_dict(), "layer{}" if layout == "ngc" else "layers.{}", dims)
    content = state
    if layout == "training":
        content = {"epoch": 3, "best_prec1": 77.0, "state_dict": {f"module.{k}": x for k, x in state.items()}}
    if layout == "quantized":  # into a float model; test_weight_ranges.py has the other
        state["layers.1.block0.expand.conv._input_quantizer._amax"] = torch.ones(())
        state["layers.1.block0.se.mul_a_quantizer._amax"] = torch.ones(())
    torch.save(content, tmp_path / "nvidia.pth")
    model = models.build(name, 10)
    report = weights.load(model, tmp_path / "nvidia.pth")
    assert report.source == "nvidia classification" and _same(model, trained)
    assert len(report.skipped) == (2 if layout == "quantized" else 0)
    assert len(report.notes) == (model.norm.eps != 1e-3) + (layout == "quantized")


@pytest.mark.parametrize(("ema", "epoch"), [(True, 0.5), (False, 0.25)])
def test_ema_is_taken_only_where_asked_for(ema, epoch, tmp_path):
    state = models.build("efficientnet_demo", 3).state_dict()
    content = {
        "state_dict": {k: torch.full_like(x, 0.25) for k, x in state.items()},
        "state_dict_ema": {k: torch.full_like(x, 0.5) for k, x in state.items()},
        "args": argparse.Namespace(lr=0.1),
        "arch": "efficientnet_demo",
    }
    torch.save(content, tmp_path / "last.pth.tar")
    model = models.build("efficientnet_demo", 3)
    weights.load(model, tmp_path / "last.pth.tar", ema=ema)
    assert model.conv_stem.weight.unique().tolist() == [epoch]


def test_scores_saved_as_numpy_numbers_do_no_harm(tmp_path):
    np = pytest.importorskip("numpy")
    trained = _trained("efficientnet_demo", 3)
    torch.save({"state_dict": trained.state_dict(), "metric": np.float64(0.34)}, tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 3)
    weights.load(model, tmp_path / "a.pth")
    assert _same(model, trained)


# --- detectors ---


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "bench", "ddp", "levels first", "levels first without bn"])
@pytest.mark.parametrize("name", ["efficientdet_d0", pytest.param("tf_efficientdet_d0", marks=pytest.mark.slow)])
def test_effdet_detector(name, layout, tmp_path):
    trained = _trained(name)
    state = content = _effdet_codes(trained.state_dict())
    if layout.startswith("levels first"):
        bn = ".bn" if layout == "levels first" else ""
        content = {re.sub(r"bn_rep\.(\d)\.(\d)\.bn", rf"bn_rep.\2.\1{bn}", key): x for key, x in state.items()}
    elif layout != "flat":
        outer = "module." if layout == "ddp" else ""
        state = {f"{outer}model.{k}": x for k, x in state.items()} | {f"{outer}anchors.boxes": torch.zeros(9, 4)}
        content = {"epoch": 1, "arch": name, "args": argparse.Namespace(), "state_dict": state, "state_dict_ema": state}
    path = tmp_path / f"{name}-f3276ba8.pth"
    torch.save(content, path)
    model = models.build(name)
    report = weights.load(model, path)
    assert report.source == "effdet" and _same(model, trained)


@pytest.mark.slow
@torch.no_grad()
def test_effdet_file_gives_effdets_boxes_in_our_order(tmp_path, randomise):
    effdet = pytest.importorskip("effdet")
    config = effdet.get_efficientdet_config("efficientdet_d0")
    config.image_size = (128, 128)
    theirs = randomise(effdet.EfficientDet(config, pretrained_backbone=False))
    torch.save(theirs.state_dict(), tmp_path / "efficientdet_d0.pth")
    model = models.build("efficientdet_d0").eval()
    weights.load(model, tmp_path / "efficientdet_d0.pth")
    images = torch.randn(1, 3, 128, 128)
    wanted = torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1, 4) for x in theirs(images)[1]], 1)
    torch.testing.assert_close(model(images)[1], wanted[..., [1, 0, 3, 2]], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "training", "fused loss", "d1"])
def test_nvidia_detector(layout, tmp_path):
    name = "efficientdet_d1" if layout == "d1" else "efficientdet_d0"
    trained = _trained(name, bn_eps=1e-3)
    state = content = _nvidia_detector(trained.state_dict(), DEPTHS["b1" if layout == "d1" else "b0"])
    if layout == "training":
        state = {f"model.{k}": x for k, x in state.items()} | {"anchors.boxes": torch.zeros(9, 4)}
        content = {"epoch": 10, "arch": "efficientdet_d0", "version": 2, "state_dict_ema": state, "state_dict": {}}
    if layout == "fused loss":
        for leaf in ("weight", "bias"):
            x = state[f"class_net.predict.conv_pw.{leaf}"]
            padded = torch.full((9, 96, *x.shape[1:]), -100.0)
            padded[:, :90] = x.reshape(9, 90, *x.shape[1:])
            state[f"class_net.predict.conv_pw.{leaf}"] = padded.flatten(0, 1)
    torch.save(content, tmp_path / "model_best.pth.tar")
    model = models.build(name, bn_eps=1e-3)
    report = weights.load(model, tmp_path / "model_best.pth.tar")
    assert report.source == "nvidia detection" and _same(model, trained) and not report.notes


# --- backbones ---


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["timm", "nvidia classification", "nvidia detection", "detector"])
def test_backbone_alone_into_a_detector(layout, tmp_path):
    detector = _trained("efficientdet_d0", 5)
    inner = {k.removeprefix("backbone."): x for k, x in detector.state_dict().items() if k.startswith("backbone.")}
    if layout == "detector":
        state = _effdet_codes(detector.state_dict())
    elif layout == "nvidia detection":
        state = _nvidia_backbone(inner, DEPTHS["b0"]) | {"classifier.fc.weight": torch.ones(1000, 1280)}
    else:
        state = _trained("efficientnet_b0").state_dict() | inner
        state = _nvidia_classifier(state) if layout.startswith("nvidia") else state
    torch.save(state, tmp_path / "backbone.pth")
    model = models.build("efficientdet_d0", 5)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    report = weights.load(model, tmp_path / "backbone.pth", backbone_only=True)
    assert _same(model, detector, "backbone.")
    rest, after = [key for key in before if not key.startswith("backbone.")], model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in rest)
    assert [key for key, _ in report.untouched] == rest
    assert report.skipped and all(why == "no part of the backbone" for _, why in report.skipped)


@pytest.mark.slow
def test_backbone_of_a_detector_into_a_classifier(tmp_path):
    detector = _trained("efficientdet_d0", 5)
    torch.save(_effdet_codes(detector.state_dict()), tmp_path / "d0.pth")
    model = models.build("efficientnet_b0", 3)
    weights.load(model, tmp_path / "d0.pth", backbone_only=True)
    assert torch.equal(model.blocks[6][0].conv_pwl.weight, detector.backbone.blocks[6][0].conv_pwl.weight)


def test_of_a_classifier_a_detector_takes_the_backbone_unless_all_weights_must_be_there(tmp_path):
    classifier = _trained("efficientnet_demo", 3)
    torch.save(classifier.state_dict(), tmp_path / "a.pth")
    model = models.build("efficientdet_demo", 3)
    report = weights.load(model, tmp_path / "a.pth")
    assert torch.equal(model.backbone.conv_stem.weight, classifier.conv_stem.weight)
    assert any(key.startswith("class_net.") for key, _ in report.untouched)
    with pytest.raises(WeightsError, match=r"holds a classifier and the model is a detector; .*backbone_weights"):
        weights.load(model, tmp_path / "a.pth", num_classes_may_differ=False)


@pytest.mark.parametrize("head", [True, False], ids=["all but the last layer", "stem and blocks"])
def test_a_classifier_takes_a_backbone_without_its_head(head, tmp_path):
    theirs = _trained("efficientnet_demo", 3)
    left = ("classifier.",) if head else ("classifier.", "conv_head.", "bn2.")
    torch.save({k: x for k, x in theirs.state_dict().items() if not k.startswith(left)}, tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 5)
    report = weights.load(model, tmp_path / "a.pth")
    assert torch.equal(model.blocks[0][0].conv_dw.weight, theirs.blocks[0][0].conv_dw.weight)
    assert torch.equal(model.conv_head.weight, theirs.conv_head.weight) == head
    assert {key for key, _ in report.untouched} >= {"classifier.weight", "classifier.bias"}
    with pytest.raises(WeightsError):
        weights.load(model, tmp_path / "a.pth", num_classes_may_differ=False)


# --- our own ---


def _checkpoint(folder, model, ema=None):
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    if ema is not None:
        save_file(ema.state_dict(), folder / "ema.safetensors")
    (folder / "state.json").write_text(json.dumps({}))
    return folder


@pytest.mark.parametrize("ema", [True, False])
def test_own_checkpoint_folder(ema, tmp_path):
    plain, averaged = _trained("efficientdet_demo", 4), _trained("efficientdet_demo", 4)
    folder = _checkpoint(tmp_path / "step_00000012", plain, averaged)
    model = models.build("efficientdet_demo", 4)
    report = weights.load(model, folder, ema=ema)
    assert report.source == "raydet" and _same(model, averaged if ema else plain)


def test_own_run_folder_takes_the_newest_or_the_picked(tmp_path):
    nets = [_trained("efficientdet_demo", 4) for _ in range(3)]
    for step, net in zip((9, 100, 20), nets, strict=True):
        _checkpoint(tmp_path / "run" / "checkpoints" / f"step_{step}", net)
    model = models.build("efficientdet_demo", 4)
    weights.load(model, tmp_path / "run")
    assert _same(model, nets[1])
    weights.load(model, tmp_path / "run", pick=lambda folders: folders[0])
    assert _same(model, nets[0])


def test_detector_in_a_bare_safetensors_file_is_not_guessed(tmp_path):
    trained = _trained("efficientdet_demo", 4)
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    model = models.build("efficientdet_demo", 4)
    with pytest.raises(WeightsError, match=r"set model\.weights_source to raydet or effdet"):
        weights.load(model, tmp_path / "a.safetensors")
    cfg = override(Config(), {"model.weights": str(tmp_path / "a.safetensors"), "model.weights_source": "raydet"})
    load_weights(cfg, model)
    assert _same(model, trained)
    weights.load(model, tmp_path / "a.safetensors", source="effdet")
    assert not _same(model, trained, "box_net.predict") and _same(model, trained, "class_net")
    save_file(trained.state_dict(), tmp_path / "b.safetensors", metadata={"raydet": "efficientdet_demo"})
    assert weights.load(model, tmp_path / "b.safetensors").source == "raydet"
    assert _same(model, trained)
    with pytest.raises(WeightsError, match="source must be one of raydet, timm"):
        weights.load(model, tmp_path / "a.safetensors", source="google")


# --- what does not fit ---


@pytest.mark.slow
def test_other_number_of_classes_redraws_the_last_layer_only(tmp_path):
    trained = _trained("efficientdet_d0")
    torch.save(_effdet_codes(trained.state_dict()), tmp_path / "a.pth")
    model = models.build("efficientdet_d0", 7)
    with torch.no_grad():
        model.class_net.predict.conv_pw.weight.fill_(5)
        model.class_net.predict.conv_pw.bias.fill_(5)
    report = weights.load(model, tmp_path / "a.pth")
    keys = ["class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"]
    assert report.reinitialised == tuple((key, "90 classes in the file, 7 in the model") for key in keys)
    assert _same(model, trained, "class_net.conv_rep") and _same(model, trained, "box_net")
    assert model.class_net.predict.conv_pw.weight.std() < 0.2
    torch.testing.assert_close(torch.sigmoid(model.class_net.predict.conv_pw.bias), torch.full((63,), 0.01))
    assert "reinitialised" in str(report) and "90 classes" in str(report)
    with pytest.raises(WeightsError, match="2 of another shape"):
        weights.load(model, tmp_path / "a.pth", num_classes_may_differ=False)


def test_other_number_of_classes_of_a_classifier(tmp_path):
    torch.save(_trained("efficientnet_demo", 10).state_dict(), tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 3)
    report = weights.load(model, tmp_path / "a.pth")
    assert [key for key, _ in report.reinitialised] == ["classifier.weight", "classifier.bias"]
    assert model.classifier.weight.abs().max() < 0.06 and not model.classifier.bias.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("efficientnet_b1", "efficientnet_b0", r"does not fit efficientnet_b0: .*fits efficientnet_b1"),
        ("efficientnet_b0", "efficientnet_widese_b0", r"of another shape .*fits efficientnet_b0"),
        ("efficientdet_d1", "efficientdet_d0", r"the file fits efficientdet_d1$"),
        ("tf_efficientdet_d0", "efficientdet_d0", r"unknown .*the file fits tf_efficientdet_d0$"),
    ],
)
def test_wrong_variant_names_the_right_one_and_changes_nothing(file, name, message, tmp_path):
    torch.save(models.build(file).state_dict(), tmp_path / "weights.pth")
    model = models.build(name)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        weights.load(model, tmp_path / "weights.pth")
    assert all(torch.equal(x, before[k]) for k, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("file", "name", "remedy"),
    [
        ("tf_efficientnet_b0_ns-c0e6a31c.pth", "efficientnet_b0", "model.name=tf_efficientnet_b0"),
        ("efficientnet_b0_ra-3dd342df.pth", "tf_efficientnet_b0", "model.name=efficientnet_b0"),
    ],
)
def test_tensorflow_weights_and_pytorch_variants_do_not_mix(file, name, remedy, tmp_path):
    torch.save(models.build("efficientnet_b0").state_dict(), tmp_path / file)
    with pytest.raises(WeightsError, match=remedy):
        weights.load(models.build(name), tmp_path / file)


def test_tensorflow_backbone_for_a_pytorch_detector_is_refused(tmp_path):
    torch.save(models.build("tf_efficientnet_b0").state_dict(), tmp_path / "tf_efficientnet_b0.pth")
    with pytest.raises(WeightsError, match=r"model\.name=tf_efficientdet_d0"):
        weights.load(models.build("efficientdet_d0"), tmp_path / "tf_efficientnet_b0.pth", backbone_only=True)


def test_other_eps_is_noted(tmp_path):
    torch.save(models.build("efficientnet_b0").state_dict(), tmp_path / "efficientnet_b0.pth")
    report = weights.load(models.build("efficientnet_b0", bn_eps=1e-3), tmp_path / "efficientnet_b0.pth")
    assert report.notes == ("the weights were trained with model.bn_eps=1e-05, the model has 0.001",)
    assert "note: the weights" in str(report)


@pytest.mark.parametrize(("prefix", "mean"), [("tf_", 0.5), ("", 0.485)])
def test_the_pixels_that_lite_weights_want_go_with_their_name(prefix, mean, tmp_path):
    # timm and Google train the tf_ ones on pixels of mean and std 0.5.
    trained = _trained(f"{prefix}efficientnet_lite0", 10)
    torch.save(trained.state_dict(), tmp_path / f"{prefix}efficientnet_lite0-0aa007d2.pth")
    model = models.build(f"{prefix}efficientnet_lite0", 10)
    report = weights.load(model, tmp_path / f"{prefix}efficientnet_lite0-0aa007d2.pth")
    assert _same(model, trained) and report.source == "timm"
    assert weights.traits(tmp_path / f"{prefix}efficientnet_lite0-0aa007d2.pth").pixels[0][0] == mean
    assert not report.notes


@pytest.mark.slow
@pytest.mark.parametrize("levels_first", [True, False])
def test_effdets_lite_detector(levels_first, tmp_path):
    trained = _trained("efficientdet_lite0")
    state = _effdet_codes(trained.state_dict())
    if levels_first:  # as effdet builds this variant: 5 levels of 3 repeats, without the name "bn"
        form = re.compile(r"(.+_net\.bn_rep)\.(\d+)\.(\d+)\.bn\.(\w+)")
        state = {form.sub(r"\1.\3.\2.\4", key): value for key, value in state.items()}
    torch.save(state, tmp_path / "efficientdet_lite0.pth")
    model = models.build("efficientdet_lite0")
    assert weights.load(model, tmp_path / "efficientdet_lite0.pth").source == "effdet"
    assert _same(model, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("efficientnet_lite0", "efficientnet_b0", "the file fits efficientnet_lite0, tf_efficientnet_lite0"),
        ("efficientnet_b0", "efficientnet_lite0", "the file fits efficientnet_b0, tf_efficientnet_b0"),
        ("tf_efficientdet_lite0", "tf_efficientdet_d0", "the file fits tf_efficientdet_lite0"),
    ],
)
def test_a_lite_file_and_a_full_model_do_not_mix(file, name, message, tmp_path):
    torch.save(_trained(file).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"{message}(, |$)"):
        weights.load(models.build(name), tmp_path / "a.pth")


def test_lite_weights_of_tensorflow_in_a_pytorch_variant_are_refused(tmp_path):
    torch.save(_trained("tf_efficientnet_lite0").state_dict(), tmp_path / "tf_efficientnet_lite0-0aa007d2.pth")
    with pytest.raises(WeightsError, match=r"set model\.name=tf_efficientnet_lite0"):
        weights.load(models.build("efficientnet_lite0"), tmp_path / "tf_efficientnet_lite0-0aa007d2.pth")


def test_one_missing_key_is_named_and_nothing_is_loaded(tmp_path):
    state = _trained("efficientnet_demo", 3).state_dict()
    del state["blocks.3.0.bn2.weight"]
    torch.save(state, tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 3)
    before = {k: x.clone() for k, x in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing \(blocks.3.0.bn2.weight\)"):
        weights.load(model, tmp_path / "a.pth")
    assert all(torch.equal(x, before[k]) for k, x in model.state_dict().items())


def test_missing_batch_counters_are_no_fault(tmp_path):
    trained = _trained("efficientnet_demo", 3)
    state = {k: x for k, x in trained.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 3)
    weights.load(model, tmp_path / "a.pth")
    assert torch.equal(model.conv_head.weight, trained.conv_head.weight)


def test_nan_is_refused(tmp_path):
    state = _trained("efficientnet_demo", 3).state_dict()
    state["blocks.2.0.bn1.running_var"][0] = torch.nan
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"blocks\.2\.0\.bn1\.running_var holds a NaN"):
        weights.load(models.build("efficientnet_demo", 3), tmp_path / "a.pth")


def test_half_precision_files_are_widened(tmp_path):
    state = {
        k: x.half() if x.is_floating_point() else x for k, x in _trained("efficientnet_demo", 3).state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 3)
    weights.load(model, tmp_path / "a.pth")
    assert torch.equal(model.conv_stem.weight, state["conv_stem.weight"].float())


def test_other_networks_are_refused(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"no EfficientNet .*layer1.0.conv1.weight"):
        weights.load(models.build("efficientnet_demo", 3), tmp_path / "resnet.pth")
