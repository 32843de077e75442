"""Small ONNX graphs with raydet's inputs and outputs, made by hand, and what they say of themselves."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from raydet.config import Config, override
from raydet.models.anchors import make_anchors
from raydet.onnx import metadata
from raydet.onnx.graph import CODES, LOGITS
from raydet.recipes import recipe

SIDE = 128
CLASSES = 10


def config(task: str = "classification", **changes: object) -> Config:
    sized = {"model.image_size": SIDE, "model.num_classes": CLASSES, **changes}
    return metadata.portable(override(recipe(f"demo_{task}"), sized))


def about(task: str = "classification", outputs: tuple[str, ...] | None = None, **changes: object) -> metadata.Metadata:
    detector = task == "detection"
    return metadata.Metadata(
        cfg=config(task, **changes),
        class_names=[f"class {i}" for i in range(CLASSES)],
        category_ids=list(range(CLASSES)),
        target="onnxruntime",
        outputs=outputs or ((LOGITS, CODES) if detector else (LOGITS,)),
        anchors=metadata.Anchors(3, 7, 4.0) if detector else None,
        source="runs/x",
    )


def classifier(seed: int = 0) -> onnx.ModelProto:
    """Logits from the means of the three channels."""
    weight = np.random.default_rng(seed).normal(size=(3, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    return _model(nodes, {"weight": weight}, {"logits": ["batch", CLASSES]})


def detector(opset: int = 17) -> onnx.ModelProto:
    """Logits and codes that depend on the brightest pixel: the same constants scaled."""
    anchors = len(anchors_A4())
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(1, anchors, CLASSES)) * 2 - 3).astype(np.float32)
    codes = (rng.normal(size=(1, anchors, 4)) * 0.3).astype(np.float32)
    nodes = [
        helper.make_node("GlobalMaxPool", ["images"], ["most"]),
        helper.make_node("Slice", ["most", "zero", "one", "one"], ["first"]),
        helper.make_node("Squeeze", ["first", "three"], ["scale"]),
        helper.make_node("Mul", ["scale", "some_logits"], ["logits"]),
        helper.make_node("Mul", ["scale", "some_codes"], ["codes"]),
    ]
    constants = {"some_logits": logits, "some_codes": codes}
    constants |= {"zero": np.array([0]), "one": np.array([1]), "three": np.array([3])}
    outputs: dict[str, list[str | int]] = {"logits": ["batch", anchors, CLASSES], "codes": ["batch", anchors, 4]}
    return _model(nodes, constants, outputs, opset)


def anchors_A4() -> torch.Tensor:
    return make_anchors((SIDE, SIDE), 3, 7, 4.0)


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: dict[str, list[str | int]], opset: int = 17
) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "raydet", [image], made, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(path: Path, model: onnx.ModelProto, told: metadata.Metadata) -> Path:
    """Write the model as `raydet export` would."""
    metadata.write(model, told)
    path.write_bytes(model.SerializeToString())
    return path
