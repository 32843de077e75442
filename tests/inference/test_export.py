"""`raydet export`: the file answers as the model does, or is not there; what cannot be exported is said at the door."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import raydet
from raydet.cli import main as cli
from raydet.config import Config, override
from raydet.data import DetectionIndex, EvalLoader, open_split
from raydet.exceptions import ConfigError, DataError, ExportError
from raydet.inference import export as exporting
from raydet.inference.agreement import Agreement
from raydet.inference.predict import Classes, Detections
from raydet.inference.trained_model import open_source
from raydet.models import EfficientDet
from raydet.onnx import metadata, onnx_model, onnxruntime_int8, saturation
from raydet.runs import writers
from raydet.tasks.build import make_task
from raydet.tasks.detection import Detection
from raydet.training.state import build_model, resolve_model
from tests.onnx import arithmetic

SIDE = {"classification": 64, "detection": 128}
Changes = dict[str, Any]
OTHERS = (("tensorrt", False), ("onnxruntime", False), ("tensorrt", True))
"""Files that detect, besides the quantized one for ONNX Runtime."""


@torch.no_grad()
def lively(model: nn.Module, images_B3HW: torch.Tensor) -> nn.Module:
    """Give a random net BatchNorm statistics, and outputs that tell these images apart."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None
    for _ in range(3):  # the statistics of a layer follow from those before it
        model.train()(images_B3HW)
    if isinstance(model, EfficientDet):
        for head, size, bias in ((model.class_net, 0.5, -3.0), (model.box_net, 0.2, 0.0)):
            spread_to(head.predict.conv_pw, model.eval()(images_B3HW)[head is model.box_net], size, bias)
    else:
        logits_BC = model.eval()(images_B3HW)
        spread_to(model.classifier, logits_BC - logits_BC.mean(0), 2.0, 0.0)
        model.classifier.bias.sub_(model(images_B3HW).mean(0))
    return model


def spread_to(layer: Any, outputs: torch.Tensor, size: float, bias: float) -> None:
    layer.weight.mul_(size / outputs.std())
    layer.bias.fill_(bias)


def weights_of(cfg: Config, folder: Path) -> Changes:
    """Write weights; return what turns the recipe into them."""
    side = SIDE[cfg.task]
    cfg = resolve_model(override(cfg, {"model.image_size": side, "model.num_classes": 10, "data.workers": 0}))
    model, path = build_model(cfg, 10), folder / f"{cfg.task}.pth"
    batch = next(iter(EvalLoader(override(cfg, {"data.batch_size": 60}), open_split(cfg, "train"))))
    images_B3HW = make_task(cfg, model, torch.device("cpu")).inputs(batch)
    lively(model, images_B3HW)
    torch.save(model.state_dict(), path)
    return {
        "model.weights": str(path),
        "model.num_classes": 10,
        "model.image_size": side,
        "data.root": cfg.data.root,
        "data.workers": 0,
        "data.batch_size": 8,
    }


