"""Ranges of fake-quantizers: whose files fit which model, and what stands in a model that got none."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from raydet import models
from raydet.config import Quantization
from raydet.exceptions import CheckpointMismatch, WeightsError
from raydet.models import weights
from raydet.models.efficientnet import EfficientNet
from raydet.models.efficientnet_variants import VARIANTS, EfficientNetVariant

pytest.importorskip("pytorch_quantization")

from raydet.quantization import calibrate, quantize, quantizers

SMALL = EfficientNetVariant(width=0.25, depth=0.5, image_size=64, dropout=0.2)
"""With two blocks in three of its stages, so with shortcuts."""


def _quantized(name="efficientnet_demo", classes=3, skip=(), **fields):
    model = models.build(name, classes, **fields)
    quantize(model, Quantization(skip=skip))
    return model


def _ranges(model):
    return {key: x for key, x in model.state_dict().items() if key.endswith("._amax")}


def _ranged(name="efficientnet_demo", classes=3, skip=()):
    """A quantized model whose every range, gates included, is a random number of its own."""
    model = _quantized(name, classes, skip)
    for x in _ranges(model).values():
        x.uniform_(0.5, 2)
    return model


def _fixed(key):
    return key.endswith("gate_quantizer._amax")


def _same(model, other, keys=None):
    ours, theirs = model.state_dict(), other.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in (ours if keys is None else keys))


def _snapshot(model):
    return {key: x.clone() for key, x in model.state_dict().items()}


def _unchanged(model, before):
    return all(torch.equal(x.nan_to_num(-1), before[key].nan_to_num(-1)) for key, x in model.state_dict().items())


def _folder(folder, **files):
    """A checkpoint's folder as a run leaves it."""
    folder.mkdir(parents=True)
    for stem, model in files.items():
        save_file(model.state_dict(), folder / f"{stem}.safetensors")
    (folder / "state.json").write_text(json.dumps({}))
    return folder


# --- NVIDIA's ---


@pytest.fixture(scope="module")
def nvidia():
    """NVIDIA's net, calibrated, with images and its logits of them."""
    from tests.models.nvidia_qat import calibrated

    torch.manual_seed(0)
    net = calibrated(SMALL, 10, [torch.randn(8, 3, 64, 64) for _ in range(2)])
    images_B3HW = torch.randn(16, 3, 64, 64)
    with torch.no_grad():
        return net.state_dict(), images_B3HW, net(images_B3HW)


def _layout(state, layout):
    if layout == "training":
        wrapped = {f"module.{key}": x for key, x in state.items()}
        return {"epoch": 10, "best_prec1": 77.0, "state_dict": wrapped, "optimizer": {}}
    if layout == "ngc":
        parts = [(key.split("."), x) for key, x in state.items()]
        return {".".join([f"layer{int(p[1]) + 1}", *p[2:]] if p[0] == "layers" else p): x for p, x in parts}
    if layout == "linear":  # squeeze-excite of linear layers, as in its float files
        ours = {key: x.flatten(1) if ".se." in key and x.dim() == 4 else x for key, x in state.items()}
        assert any(key.endswith("_amax") and x.dim() == 2 for key, x in ours.items() if ".se." in key)
        return ours
    return state


@pytest.mark.slow
@pytest.mark.parametrize("layout", [pytest.param("flat", marks=pytest.mark.soak), "training", "ngc", "linear"])
def test_nvidias_quantized_checkpoint_gives_its_logits(layout, nvidia, tmp_path):
    state, images_B3HW, wanted_BC = nvidia
    torch.save(_layout(state, layout), tmp_path / "nvidia-efficientnet-quant.pth")
    model = EfficientNet(SMALL, 10, bn_eps=1e-3)
    quantize(model, Quantization())
    report = weights.load(model, tmp_path / "nvidia-efficientnet-quant.pth")
    with torch.no_grad():
        logits_BC = model.eval()(images_B3HW)
    assert wanted_BC.std() > 0.3  # else all nets agree
    torch.testing.assert_close(logits_BC, wanted_BC, atol=1e-5, rtol=1e-5)
    assert report.source == "nvidia classification" and report.ranges == len(quantizers(model)) > 130
    assert not report.notes and not report.skipped
    assert f"{len(report.loaded)} tensors and {report.ranges} ranges loaded" in str(report)


@pytest.mark.slow
def test_the_quantizers_are_seen_in_nvidias_logits(nvidia, tmp_path):
    # Else the test above would pass with every range in the wrong place.
    state, images_B3HW, wanted_BC = nvidia
    model = EfficientNet(SMALL, 10, bn_eps=1e-3)
    quantize(model.eval(), Quantization())
    for key in [key for key in state if key.endswith(("mul_a_quantizer._amax", "residual_quantizer._amax"))]:
        torch.save(state | {key: state[key] * 0.5}, tmp_path / "a.pth")
        weights.load(model, tmp_path / "a.pth")
        with torch.no_grad():
            assert (model(images_B3HW[:8]) - wanted_BC[:8]).abs().max() > 1e-3, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_demo", pytest.param("efficientnet_b0", marks=pytest.mark.soak)])
