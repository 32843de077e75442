"""Detections made by ONNX nodes are those that raydet.ops.detect makes, ties and limits included."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, checker, helper
from torch import Tensor

from raydet import ops
from raydet.config import Evaluation
from raydet.exceptions import ConfigError
from raydet.models.anchors import make_anchors
from raydet.onnx.onnx_model import as_found
from raydet.onnx.postprocess import append_detect, check_can_detect

SIDE = 128


def anchors_A4() -> Tensor:
    return make_anchors((SIDE, SIDE), 3, 7, 4.0)


def outputs(images: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits as of a trained net (few high), every seventh anchor's equal to the first's, and codes."""
    generator = torch.Generator().manual_seed(seed)
    anchors = len(anchors_A4())
    logits_BAC = torch.randn(images, anchors, classes, generator=generator) * 2 - 3
    logits_BAC[:, ::7] = logits_BAC[:, :1].clone()
    return logits_BAC, torch.randn(images, anchors, 4, generator=generator) * 0.3


def by_graph(logits_BAC: Tensor, codes_BA4: Tensor, cfg: Evaluation, opset: int = 17) -> ops.BatchDetections:
    images, anchors, classes = logits_BAC.shape
    values = {"logits": ["batch", anchors, classes], "codes": ["batch", anchors, 4]}
    infos = [
        [helper.make_tensor_value_info(prefix + name, TensorProto.FLOAT, shape) for name, shape in values.items()]
        for prefix in ("in_", "")
    ]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [name]) for name in values]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *infos), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    append_detect(model, anchors_A4(), classes, cfg)
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["detections"]
    (rows_N7,) = session.run(None, {"in_logits": logits_BAC.numpy(), "in_codes": codes_BA4.numpy()})
    return as_found(torch.from_numpy(rows_N7), images)


def by_torch(logits_BAC: Tensor, codes_BA4: Tensor, cfg: Evaluation) -> ops.BatchDetections:
    return ops.detect(
        logits_BAC,
        codes_BA4,
        anchors_A4(),
        top_k=cfg.top_k,
        score_threshold=cfg.score_threshold,
        nms_iou=cfg.nms_iou,
        max_detections=cfg.max_detections,
    )


def assert_same(theirs: ops.BatchDetections, ours: ops.BatchDetections) -> None:
    assert theirs.counts_B.tolist() == ours.counts_B.tolist()
    for one, other in zip(theirs.images(), ours.images(), strict=True):
        assert one.classes_K.tolist() == other.classes_K.tolist()
        np.testing.assert_allclose(one.scores_K, other.scores_K, rtol=0, atol=1e-6)  # sigmoid: a few units of float32
        np.testing.assert_allclose(one.boxes_K4, other.boxes_K4, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": 100},
        {"top_k": 10**6},
        {"top_k": 7, "max_detections": 1000},
        {"score_threshold": 0.5},
        {"score_threshold": 0.0, "nms_iou": 0.0},
        {"nms_iou": 1.0},
        {"nms_iou": 0.3, "max_detections": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize(("images", "classes"), [(1, 1), (3, 10)])
def test_detections_are_those_of_the_op(images: int, classes: int, changes: dict[str, float]) -> None:
    cfg = replace(Evaluation(), **changes)
    made = outputs(images, classes)
    ours = by_torch(*made, cfg)
    assert ours.counts_B.min() > 0
    assert_same(by_graph(*made, cfg), ours)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_every_opset_gives_the_same(opset: int) -> None:
    made = outputs(2, 10)
    assert_same(by_graph(*made, Evaluation(), opset), by_torch(*made, Evaluation()))


def test_equal_pairs_come_in_the_order_of_anchor_and_class() -> None:
    logits_BAC, codes_BA4 = outputs(2, 10)
    logits_BAC.fill_(0.5)
    cfg = Evaluation(top_k=40, nms_iou=1.0)
    assert_same(by_graph(logits_BAC, codes_BA4, cfg), by_torch(logits_BAC, codes_BA4, cfg))


def test_images_without_detections_have_no_rows() -> None:
    logits_BAC, codes_BA4 = outputs(3, 10)
    logits_BAC[1] = -20
    found = by_graph(logits_BAC, codes_BA4, Evaluation())
    assert found.counts_B[1] == 0 and found.counts_B[0] > 0 and found.counts_B[2] > 0
    assert by_graph(logits_BAC[1:2], codes_BA4[1:2], Evaluation()).counts_B.tolist() == [0]


def test_a_score_equal_to_the_threshold_is_dropped() -> None:
    logits_BAC, codes_BA4 = outputs(1, 10)
    logits_BAC.fill_(-5)
    logits_BAC[0, 0, 0], logits_BAC[0, 500, 3] = 0.0, 1.0  # sigmoid(0) is 0.5 exactly
    found = by_graph(logits_BAC, codes_BA4, Evaluation(score_threshold=0.5))
    assert found.classes_BD.tolist() == [[3]]


def test_soft_suppression_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.soft_nms_sigma=0\.5.*without --nms"):
        check_can_detect(Evaluation(soft_nms_sigma=0.5), "onnxruntime")
    with pytest.raises(ConfigError, match=r"evaluation\.class_agnostic_nms=true.*without --nms"):
        check_can_detect(Evaluation(class_agnostic_nms=True), "tensorrt")


def test_more_candidates_than_tensorrt_takes_are_refused_for_it_only() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.top_k=5000.*--evaluation\.top_k 3840"):
        check_can_detect(Evaluation(), "tensorrt")
    check_can_detect(Evaluation(), "onnxruntime")
    check_can_detect(Evaluation(top_k=3840), "tensorrt")
