"""What a trained model becomes for a runtime, and what the runtime makes of it."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn

from raydet.exceptions import ExportError
from raydet.onnx.graph import of_type, optimised, trace
from raydet.onnx.onnxruntime_int8 import quantized_graph
from raydet.onnx.tensorrt_qdq import symmetric
from raydet.quantization import check_calibrated, is_quantized, quantizers

if TYPE_CHECKING:
    import onnx

Target = Literal["tensorrt", "onnxruntime"]

__all__ = ["ExportError", "Target", "build", "operators"]


def build(
    model: nn.Module,
    example_B3HW: Tensor,
    *,
    target: Target,
    batches: Iterable[Tensor] = (),
    full_range: bool = False,
) -> "onnx.ModelProto":
    """Return the onnx.ModelProto of a model for a runtime: a float graph of a float model, else an INT8 one.

    Input `images` [batch, 3, H, W]; outputs `logits` [batch, classes], or `logits` [batch, A, C] and `codes`
    [batch, A, 4]. The model is left as it is.

    Args:
        model: float, or quantized and calibrated.
        example_B3HW: normalised images; their size is that of the graph.
        target: the runtime.
        batches: images_B3HW, normalised, on which ranges are measured that the model has not; of "onnxruntime" only,
            which does without them too.
        full_range: of "onnxruntime" only: keep weights as they are, which is right on CPUs with VNNI alone.

    Raises:
        ExportError: the model is not of 8 bits, or the graph is not what it should be.
        NotCalibratedError: quantizers without a range.
    """
    if not is_quantized(model):
        return trace(model, example_B3HW)
    check_calibrated(model)
    for name, quantizer in quantizers(model).items():
        bits = cast("Any", quantizer).num_bits
        if bits != 8:
            raise ExportError(f"quantizer '{name}' has {bits} bits, files have 8; train with quantization.bits=8")
    proto = symmetric(trace(model, example_B3HW))
    _check_quantized(proto)
    if target == "tensorrt":
        return proto
    arrays = (images_B3HW.cpu().float().numpy() for images_B3HW in batches)
    proto = quantized_graph(proto, arrays, full_range=full_range)
    _check_int8(proto)
    return proto


def _check_quantized(proto: "onnx.ModelProto") -> None:
    if not any(of_type(proto.graph.node, "QuantizeLinear")):
        raise ExportError("exported graph has 0 QuantizeLinear nodes")


def _check_int8(proto: "onnx.ModelProto") -> None:
    """Raise ExportError where the runtime does not compute a quantized convolution in INT8."""
    weights = {node.output[0] for node in of_type(proto.graph.node, "DequantizeLinear")}
    quantized = [node.name for node in of_type(proto.graph.node, "Conv") if node.input[1] in weights]
    # The runtime numbers the nodes that it makes: NAME_token_7.
    done = {re.sub(r"_token_\d+$", "", node.name) for node in of_type(optimised(proto).graph.node, "QLinearConv")}
    left = [name for name in quantized if name not in done]
    if left:
        raise ExportError(
            f"ONNX Runtime computes {len(left)} of {len(quantized)} quantized convolutions in floats: "
            f"{', '.join(left[:5])}; try another version of onnxruntime, 1.31 does all"
        )


def operators(model: "onnx.ModelProto | str | Path", optimized: bool = True) -> dict[str, int]:
    """Return how many nodes of each type a graph has, the most frequent first.

    Args:
        model: a ModelProto, or the path of a file.
        optimized: count what ONNX Runtime makes of it on this CPU.
    """
    import onnx

    proto = onnx.load(str(model)) if isinstance(model, str | Path) else model
    proto = optimised(proto) if optimized else proto
    return dict(Counter(node.op_type for node in proto.graph.node).most_common())