def test_nvidias_quantized_checkpoint_is_scored_by_name_and_its_ranges_are_not_sought_anew(name, tmp_path):
    from raydet.inference.trained_model import open_source
    from tests.models.nvidia_qat import calibrated

    images_B3HW = torch.randn(4, 3, 64, 64)
    net = calibrated(VARIANTS[name], 10, [images_B3HW, torch.randn(4, 3, 64, 64)])
    torch.save({"epoch": 1, "state_dict": net.state_dict()}, tmp_path / "model_best.pth.tar")
    changes = {"model.weights": str(tmp_path / "model_best.pth.tar"), "model.num_classes": 10, "model.bn_eps": 1e-3}
    # Looking for ranges would need a data set, and there is none at this root.
    changes |= {"model.name": name, "data.root": str(tmp_path / "none")}
    model = open_source("demo_classification_qat", changes).model
    with torch.no_grad():
        torch.testing.assert_close(model(images_B3HW), net(images_B3HW), atol=1e-5, rtol=1e-5)


# --- our own ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_demo", "efficientdet_demo"])
@pytest.mark.parametrize("ema", [True, False])
def test_a_checkpoint_of_a_quantized_run_comes_back_whole(name, ema, tmp_path):
    plain, averaged = _ranged(name), _ranged(name)
    folder = _folder(tmp_path / "step_00000012", model=plain, ema=averaged)
    model = _quantized(name)
    report = weights.load(model, folder, ema=ema)
    assert _same(model, averaged if ema else plain)
    assert report.ranges == len(quantizers(model)) and not report.notes and not report.untouched


@pytest.mark.slow
def test_ranges_go_from_one_library_to_the_other(tmp_path):
    theirs = _ranged()
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    model = models.build("efficientnet_demo", 3)
    quantize(model, Quantization(backend="modelopt"))
    assert weights.load(model, tmp_path / "a.pth").ranges == len(quantizers(theirs)) and _same(model, theirs)


def test_names_of_the_librarys_own_layers_are_understood(tmp_path):
    theirs = _ranged(skip=("se", "pool"))
    state = {
        key.replace("input_quantizer", "_input_quantizer").replace("weight_quantizer", "_weight_quantizer"): x
        for key, x in theirs.state_dict().items()
    }
    torch.save(state, tmp_path / "timm_qat.pth")
    model = _quantized(skip=("se", "pool"))
    weights.load(model, tmp_path / "timm_qat.pth")
    assert _same(model, theirs)


@pytest.mark.slow
def test_rows_of_a_detectors_box_codes_and_their_ranges_stay_together(tmp_path):
    theirs = _ranged("efficientdet_demo")
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    model = _quantized("efficientdet_demo")
    weights.load(model, tmp_path / "a.safetensors", source="effdet")
    for leaf in ("weight", "weight_quantizer._amax"):
        key = f"box_net.predict.conv_pw.{leaf}"
        ours, given = model.state_dict()[key].unflatten(0, (-1, 4)), theirs.state_dict()[key].unflatten(0, (-1, 4))
        assert torch.equal(ours[:, 0], given[:, 1]) and torch.equal(ours[:, 3], given[:, 2])


# --- one side has none ---


@pytest.mark.parametrize("name", ["efficientnet_demo", "efficientdet_demo"])
def test_a_float_file_leaves_a_quantized_model_to_be_calibrated(name, tmp_path):
    trained = models.build(name, 3)
    folder = _folder(tmp_path / "step_1", model=trained)
    model = _quantized(name)
    report = weights.load(model, folder)
    assert _same(model, trained, trained.state_dict())
    gates = sum(map(_fixed, _ranges(model)))
    assert all(torch.isnan(x).all() or _fixed(key) for key, x in _ranges(model).items()) and gates
    assert report.ranges == 0 and not report.skipped
    count = len(quantizers(model))
    assert f"{count - gates} of the model's {count} quantizers have no range yet; calibration finds them" in str(report)


def test_ranges_of_other_weights_do_not_stay_beside_new_ones(tmp_path):
    folder = _folder(tmp_path / "step_1", model=models.build("efficientnet_demo", 3))
    model = _ranged()
    weights.load(model, folder)
    assert all(torch.isnan(x).all() or _fixed(key) for key, x in _ranges(model).items())


def test_a_float_model_takes_the_weights_of_a_quantized_one_and_says_so(tmp_path):
    theirs = _ranged()
    folder = _folder(tmp_path / "step_1", model=theirs)
    model = models.build("efficientnet_demo", 3)
    report = weights.load(model, folder)
    assert _same(theirs, model, model.state_dict())
    count = len(quantizers(theirs))
    assert report.ranges == 0 and len(report.skipped) == count
    assert any(
        f"ranges for {count} quantizers" in note and "_qat recipe" in note and "--quantization.bits 8" in note
        for note in report.notes
    )