@pytest.fixture(scope="module")
def classifier(toy_classification: Path, tmp_path_factory: pytest.TempPathFactory) -> Changes:
    cfg = override(raydet.recipe("demo_classification"), {"data.root": str(toy_classification)})
    return weights_of(cfg, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def detector(toy_detection: Path, tmp_path_factory: pytest.TempPathFactory) -> Changes:
    cfg = override(raydet.recipe("demo_detection"), {"data.root": str(toy_detection)})
    return weights_of(cfg, tmp_path_factory.mktemp("detector"))


def export(changes: Changes, out: Path, *, task: str = "classification", **how: Any) -> exporting.ExportReport:
    return raydet.export(f"demo_{task}", out, changes, **({"stream": StringIO()} | how))


@pytest.fixture(scope="module")
def exported(classifier: Changes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float classifier's file."""
    path = tmp_path_factory.mktemp("exported") / "x.onnx"
    export(classifier, path, target="tensorrt")
    return path


# --- a file answers as its model does


@pytest.mark.slow
def test_evaluate_and_predict_answer_as_before(
    exported: Path, classifier: Changes, toy_classification: Path, tmp_path: Path
) -> None:
    ours, theirs = raydet.evaluate("demo_classification", classifier), raydet.evaluate(exported)
    for name in ("top1", "top5", "eval_loss"):
        assert theirs[name] == pytest.approx(ours[name], abs=1e-5), name
    assert 0 < theirs["top5"] <= 1
    images = sorted((toy_classification / "val").rglob("*.jpg"))[:3]
    for one, other in zip(
        raydet.predict("demo_classification", images, classifier), raydet.predict(exported, images), strict=True
    ):
        assert isinstance(one, Classes) and isinstance(other, Classes) and one.names == other.names
        np.testing.assert_allclose(one.probabilities_K, other.probabilities_K, atol=1e-4)


def test_the_report_says_size_agreement_images_and_the_line_for_tensorrt(classifier: Changes, tmp_path: Path) -> None:
    stream, out = StringIO(), tmp_path / "a b.onnx"
    report = export(classifier, out, target="tensorrt", images=10, stream=stream)
    figures = report.figures()
    assert figures["file"] == str(out) and figures["megabytes"] == out.stat().st_size / 1e6
    assert figures["ratio_to_float"] == 1 and figures["argmax_agreement"] == 1 and figures["relative_rms"] < 1e-4
    assert "10 images" in figures["checked_on"] and "10 images" in stream.getvalue()
    assert "float_operators" not in figures
    assert f"'--onnx={out}'" in figures["trtexec"] and "--maxShapes=images:32x3x64x64" in figures["trtexec"]
    assert "--int8" not in figures["trtexec"]
    assert not [path for path in tmp_path.iterdir() if path != out]


def test_the_file_names_its_classes_and_its_source(exported: Path, classifier: Changes) -> None:
    texts = {entry.key: entry.value for entry in onnx.load(str(exported)).metadata_props}
    assert json.loads(texts["raydet.classes"])["ids"] == list(range(10))
    assert json.loads(texts["raydet.source"]) == "demo_classification"
    assert json.loads(texts["raydet.config"])["model"]["weights"] == classifier["model.weights"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a quantized file for TensorRT")
@pytest.mark.parametrize(
    ("target", "quantized"),
    [
        ("onnxruntime", True),
        *(pytest.param(*pair, marks=pytest.mark.soak) for pair in OTHERS),
    ],
)
def test_a_file_that_detects_finds_what_the_task_finds(
    detector: Changes, toy_detection: Path, tmp_path: Path, target: str, quantized: bool
) -> None:
    """Boxes and scores of its own graph without detection, by task.detect; AP follows."""
    changes = detector | {"evaluation.top_k": 2000, "evaluation.score_threshold": 0.05}
    changes |= {"quantization.calibration": "max", "quantization.batches": 2} if quantized else {}
    for nms in (False, True):
        report = export(changes, tmp_path / f"{nms}.onnx", task="detection", target=target, nms=nms)
        assert report.ratio < 0.6 if quantized else report.ratio == 1
    plain, detecting = (open_source(tmp_path / f"{nms}.onnx", {"data.batch_size": 25}) for nms in (False, True))
    task = make_task(plain.cfg, plain.model, torch.device("cpu"))
    assert isinstance(task, Detection)
    seen = alone = 0
    for split in ("train", "val"):
        for batch in EvalLoader(plain.cfg, open_split(plain.cfg, split)):  # type: ignore[arg-type]
            inputs = task.inputs(batch)
            ours, theirs = task.detect(plain.model(inputs)), task.detect(detecting.model(inputs))
            for one, other in zip(ours, theirs, strict=True):
                apart = (one.boxes_K4[:, None] - other.boxes_K4).abs().amax(2) > 0.5
                apart |= (one.scores_K[:, None] - other.scores_K).abs() > 1e-3
                apart |= one.classes_K[:, None] != other.classes_K
                assert len(one.scores_K) == len(other.scores_K) > 0
                seen, alone = seen + len(one.scores_K), alone + int(apart.all(0).sum() + apart.all(1).sum())
    # Of a quantized net two graphs of other shape may round a tie differently, now and then.
    assert seen > 1000 and alone <= (seen * 0.01 if quantized else 0)
    first, second = (raydet.evaluate(tmp_path / f"{nms}.onnx") for nms in (False, True))
    assert second["AP"] == pytest.approx(first["AP"], abs=1e-3) and "eval_loss" not in second  # it has no logits
    image = sorted((toy_detection / "val").glob("*.jpg"))[0]
    (answer,) = raydet.predict(tmp_path / "True.onnx", [image], score_threshold=0.0)
    assert isinstance(answer, Detections) and len(answer.scores_K) > 0 and (np.diff(answer.scores_K) <= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("target", [pytest.param("tensorrt", marks=pytest.mark.soak), "onnxruntime"])
def test_a_quantized_classifier_is_small_and_says_what_it_is(
    classifier: Changes, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How near its answers are, tests of raydet.onnx.targets say; those of a random net turn on rounding."""
    monkeypatch.setitem(exporting.LEAST_ARGMAX, target, 0.2)
    changes = classifier | {"quantization.calibration": "max", "quantization.batches": 4}
    report = export(changes, tmp_path / "x.onnx", target=target)
    figures = report.figures()
    assert report.ratio < 0.4 and 0 < figures["relative_rms"] < 1 and figures["argmax_agreement"] < 1
    assert ("float_operators" in figures) == (target == "onnxruntime")
    assert ("--int8" in figures.get("trtexec", "")) == (target == "tensorrt")
    assert "Conv" not in figures.get("float_operators", "")
    assert ("argmax_agreement_on_this_cpu" in figures) == (target == "onnxruntime")
    if target == "onnxruntime":
        monkeypatch.setattr(saturation, "saturates", lambda: True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is right on any CPU
            found = raydet.evaluate(tmp_path / "x.onnx")
    else:
        with pytest.warns(RuntimeWarning, match="expect it slower than fp32"):
            found = raydet.evaluate(tmp_path / "x.onnx")
    assert found["top5"] > 0
    assert metadata.read(onnx.load(str(tmp_path / "x.onnx")), tmp_path).cfg.quantization is not None


# --- a file that is right, and a CPU that does not run it as it is written


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU saturates, whatever it is, and weights are not fitted to that: a file of before."""
    opened = onnx_model.open_session

    def emulated(data: bytes, path: Path, *, unfused: bool = False, **how: Any) -> Any:
        real = opened(data, path, unfused=unfused, **how)
        return real if unfused else arithmetic.Session(data, real, vnni=False)

    monkeypatch.setattr(onnx_model, "open_session", emulated)
    monkeypatch.setattr(saturation, "saturates", lambda: True)
    monkeypatch.setattr(onnxruntime_int8, "fit_weights", lambda graph, grams: None)


@pytest.mark.slow
def test_a_cpu_that_saturates_is_told_from_a_wrong_file(
    classifier: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_vnni: None
) -> None:
    compare = exporting.compare

    def compared(*how: Any) -> list[Agreement]:
        """A random net's answers turn on rounding: the bar is put between the two."""
        exact, here = compare(*how)
        bar = (exact.differing + here.differing) / 2 / exact.images  # with its standard deviation
        expected = bar * exact.images + 0.5 - math.sqrt(bar * exact.images + 0.25)
        monkeypatch.setitem(exporting.LEAST_ARGMAX, "onnxruntime", 1 - expected / exact.images)
        return [exact, here]

    monkeypatch.setattr(exporting, "compare", compared)
    changes = classifier | {"quantization.calibration": "max", "quantization.batches": 2}
    told = r"x\.onnx is right, but not as this CPU runs it: argmax agreement .* saturate in \d+ layers; run it on a CPU"
    with pytest.warns(RuntimeWarning, match=told):
        report = export(changes, tmp_path / "x.onnx", images=60)
    figures = report.figures()
    assert figures["argmax_agreement"] > figures["argmax_agreement_on_this_cpu"]
    assert figures["relative_rms_on_this_cpu"] > 1.5 * figures["relative_rms"]
    texts = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "x.onnx")).metadata_props}
    assert json.loads(texts["raydet.arithmetic"])["bits_of_two_products"] == 32
    with pytest.warns(RuntimeWarning, match=r"x\.onnx needs a CPU with VNNI: .* saturate in \d+ layers .* export the"):
        open_source(tmp_path / "x.onnx", {})
    monkeypatch.setattr(saturation, "saturates", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_source(tmp_path / "x.onnx", {})


# --- a file that does not answer so, or cannot be written, is not there


def agreement(**changes: Any) -> Agreement:
    base = Agreement(images=100, rms=0.01, differing=0, ap=None, ap_chance=0.0, made_up=False)
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        (agreement(differing=1), "tensorrt", None),
        (agreement(differing=2), "tensorrt", None),
        (agreement(differing=3), "tensorrt", "argmax agreement 97.0 % < 99 % on 100 images"),
        (agreement(differing=3), "float", "argmax agreement 97.0 % < 99 %"),
        (agreement(differing=3), "onnxruntime", None),
        (agreement(differing=4), "onnxruntime", "argmax agreement 96.0 % < 98 %"),
        (agreement(images=10000, differing=215), "onnxruntime", "argmax agreement 97.9 % < 98 %"),
        (agreement(images=10, differing=1), "tensorrt", "argmax agreement 90.0 % < 99 %"),
        (agreement(images=1, differing=1), "onnxruntime", "argmax agreement 0.0 % < 98 %"),
        (agreement(differing=None, ap=(0.5, 0.5049)), "tensorrt", None),
        (agreement(differing=None, ap=(0.5, 0.494)), "tensorrt", r"AP is 0\.4940 instead of 0\.5000, more than 0\.005"),
        (agreement(differing=None, ap=(0.5, 0.506)), "tensorrt", "AP is"),
        (agreement(differing=None, ap=(0.5, 0.494), ap_chance=0.0015), "onnxruntime", None),
        (agreement(rms=math.nan), "float", "not finite"),
        (agreement(rms=math.inf), "tensorrt", "not finite"),
        (agreement(made_up=True, differing=50), "tensorrt", None),
        (agreement(made_up=True, rms=0.02), "float", r"differ by 2\.0%"),
        (agreement(made_up=True, rms=0.9), "onnxruntime", "differ by"),
    ],
)
def test_a_file_that_answers_otherwise_is_refused(found: Agreement, limits: str, said: str | None) -> None:
    if said is None:
        exporting.check_agreement(found, limits, Path("x.onnx"))
    else:
        with pytest.raises(ExportError, match=rf"{said}.*x\.onnx was not written"):
            exporting.check_agreement(found, limits, Path("x.onnx"))


@pytest.mark.parametrize(("limits", "remedy"), [("onnxruntime", "train on with QAT"), ("float", "report it")])
def test_a_refusal_says_what_to_do(limits: str, remedy: str) -> None:
    with pytest.raises(ExportError, match=rf"was not written. Look at more images \(--images\).*{remedy}"):
        exporting.check_agreement(agreement(differing=50), limits, Path("x.onnx"))


def spoiled_answers(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    monkeypatch.setattr(exporting, "compare", lambda *_: [agreement(differing=50)])
    return ExportError


def full_disk(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers.os, "fsync", refuse)
    return OSError


def interrupted(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writers.os, "replace", interrupt)
    return KeyboardInterrupt


def test_a_file_is_for_the_same_users_as_any_new_one(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert exported.stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.slow
@pytest.mark.parametrize("fail", [spoiled_answers, full_disk, interrupted])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    classifier: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., type[BaseException]]
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"before")
    with pytest.raises(fail(monkeypatch)):
        export(classifier, path, images=2)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_found_out(
    classifier: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a silently wrong exporter would write it: one weight of the classifier's changed its place."""
    build = exporting.targets.build

    def wrong(model: nn.Module, *rest: Any, **more: Any) -> Any:
        model.classifier.weight.data = model.classifier.weight.data.roll(1, 0)  # type: ignore[union-attr, operator]
        made = build(model, *rest, **more)
        model.classifier.weight.data = model.classifier.weight.data.roll(-1, 0)  # type: ignore[union-attr, operator]
        return made

    monkeypatch.setattr(exporting.targets, "build", wrong)
    with pytest.raises(ExportError, match="argmax agreement"):
        export(classifier, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


# --- without the data


@pytest.mark.slow
def test_without_the_data_the_check_says_that_its_images_are_made_up(
    classifier: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the recipe's data.root is there no more
    recipe = override(raydet.recipe("demo_classification"), {"data.root": str(tmp_path / "gone")})
    monkeypatch.setattr("raydet.inference.trained_model.recipe", lambda name: recipe)
    changes = {key: value for key, value in classifier.items() if not key.startswith("data.")}
    report = export(changes, tmp_path / "x.onnx", images=4)
    assert report.agreement.made_up and "made-up images" in report.figures()["checked_on"]
    assert "gone" in report.checked_on


def test_data_that_are_named_must_be_there(
    classifier: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_MADE_UP", 4)
    gone = classifier | {"data.root": str(tmp_path / "gone")}
    with pytest.raises(DataError, match=r"gone[^$]*--images made-up"):
        export(gone, tmp_path / "x.onnx")
    report = export(gone, tmp_path / "x.onnx", images="made-up")
    assert report.agreement.made_up and report.checked_on == "4 made-up images"


@pytest.mark.slow
def test_a_quantized_run_is_exported_where_its_data_are_not(
    quantized_classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_MADE_UP", 4)
    gone = {"data.root": str(tmp_path / "gone")}
    report = raydet.export(quantized_classifier, tmp_path / "x.onnx", gone, images="made-up", stream=StringIO())
    assert report.agreement.made_up and report.ratio < 0.5


def test_data_of_other_classes_are_refused(
    classifier: Changes, exported: Path, toy_classification: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few" / "val"
    for name in ("0", "1"):
        (few / name).mkdir(parents=True)
        image = next((toy_classification / "val" / name).glob("*.jpg"))
        (few / name / "x.jpg").write_bytes(image.read_bytes())
    other = {"data.root": str(tmp_path / "few")}
    with pytest.raises(ConfigError, match=r"10 classes, the data set in .* has 2"):
        export(classifier | other, tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match=r"10 classes, the data set in .* has 2"):
        raydet.evaluate(exported, other)


def test_a_part_of_a_split_holds_the_rows_asked_for(detection: Config, classification: Config) -> None:
    whole = open_split(detection, "val")
    rows = np.array([1, 4, 5, 9])
    some = whole.select(rows)
    assert isinstance(whole, DetectionIndex) and isinstance(some, DetectionIndex) and len(some) == 4
    for i, row in enumerate(rows.tolist()):
        assert some.names[i] == whole.names[row] and some.ids[i] == whole.ids[row]
        for ours, theirs in zip(some.boxes_of(i), whole.boxes_of(row), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    folder = open_split(classification, "val")
    few = folder.select(rows)
    assert few.names.tolist() == [folder.names[i] for i in rows] and few.labels.tolist() == folder.labels[rows].tolist()


# --- refused at the door, before anything is opened


@pytest.mark.parametrize(
    ("source", "out", "how", "said"),
    [
        ("run", "x.pt", {}, r"must end with \.onnx, got .*x\.pt"),
        ("run", "x", {}, r"must end with \.onnx"),
        ("run", "folder.onnx", {}, "is a folder; name a file"),
        ("run", "no/such/x.onnx", {}, "there is no folder"),
        ("run", "x.onnx", {"target": "tensorr"}, "target must be tensorrt or onnxruntime, got 'tensorr'; did you mean"),
        ("run", "x.onnx", {"images": 0}, "images must be at least 1, got 0"),
        ("y.onnx", "x.onnx", {}, r"y\.onnx is an exported file already"),
        ("no/such/run", "x.onnx", {}, "no checkpoint, run folder or recipe 'no/such/run'"),
        ("efficientnet_x0", "x.onnx", {}, "no checkpoint, run folder or recipe"),
    ],
)
def test_what_cannot_be_exported_is_named_before_any_work(
    source: str, out: str, how: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    if source == "run":
        monkeypatch.setattr(exporting, "open_source", lambda *_: pytest.fail("was opened"))
    with pytest.raises(ConfigError, match=said):
        raydet.export(source, tmp_path / out, **how)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


def test_a_folder_that_cannot_be_written_to_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(exporting, "TemporaryFile", refuse)  # tests may run as root, who may write anywhere
    with pytest.raises(ConfigError, match=r"x\.onnx cannot be written: .*: Permission denied"):
        raydet.export("run", tmp_path / "x.onnx")


def test_a_classifier_has_nothing_to_suppress(classifier: Changes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--nms is for detectors; efficientnet_demo is a classifier"):
        export(classifier, tmp_path / "x.onnx", nms=True)


@pytest.mark.slow
def test_soft_suppression_within_a_graph_is_refused(detector: Changes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.soft_nms_sigma"):
        export(detector | {"evaluation.soft_nms_sigma": 0.5}, tmp_path / "x.onnx", task="detection", nms=True)


def test_a_size_that_the_levels_do_not_divide_is_refused(detector: Changes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.image_size=100 must be a multiple of 32"):
        export(detector | {"model.image_size": 100}, tmp_path / "x.onnx", task="detection")


# --- the command


@pytest.mark.slow
def test_the_command_prints_the_report_and_evaluate_takes_the_file(
    classifier: Changes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.onnx"
    settings = [word for key, value in classifier.items() for word in (f"--{key}", str(value))]
    assert cli.run(["export", "demo_classification", str(out), "--images", "5", *settings, "--json"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["file"] == str(out) and values["target"] == "onnxruntime" and values["argmax_agreement"] == 1
    assert cli.run(["evaluate", str(out), "--split", "train"]) == 0
    assert "top1" in capsys.readouterr().out
    assert cli.run(["evaluate", str(out), "--model.image_size", "96"]) == cli.USAGE
    assert "model.image_size cannot change: it is fixed in" in capsys.readouterr().err
