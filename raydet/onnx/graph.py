"""From a PyTorch model to a clean ONNX graph, and what the targets need to change one.

Tracing leaves hundreds of nodes that only compute shapes and constants. ONNX Runtime's basic optimisation folds them,
weights' QuantizeLinear included, so none of that is written here; its passes that move or copy Q/DQ nodes are off.

Given up: the exporter that torch now prefers (`dynamo=True`), which can trace neither quantizer library; and external
data: a file must stay below protobuf's 2 GB.

Names of tensors are strings, arrays NumPy's.
"""

import tempfile
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raydet.exceptions import ExportError
from raydet.quantization import exporting

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]

OPSET = 17
INPUT = "images"
"""Name of the input: [B, 3, side, side] float32."""
LOGITS, CODES = "logits", "codes"
"""Names of a network's own outputs: logits [B, classes], or [B, A, classes] with codes [B, A, 4]."""
_BATCH = 2
"""Batch that is traced: not 1, whose axes optimisers may drop."""
_KEEP_QDQ = [
    "DoubleQDQPairsRemover",
    "EnsureUniqueDQForNodeUnit",
    "QDQPropagationTransformer",
    "TransposeOptimizer",
    "WeightBiasQuantization",
]


def trace(model: nn.Module, example_B3HW: Tensor) -> "onnx.ModelProto":
    """Return the ModelProto of a copy of `model` in eval mode, for any batch of images of the example's size.

    Args:
        model: float, or with calibrated quantizers; left as it is.
        example_B3HW: normalised images; only their size counts.
    """
    import onnx

    copy = deepcopy(model).cpu().float().eval()
    image_13HW = example_B3HW[:1].cpu().float()
    with torch.no_grad():
        outputs = [LOGITS, CODES] if isinstance(copy(image_13HW), tuple) else [LOGITS]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), exporting(copy):
        warnings.simplefilter("ignore")  # on the older exporter, and on sizes that it takes for constants, as they are
        path = str(Path(folder) / "traced.onnx")
        torch.onnx.export(
            copy,
            (image_13HW.expand(_BATCH, -1, -1, -1).contiguous(),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=outputs,
        )
        proto = onnx.load(_optimised(path, "basic", Path(folder)))
    graph = Graph.read(proto)
    _any_batch(graph)
    _fold_padding(graph)
    return graph.write()


def optimised(proto: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return the ModelProto that ONNX Runtime really runs on this CPU, all its optimisations made."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        onnx.save(proto, path)
        return onnx.load(_optimised(path, "all", Path(folder)))


def _optimised(path: str, level: str, folder: Path) -> str:
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if level == "basic" else levels.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / f"{level}.onnx")
    options.log_severity_level = 3  # a warning that the file is for this machine only
    off = _KEEP_QDQ if level == "basic" else []
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=off)
    return str(options.optimized_model_filepath)


def _any_batch(graph: "Graph") -> None:
    """Make the first dimension of inputs and outputs free, and every Reshape keep it."""
    for node in of_type(graph.nodes, "Reshape"):
        shape = graph.constants.get(node.input[1])
        if shape is None or shape[0] != _BATCH:
            raise ExportError(f"{node.name}: a Reshape whose first dimension is not the batch; got {shape}")
        node.input[1] = graph.constant(np.array([0, *shape[1:]], np.int64))
    for value in (*graph.proto.graph.input, *graph.proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _fold_padding(graph: "Graph") -> None:
    """Let convolutions pad their inputs themselves: no runtime has a Pad in INT8."""
    from onnx import helper

    producers = graph.producers()
    for conv in of_type(graph.nodes, "Conv"):
        pad = producers.get(conv.input[0])
        amounts = None if pad is None or pad.op_type != "Pad" else graph.constants.get(pad.input[1])
        if pad is None or amounts is None or attribute(pad, "mode", b"constant") != b"constant" or _fills(graph, pad):
            continue
        of_images, own = amounts.reshape(2, -1), attribute(conv, "pads", [0, 0, 0, 0])
        if not of_images[:, :2].any() and not any(own):
            kept = [a for a in conv.attribute if a.name not in ("pads", "auto_pad")]
            del conv.attribute[:]
            conv.attribute.extend([*kept, helper.make_attribute("pads", of_images[:, 2:].flatten().tolist())])
            conv.input[0] = pad.input[0]


def _fills(graph: "Graph", pad: Any) -> bool:
    """Say whether a Pad's value is another than 0, or not known."""
    if len(pad.input) < 3 or not pad.input[2]:
        return False
    value = graph.constants.get(pad.input[2])
    return value is None or bool(value.any())


@dataclass
class Graph:
    """An ONNX graph taken apart; `write` puts it together again. Nodes have one output and are in order."""

    proto: "onnx.ModelProto"
    nodes: list[Any]
    constants: dict[str, Array]

    @classmethod
    def read(cls, proto: "onnx.ModelProto") -> "Graph":
        """Take a ModelProto apart, whose nodes are changed from now on."""
        from onnx import numpy_helper

        constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
        return cls(proto, list(proto.graph.node), constants)

    def write(self) -> "onnx.ModelProto":
        """Return the ModelProto, checked, without what is not used, equal constants stored once."""
        import onnx
        from onnx import helper, numpy_helper

        self._drop_unused()
        self._share_constants()
        old = self.proto.graph
        initializers = [numpy_helper.from_array(a, name) for name, a in self.constants.items()]
        graph = helper.make_graph(self.nodes, "raydet", old.input, old.output, initializers)
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="raydet"
        )
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def constant(self, array: Array) -> str:
        """Return the name of a new constant."""
        name = f"constant_{len(self.constants)}"
        while name in self.constants:
            name += "_"
        self.constants[name] = array
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        """Return a new node, which stands in no list yet."""
        from onnx import helper

        return helper.make_node(op, inputs, [output], name=output, **attributes)

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in self.proto.graph.output]

    def producers(self) -> dict[str, Any]:
        """Return the node that makes each tensor."""
        return {node.output[0]: node for node in self.nodes}

    def consumers(self) -> dict[str, list[tuple[Any, int]]]:
        """Return for each tensor the nodes that read it, and as which input."""
        found: dict[str, list[tuple[Any, int]]] = {}
        for node in self.nodes:
            for i, name in enumerate(node.input):
                found.setdefault(name, []).append((node, i))
        return found

    def rename(self, old: str, new: str) -> None:
        """Let all who read one tensor read another; the node that made it falls away when the graph is written."""
        for node in self.nodes:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def _drop_unused(self) -> None:
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if node.output[0] in needed:
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}

    def _share_constants(self) -> None:
        first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        kept = {name: first.setdefault((a.dtype.str, a.shape, a.tobytes()), name) for name, a in self.constants.items()}
        for node in self.nodes:
            for i, name in enumerate(node.input):
                if kept.get(name, name) != name:
                    node.input[i] = kept[name]
        self.constants = {name: array for name, array in self.constants.items() if kept[name] == name}


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def of_type(nodes: list[Any], *ops: str) -> Iterator[Any]:
    """Yield the nodes of these types."""
    return (node for node in nodes if node.op_type in ops)
