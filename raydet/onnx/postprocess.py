"""A detector's graph carried on to its detections: selection, decoding and suppression as ONNX nodes, in float.

They do what `raydet.ops.detect` does, step by step: the best (anchor, class) pairs, boxes from codes, suppression class
by class (ONNX NonMaxSuppression), the best of what is left. Pairs keep their order of anchor and class throughout, for
TopK and NonMaxSuppression give the first of equals, as `detect` does.

Given up: soft suppression, which ONNX has not; and of pairs whose logits differ but whose float32 scores do not, the
lower pair comes first here, the higher logit there.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raydet.config import Evaluation
from raydet.exceptions import ConfigError
from raydet.onnx.graph import CODES, LOGITS
from raydet.ops.boxes import to_centres

if TYPE_CHECKING:
    import onnx

DETECTIONS = "detections"
"""Name of the output: [N, 7] float32, a row a detection: index of the image in the batch, x1, y1, x2, y2 in input
pixels (not clipped), score, class from 0; image by image, the best score first."""
TENSORRT_TOP_K = 3840
"""TensorRT selects no more at once (as of 10.9, NVIDIA/TensorRT#4244)."""
_PREFIX = "detect_"

# B images, A anchors, C classes, N anchors selected, P pairs selected, M pairs not suppressed, D places an image,
# F detections found. Written for every opset from 13; %REDUCE% is all that has changed since.
_GRAPH = """
detect (float[B, A, C] logits, float[B, A, 4] codes) => (float[F, 7] detections)
{
    best_BA = %REDUCE%
    best_BN, ranked_BN = TopK <axis = 1> (best_BA, anchors_selected)
    ranked_float_BN = Cast <to = 1> (ranked_BN)
    anchor_float_BN, unused_BN = TopK <axis = 1, largest = 0> (ranked_float_BN, anchors_selected)
    anchor_BN = Cast <to = 7> (anchor_float_BN)
    anchor_BN1 = Unsqueeze (anchor_BN, two)
    logits_BNC = GatherND <batch_dims = 1> (logits, anchor_BN1)
    logits_BNxC = Reshape (logits_BNC, by_image)
    logits_BP, pair_BP = TopK <axis = 1> (logits_BNxC, pairs_selected)
    scores_BP = Sigmoid (logits_BP)
    shape_BNxC = Shape (logits_BNxC)
    zeros_BNxC = ConstantOfShape (shape_BNxC)
    scores_BNxC = ScatterElements <axis = 1> (zeros_BNxC, pair_BP, scores_BP)
    shape_BNC = Shape (logits_BNC)
    scores_BNC = Reshape (scores_BNxC, shape_BNC)
    scores_BCN = Transpose <perm = [0, 2, 1]> (scores_BNC)

    codes_BN4 = GatherND <batch_dims = 1> (codes, anchor_BN1)
    moves_BN2, grows_BN2 = Split <axis = 2> (codes_BN4, halves)
    anchor_centres_BN2 = Gather (anchor_centres, anchor_BN)
    anchor_sizes_BN2 = Gather (anchor_sizes, anchor_BN)
    moved_BN2 = Mul (moves_BN2, anchor_sizes_BN2)
    centres_BN2 = Add (moved_BN2, anchor_centres_BN2)
    grown_BN2 = Exp (grows_BN2)
    sizes_BN2 = Mul (grown_BN2, anchor_sizes_BN2)
    halves_BN2 = Mul (sizes_BN2, half)
    low_BN2 = Sub (centres_BN2, halves_BN2)
    high_BN2 = Add (centres_BN2, halves_BN2)
    boxes_BN4 = Concat <axis = 2> (low_BN2, high_BN2)

    picked_M3 = NonMaxSuppression (boxes_BN4, scores_BCN, most, iou_threshold, score_threshold)
    place_M3 = Gather <axis = 1> (picked_M3, image_anchor_class)
    score_M = GatherND (scores_BNC, place_M3)
    zeros_BNC = ConstantOfShape (shape_BNC)
    kept_BNC = ScatterND (zeros_BNC, place_M3, score_M)
    kept_BNxC = Reshape (kept_BNC, by_image)
    score_BD, pair_BD = TopK <axis = 1> (kept_BNxC, places)
    taken_BD = Greater (score_BD, zero)
    at_2F = NonZero (taken_BD)
    at_F2 = Transpose <perm = [1, 0]> (at_2F)
    score_F = GatherND (score_BD, at_F2)
    pair_F = GatherND (pair_BD, at_F2)
    anchor_F = Div (pair_F, classes)
    first_F = Mul (anchor_F, classes)
    class_F = Sub (pair_F, first_F)
    image_F1 = Gather <axis = 1> (at_F2, first_column)
    anchor_F1 = Unsqueeze (anchor_F, one)
    image_anchor_F2 = Concat <axis = 1> (image_F1, anchor_F1)
    boxes_F4 = GatherND (boxes_BN4, image_anchor_F2)
    image_float_F1 = Cast <to = 1> (image_F1)
    score_F1 = Unsqueeze (score_F, one)
    class_F1 = Unsqueeze (class_F, one)
    class_float_F1 = Cast <to = 1> (class_F1)
    detections = Concat <axis = 1> (image_float_F1, boxes_F4, score_F1, class_float_F1)
}
"""


def check_can_detect(cfg: Evaluation, target: str) -> None:
    """Raise ConfigError for settings with which detections cannot be worked out within a graph for `target`."""
    if cfg.soft_nms_sigma is not None:
        raise ConfigError(
            f"evaluation.soft_nms_sigma={cfg.soft_nms_sigma}: ONNX has no soft suppression; export with "
            "--evaluation.soft_nms_sigma none, or without --nms"
        )
    if cfg.class_agnostic_nms:
        raise ConfigError(
            "evaluation.class_agnostic_nms=true: suppression within a graph is class by class; export without --nms"
        )
    if target == "tensorrt" and cfg.top_k > TENSORRT_TOP_K:
        raise ConfigError(
            f"evaluation.top_k={cfg.top_k}: TensorRT selects at most {TENSORRT_TOP_K} at once; export with "
            f"--evaluation.top_k {TENSORRT_TOP_K}, or without --nms"
        )


def append_detect(model: "onnx.ModelProto", anchors_A4: Tensor, num_classes: int, cfg: Evaluation) -> None:
    """Make `model` give `DETECTIONS` in place of its outputs `logits` [B, A, C] and `codes` [B, A, 4], in place.

    Args:
        model: with opset 13 or later.
        anchors_A4: float32, xyxy in input pixels.
        num_classes: C.
        cfg: thresholds and counts, see `check_can_detect`.
    """
    import onnx
    from onnx import compose, parser

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    reduce = "ReduceMax <axes = [2], keepdims = 0> (logits)"
    if opset >= 18:
        reduce = "ReduceMax <keepdims = 0> (logits, two)"
    graph = parser.parse_graph(_GRAPH.replace("%REDUCE%", reduce))
    graph.initializer.extend(_constants(anchors_A4, num_classes, cfg))
    graph = compose.add_prefix_graph(graph, _PREFIX)
    outer = {f"{_PREFIX}logits": LOGITS, f"{_PREFIX}codes": CODES, f"{_PREFIX}detections": DETECTIONS}
    for node in graph.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        node.output[:] = [outer.get(name, name) for name in node.output]
    model.graph.node.extend(graph.node)
    model.graph.initializer.extend(graph.initializer)
    del model.graph.output[:]
    shape = [DETECTIONS, 7]  # the first, as a name: any number
    model.graph.output.append(onnx.helper.make_tensor_value_info(DETECTIONS, onnx.TensorProto.FLOAT, shape))


def _constants(anchors_A4: Tensor, num_classes: int, cfg: Evaluation) -> list["onnx.TensorProto"]:
    from onnx import numpy_helper

    anchors = len(anchors_A4)
    selected = min(cfg.top_k, anchors)
    centres_A2, sizes_A2 = to_centres(anchors_A4.detach().cpu().float())
    integers = {
        "anchors_selected": [selected],
        "pairs_selected": [min(cfg.top_k, selected * num_classes)],
        "places": [min(cfg.max_detections, selected * num_classes)],
        "most": [cfg.max_detections],
        "classes": [num_classes],
        "one": [1],
        "two": [2],
        "halves": [2, 2],
        "by_image": [0, -1],
        "image_anchor_class": [0, 2, 1],
        "first_column": [0],
    }
    floats = {
        "anchor_centres": centres_A2.numpy(),
        "anchor_sizes": sizes_A2.numpy(),
        "half": [0.5],
        "zero": [0.0],
        "iou_threshold": [_floor(cfg.nms_iou)],
        "score_threshold": [cfg.score_threshold],
    }
    made = [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in integers.items()]
    return made + [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in floats.items()]


def _floor(value: float) -> float:
    """Return the largest float32 up to `value`, as `raydet.ops.batched_nms` compares overlaps."""
    nearest = torch.tensor(value)
    return float(nearest if nearest.double() <= value else torch.nextafter(nearest, torch.tensor(-1.0)))
