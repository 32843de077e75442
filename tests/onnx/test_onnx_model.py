"""An ONNX file as a model: what it answers, and what of a foreign, damaged or hostile one is said."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from raydet import ops
from raydet.config import override
from raydet.exceptions import CheckpointError, ConfigError, QuantizationNotAvailable
from raydet.inference.trained_model import open_source
from raydet.onnx import onnx_model, postprocess
from tests.onnx.graphs import CLASSES, SIDE, about, anchors_A4, classifier, detector, written


def images_B3HW(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_classifiers_file_gives_its_logits(tmp_path: Path, count: int, form: torch.memory_format) -> None:
    model = open_source(written(tmp_path / "x.onnx", classifier(), about()), {}).model
    images = images_B3HW(count)
    weight = torch.tensor(numpy_helper.to_array(classifier().graph.initializer[0]))
    expected = images.mean((2, 3)) @ weight
    torch.testing.assert_close(model(images.contiguous(memory_format=form)), expected, rtol=1e-4, atol=1e-5)
    assert not model.training and model.num_classes == CLASSES and model.name == "efficientnet_demo"


def test_a_detectors_file_gives_logits_and_codes(tmp_path: Path) -> None:
    source = open_source(written(tmp_path / "x.onnx", detector(), about("detection")), {})
    logits_BAC, codes_BA4 = source.model(images_B3HW(3))
    assert logits_BAC.shape == (3, len(anchors_A4()), CLASSES) and codes_BA4.shape == (3, len(anchors_A4()), 4)
    assert (source.model.min_level, source.model.max_level, source.model.anchor_scale) == (3, 7, 4.0)
    assert source.class_names == about().class_names and source.path == tmp_path / "x.onnx"


def test_a_file_that_detects_gives_what_the_op_finds(tmp_path: Path) -> None:
    plain = open_source(written(tmp_path / "plain.onnx", detector(), about("detection")), {}).model
    proto, told = detector(), about("detection", outputs=(postprocess.DETECTIONS,))
    e = told.cfg.evaluation
    postprocess.append_detect(proto, anchors_A4(), CLASSES, e)
    found = open_source(written(tmp_path / "x.onnx", proto, told), {}).model(images_B3HW(4))
    limits = (e.top_k, e.score_threshold, e.nms_iou, e.max_detections)
    names = ("top_k", "score_threshold", "nms_iou", "max_detections")
    expected = ops.detect(*plain(images_B3HW(4)), anchors_A4(), **dict(zip(names, limits, strict=True)))  # type: ignore[arg-type]
    for one, other in zip(found.images(), expected.images(), strict=True):
        assert one.classes_K.tolist() == other.classes_K.tolist()
        torch.testing.assert_close(one.boxes_K4, other.boxes_K4, rtol=1e-5, atol=1e-3)


def test_rows_become_a_table_an_image_behind_the_last_zeros() -> None:
    rows_N7 = torch.tensor([[0, 1, 2, 3, 4, 0.9, 5], [0, 5, 6, 7, 8, 0.8, 1], [2, 0, 0, 1, 1, 0.7, 0]])
    found = onnx_model.as_found(rows_N7, 4)
    assert found.counts_B.tolist() == [2, 0, 1, 0]
    assert found.classes_BD.tolist() == [[5, 1], [-1, -1], [0, -1], [-1, -1]]
    assert found.boxes_BD4[0, 1].tolist() == [5, 6, 7, 8] and found.boxes_BD4[1].abs().sum() == 0
    assert [len(one.scores_K) for one in onnx_model.as_found(torch.zeros(0, 7), 2).images()] == [0, 0]


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    model = open_source(written(tmp_path / "x.onnx", classifier(), about()), {}).model
    for shape in ((2, 3, 64, 64), (2, 1, SIDE, SIDE), (3, SIDE, SIDE)):
        with pytest.raises(ValueError, match=rf"images must be \[batch, 3, {SIDE}, {SIDE}\]"):
            model(torch.zeros(shape))


def test_it_runs_with_as_many_threads_as_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    model = open_source(written(tmp_path / "x.onnx", classifier(), about()), {}).model
    assert model._session.get_session_options().intra_op_num_threads == 3


# --- what is wrong with a file is said in one sentence that names it


def refused(path: Path, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        open_source(path, {})
    assert str(path) in str(caught.value)


def test_a_file_of_another_maker_is_refused(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "x.onnx")
    refused(tmp_path / "x.onnx", "was not written by `raydet export`")


@pytest.mark.parametrize("data", [b"\x00" * 100, b"PK\x03\x04 a zip", os.urandom(1000), b"\xff" * 64])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    refused(tmp_path / "x.onnx", "no ONNX file|was not written by")


def test_an_empty_file_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").touch()
    refused(tmp_path / "x.onnx", "is empty; export the model again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "x.onnx", classifier(), about())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "truncated|was not written by|lacks")


@pytest.mark.slow
def test_a_file_with_any_bit_flipped_is_read_or_refused(tmp_path: Path) -> None:
    """Never another error; checksums are no part of ONNX."""
    path = written(tmp_path / "x.onnx", classifier(), about())
    data = bytearray(path.read_bytes())
    for i in np.random.default_rng(0).integers(0, len(data) * 8, 150).tolist():
        data[i // 8] ^= 1 << i % 8
        path.write_bytes(data)
        try:
            open_source(path, {}).model(images_B3HW(1))
        except CheckpointError as error:
            assert str(path) in str(error)
        data[i // 8] ^= 1 << i % 8


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def weight() -> onnx.TensorProto:
    return external(numpy_helper.from_array(np.zeros((3, CLASSES), np.float32), "weight"))


def with_external_initializer(model: onnx.ModelProto) -> None:
    external(model.graph.initializer[0])


def with_external_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=weight()))


def with_external_constant_within(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "g", [], [helper.make_tensor_value_info("weight", 1, [3, CLASSES])], [weight()])
    condition = helper.make_node("Constant", [], ["true"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    model.graph.node.extend([condition, helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)])


def with_external_sparse(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros((1, 2), np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(weight(), indices, [3, CLASSES]))


def with_operator_of_runtime(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("EPContext", [], ["y"], domain="com.microsoft", ep_cache_context="/x"))


def with_foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Evil", ["images"], ["y"], domain="evil.maker"))


def with_function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 17)]
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], opset))


def with_unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def with_missing_input(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[1] = "nothing"


def with_graphs_within_graphs(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], [])
    model.graph.node.extend(graph.node)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (with_external_initializer, "keeps tensor 'weight' in another file"),
        (with_external_constant, "keeps tensor 'weight' in another file"),
        (with_external_constant_within, "keeps tensor 'weight' in another file"),
        (with_external_sparse, "keeps tensor 'weight' in another file"),
        (with_operator_of_runtime, r"operator com\.microsoft\.EPContext"),
        (with_foreign_operator, r"operator evil\.maker\.Evil"),
        (with_function, "operators of its own"),
        (with_unknown_operator, "ONNX Runtime does not take it.*NoSuchOperator"),
        (with_missing_input, "ONNX Runtime does not take it"),
        (with_graphs_within_graphs, "graphs within graphs"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_reaches_beyond_the_file_or_cannot_run_is_refused(
    tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    spoil(model)
    refused(written(tmp_path / "x.onnx", model, about()), said)


def test_a_graph_is_looked_at_before_onnx_runtime_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("was opened"))
    model = classifier()
    with_external_initializer(model)
    refused(written(tmp_path / "x.onnx", model, about()), "another file")


def test_inputs_and_outputs_must_be_those_told(tmp_path: Path) -> None:
    other = about(**{"model.image_size": 96})
    refused(written(tmp_path / "size.onnx", classifier(), other), r"its inputs are .*128.*96")
    refused(written(tmp_path / "names.onnx", detector(), about()), r"its outputs are \('logits', 'codes'\)")
    refused(written(tmp_path / "none.onnx", classifier(), about("detection")), r"its outputs are \('logits',\)")


def test_a_file_that_is_not_there_and_a_folder_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for path in (tmp_path / "none.onnx", tmp_path / "folder.onnx"):
        with pytest.raises(ConfigError, match=path.name):
            open_source(path, {})


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_said_with_what_to_install(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.onnx", classifier(), about())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(QuantizationNotAvailable, match=r"needs onnx and onnxruntime; pip install raydet\[qat\]"):
        open_source(path, {})


def test_a_gpu_that_onnx_runtime_cannot_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = written(tmp_path / "x.onnx", classifier(), about())
    with pytest.raises(ConfigError, match=r"scaling\.use_gpu=true.*pip install onnxruntime-gpu"):
        open_source(path, {"scaling.use_gpu": True})


def test_a_quantized_file_for_tensorrt_warns_of_its_speed_here(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    quantized = override(about().cfg, {"quantization.calibration": "max"})
    for target, cfg in (("tensorrt", about().cfg), ("onnxruntime", quantized)):
        open_source(written(tmp_path / "quiet.onnx", classifier(), replace(about(), target=target, cfg=cfg)), {})
    assert not [w for w in recwarn if "float convolutions" in str(w.message)]
    told = replace(about(), target="tensorrt", cfg=quantized)
    with pytest.warns(RuntimeWarning, match="float convolutions; expect it slower than fp32"):
        open_source(written(tmp_path / "x.onnx", classifier(), told), {})


def test_what_is_fixed_in_the_file_cannot_change(tmp_path: Path) -> None:
    path = written(tmp_path / "x.onnx", classifier(), about())
    with pytest.raises(ConfigError, match=r"model\.image_size cannot change"):
        open_source(path, {"model.image_size": 64})
    assert open_source(path, {"data.root": "/elsewhere"}).cfg.data.root == "/elsewhere"