# --- parts ---


@pytest.mark.slow
def test_a_quantized_classifiers_backbone_brings_its_ranges_into_a_detector(tmp_path):
    theirs = _ranged()
    folder = _folder(tmp_path / "step_1", model=theirs)
    model = _quantized("efficientdet_demo")
    report = weights.load(model, folder, backbone_only=True)
    ranges = _ranges(model)
    inner = {key: x for key, x in ranges.items() if key.startswith("backbone.")}
    assert all(torch.equal(x, theirs.state_dict()[key.removeprefix("backbone.")]) for key, x in inner.items())
    assert all(torch.isnan(x).all() for key, x in ranges.items() if key not in inner)
    assert report.ranges == len(inner)
    assert any(f"{len(ranges) - len(inner)} of the model's {len(ranges)} quantizers" in note for note in report.notes)
    assert "pool.input_quantizer._amax" in dict(report.skipped)


def test_a_float_backbone_goes_into_a_quantized_detector(tmp_path):
    theirs = models.build("efficientnet_demo", 3)
    folder = _folder(tmp_path / "step_1", model=theirs)
    model = _quantized("efficientdet_demo")
    assert weights.load(model, folder, backbone_only=True).ranges == 0
    assert torch.equal(model.backbone.conv_stem.weight, theirs.conv_stem.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"), [("efficientnet_demo", "classifier"), ("efficientdet_demo", "class_net.predict.conv_pw")]
)
def test_a_last_layer_drawn_anew_has_no_range_for_its_weights(name, head, tmp_path):
    folder = _folder(tmp_path / "step_1", model=_ranged(name, 5))
    model = _quantized(name, 3)
    report = weights.load(model, folder)
    empty = {key for key, x in _ranges(model).items() if torch.isnan(x).any()}
    assert empty == {f"{head}.weight_quantizer._amax"}
    assert report.ranges == len(quantizers(model)) - 1 and report.reinitialised
    assert any("1 of the model's" in note for note in report.notes)
    with torch.no_grad():
        calibrate(model, [torch.randn(2, 3, 128, 128)], Quantization())
    assert not any(torch.isnan(x).any() for x in _ranges(model).values())


# --- what does not fit ---


@pytest.mark.parametrize(
    ("file_skips", "model_skips", "message"),
    [
        ((), ("se",), r"\(unknown: blocks\.0\.0\.se\.conv_expand\.input_quantizer, .*, \.\.\.\)"),
        (("stem",), (), r"\(missing: conv_stem\.input_quantizer, conv_stem\.weight_quantizer\); .*quantization\.skip"),
        (("stem",), ("classifier",), r"\(missing: conv_stem.*; unknown: classifier\.input_quantizer, "),
    ],
)
def test_quantizers_elsewhere_are_refused_with_their_names(file_skips, model_skips, message, tmp_path):
    theirs, model = _ranged(skip=file_skips), _quantized(skip=model_skips)
    folder = _folder(tmp_path / "step_1", model=theirs)
    before = _snapshot(model)
    count = rf"checkpoint holds ranges for {len(quantizers(theirs))} quantizers, model has {len(quantizers(model))} \("
    with pytest.raises(CheckpointMismatch, match=count) as caught:
        weights.load(model, folder)
    assert caught.match(message) and isinstance(caught.value, WeightsError)
    assert _unchanged(model, before)


def test_a_range_of_another_size_is_refused(tmp_path):
    state = _ranged().state_dict()
    state["conv_stem.weight_quantizer._amax"] = torch.ones(())  # of the whole tensor
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatch, match=r"of another size: conv_stem\.weight_quantizer 1, 16 wanted"):
        weights.load(_quantized(), tmp_path / "a.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["blocks.2.0.conv_dw.input_quantizer._amax", "blocks.2.0.conv_dw.weight_quantizer._amax"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_a_range_that_is_none_is_refused(value, key, tmp_path):
    theirs, model = _ranged(), _quantized()
    _ranges(theirs)[key].flatten()[-1].fill_(value)
    folder = _folder(tmp_path / "step_1", model=theirs)
    before = _snapshot(model)
    if value == 0 and "weight" in key:  # of a channel without weights, which calibration gives the least range
        weights.load(model, folder)
        assert _ranges(model)[key].min() == torch.tensor(1e-6)
        return
    with pytest.raises(
        WeightsError, match=rf"range of {key.removesuffix('._amax')} is .*, it must be a number above 0"
    ):
        weights.load(model, folder)
    assert _unchanged(model, before)


def test_the_wrong_variant_is_named_before_its_ranges_are_looked_at(tmp_path):
    torch.save(_ranged().state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="the file fits efficientnet_demo"):
        weights.load(_quantized("efficientnet_b0"), tmp_path / "a.pth")
