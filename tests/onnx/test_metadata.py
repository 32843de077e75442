"""What an exported file says of itself: whole after a round trip, readable by others, checked when it is read."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from raydet.config import Precision, Scaling, override
from raydet.data.loading.single import single
from raydet.exceptions import CheckpointError, ConfigError
from raydet.models.anchors import make_anchors
from raydet.onnx import metadata
from raydet.onnx.postprocess import DETECTIONS
from raydet.recipes import recipe
from tests.onnx.graphs import CLASSES, SIDE, about, classifier, detector

PATH = Path("some.onnx")


def texts(model: onnx.ModelProto) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def edited(model: onnx.ModelProto, key: str, change: Callable[[Any], Any]) -> onnx.ModelProto:
    for entry in model.metadata_props:
        if entry.key == f"raydet.{key}":
            entry.value = json.dumps(change(json.loads(entry.value)))
    return model


def told(task: str = "classification") -> onnx.ModelProto:
    model = classifier() if task == "classification" else detector()
    metadata.write(model, about(task))
    return model


@pytest.mark.parametrize("task", ["classification", "detection"])
@pytest.mark.parametrize("quantization", [{}, {"quantization.bits": 8, "quantization.skip": ("stem",)}])
def test_what_is_written_is_read(task: str, quantization: dict[str, Any]) -> None:
    given = about(task)
    given = metadata.Metadata(
        override(
            given.cfg, {"quantization": None if quantization is None else {"calibration": "max", "skip": ["stem"]}}
        ),
        ["", "a b", "\u00fc\U0001f600"] * 2,
        [7, 1, 3, 90, 2, 8],
        "tensorrt",
        given.outputs,
        given.anchors,
        "runs/\u00fc b",
    )
    model = classifier()
    metadata.write(model, given)
    again = onnx.ModelProto.FromString(model.SerializeToString())
    assert metadata.read(again, PATH) == given


def test_a_reader_without_raydet_finds_how_to_feed_the_graph() -> None:
    values = texts(told("detection"))
    pre = values["raydet.preprocessing"]
    assert (pre["input"], pre["layout"], pre["channels"], pre["size_hw"]) == ("images", "NCHW", "RGB", [SIDE, SIDE])
    assert pre["mean"] == [0.485, 0.456, 0.406] and pre["std"] == [0.229, 0.224, 0.225]
    assert pre["resize"]["how"] == "letterbox" and pre["resize"]["fill_rgb"] == [124, 116, 104]
    assert values["raydet.classes"]["ids"] == list(range(CLASSES)) and set(values["raydet.outputs"]) == {
        "logits",
        "codes",
    }
    assert texts(told())["raydet.preprocessing"]["resize"]["short_side"] == SIDE + about().cfg.augment.eval_margin


def test_writing_again_replaces_and_leaves_what_others_wrote() -> None:
    model = told()
    entry = model.metadata_props.add()
    entry.key, entry.value = "owner", "me"
    metadata.write(model, about(outputs=("logits",)))
    keys = [entry.key for entry in model.metadata_props]
    assert len(keys) == len(set(keys)) and "owner" in keys


def test_the_machine_that_trained_stays_behind() -> None:
    trained = override(
        recipe("efficientdet_d0_coco"),
        {"scaling.use_gpu": True, "precision.mode": "fp16", "data.backend": "dali-gpu", "scaling.num_workers": 8},
    )
    cfg = metadata.portable(trained)
    assert (cfg.scaling, cfg.precision, cfg.data.backend) == (Scaling(), Precision(), "torch")
    assert (cfg.model, cfg.evaluation, cfg.augment) == (trained.model, trained.evaluation, trained.augment)


def test_a_file_of_another_maker_is_told_from_a_damaged_one() -> None:
    with pytest.raises(CheckpointError, match="was not written by `raydet export`"):
        metadata.read(classifier(), PATH)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("format", lambda v: 2, "format 2, this raydet reads 1; use a newer raydet"),
        ("format", lambda v: None, "format None"),
        ("config", lambda v: [], "config must be dict"),
        ("config", lambda v: v | {"format": 99}, "format 99"),
        ("config", lambda v: v | {"optim": {"lrr": 1}}, r"optim\.lrr"),
        ("config", lambda v: v | {"model": v["model"] | {"image_size": None}}, "image_size"),
        ("classes", lambda v: {"names": ["a"], "ids": [1, 2]}, "1 class names and 2 ids"),
        ("classes", lambda v: {"names": [], "ids": []}, "0 class names"),
        ("classes", lambda v: {"names": [1], "ids": [1]}, "a class's name must be str"),
        ("classes", lambda v: {"names": ["a"], "ids": [True]}, "a class's id must be int"),
        ("classes", lambda v: {"names": ["a"]}, "lacks raydet.ids"),
        ("target", lambda v: "tensorr", "did you mean tensorrt"),
        ("target", lambda v: ["tensorrt"], "target must be str"),
        ("outputs", lambda v: {"logits": ""}, "outputs"),
        ("outputs", lambda v: 3, "outputs must be dict"),
        ("preprocessing", lambda v: v | {"mean": [0, 0, 0]}, "preprocessing.mean"),
        ("preprocessing", lambda v: v | {"size_hw": [64, 64]}, "preprocessing.size_hw"),
        ("anchors", lambda v: v | {"min_level": 0}, "anchors of levels 0"),
        ("anchors", lambda v: v | {"max_level": 60}, "anchors of levels"),
        ("anchors", lambda v: v | {"anchor_scale": float("nan")}, "anchors of levels"),
        ("anchors", lambda v: v | {"anchor_scale": "4"}, "anchors of levels"),
        ("source", lambda v: None, "source must be str"),
    ],
)
def test_what_cannot_be_is_refused_and_named(key: str, change: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        metadata.read(edited(told("detection"), key, change), PATH)
    assert str(PATH) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "nan", '"x', "[" * 100_000, "1e999999", "{}", "\x00"])
def test_text_that_is_no_such_json_is_refused(text: str) -> None:
    for key in ("config", "classes", "outputs", "anchors"):
        model = told("detection")
        for entry in model.metadata_props:
            if entry.key == f"raydet.{key}":
                entry.value = text
        with pytest.raises(CheckpointError, match=r"some\.onnx"):
            metadata.read(model, PATH)


def test_more_metadata_than_there_can_be_is_refused() -> None:
    model = told()
    entry = model.metadata_props.add()
    entry.key, entry.value = "raydet.more", '"' + "x" * 16_000_000 + '"'
    with pytest.raises(CheckpointError, match="16000000"):
        metadata.read(model, PATH)


@pytest.mark.parametrize("key", ["format", "config", "classes", "target", "outputs", "preprocessing", "source"])
def test_metadata_without_a_part_are_refused(key: str) -> None:
    model = told()
    kept = [entry for entry in model.metadata_props if entry.key != f"raydet.{key}"]
    assert len(kept) < len(model.metadata_props)
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with pytest.raises(CheckpointError, match=rf"raydet\.{key}|not written by"):
        metadata.read(model, PATH)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model.image_size": 64}, "model.image_size"),
        ({"model": {"name": "efficientdet_d0"}}, "model.name"),
        ({"quantization.bits": 8}, "quantization"),
        ({"precision.mode": "bf16"}, "precision.mode"),
    ],
)
def test_what_the_graph_holds_cannot_change(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\S* cannot change: it is fixed in some\.onnx; export"):
        metadata.changed(about("detection"), changes, PATH)


def test_a_file_in_integers_cannot_be_made_one_in_floats() -> None:
    kept = about("detection")
    integers = replace(kept, cfg=override(kept.cfg, {"quantization.bits": 8}))
    with pytest.raises(ConfigError, match=r"quantization\S* cannot change"):
        metadata.changed(integers, {"quantization": None}, PATH)


def test_what_is_around_the_graph_can_change() -> None:
    changes = {"data.root": "/d", "evaluation.nms_iou": 0.6, "precision.ops": "torch", "model.image_size": SIDE}
    cfg = metadata.changed(about("detection"), changes, PATH)
    assert (cfg.data.root, cfg.evaluation.nms_iou, cfg.precision.ops) == ("/d", 0.6, "torch")


def test_thresholds_within_the_graph_cannot_change() -> None:
    detecting = about("detection", outputs=(DETECTIONS,))
    values = {"score_threshold": 1.0, "top_k": 1, "nms_iou": 1.0, "max_detections": 1, "soft_nms_sigma": 1.0}
    for name, value in {**values, "class_agnostic_nms": True}.items():
        with pytest.raises(ConfigError, match=rf"evaluation\.{name} cannot change"):
            metadata.changed(detecting, {f"evaluation.{name}": value}, PATH)
    assert metadata.changed(detecting, {"evaluation.backend": "pycocotools"}, PATH).evaluation.backend == "pycocotools"


def test_a_reader_without_raydet_finds_the_input_by_the_rule_that_is_told(tmp_path: Path) -> None:
    """65 x 200 pixels: the short side and the window have fractions, where rounding shows."""
    pixels_HW3 = np.random.default_rng(0).integers(0, 256, (65, 200, 3), np.uint8)
    Image.fromarray(pixels_HW3).save(tmp_path / "a.png")
    kept = about("classification")
    cfg = override(kept.cfg, {"augment.eval_margin": 10})
    resize, size = metadata.preprocessing(cfg)["resize"], metadata.preprocessing(cfg)["size_hw"][0]
    short = resize["short_side"]
    whole_hw = (short, short * 200 // 65)
    top, left = ((side - size) // 2 for side in whole_hw)
    y, x = 65 / whole_hw[0], 200 / whole_hw[1]
    window = (left * x, top * y, (left + size) * x, (top + size) * y)
    wanted = Image.fromarray(pixels_HW3).resize((size, size), Image.Resampling.BILINEAR, box=window)
    found = single(cfg, tmp_path / "a.png")[0].images_B3HW[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - np.asarray(wanted, int)).max() <= 1


def test_a_reader_without_raydet_finds_the_anchors_by_the_rule_that_is_told() -> None:
    values = json.loads(next(p.value for p in told("detection").metadata_props if p.key == "raydet.anchors"))
    boxes = []
    for level in range(values["min_level"], values["max_level"] + 1):
        stride = 2**level
        cells, sizes = range(SIDE // stride), range(values["scales_per_octave"])
        for row, column, i, aspect in itertools.product(cells, cells, sizes, values["aspects_wh"]):
            side = values["anchor_scale"] * stride * 2 ** (i / values["scales_per_octave"])
            half = [side * factor / 2 for factor in aspect]
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            boxes.append([x - half[0], y - half[1], x + half[0], y + half[1]])
    ours = make_anchors((SIDE, SIDE), values["min_level"], values["max_level"], values["anchor_scale"])
    assert np.allclose(boxes, ours.numpy(), atol=1e-4)
