"""A CPU's INT8 arithmetic emulated: the Q/DQ graphs that raydet writes, computed with VNNI or without it.

So both kinds of CPU are tested on either. Without VNNI the kernels of matrix products (not the depthwise ones) add each
two neighbouring products of uint8 and int8 in 16 bits and saturate, in the order rows, columns, input channels; sums of
such pairs are exact. Everything else is the operators' definition, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from raydet.onnx.graph import Graph, attribute


@dataclass
class Quantized:
    """A tensor's levels as they are stored, and what they stand for."""

    levels: Tensor
    scale: Tensor
    zero_point: Tensor

    @property
    def real(self) -> Tensor:
        return (self.levels - self.zero_point) * self.scale


def run(proto: onnx.ModelProto, images_B3HW: Tensor, *, vnni: bool) -> list[Tensor]:
    """Return the outputs of a graph on a CPU with VNNI, or on one without."""
    graph = Graph.read(onnx.ModelProto.FromString(proto.SerializeToString()))
    values: dict[str, Any] = {name: torch.from_numpy(array.copy()) for name, array in graph.constants.items()}
    signed = {name: array.dtype == np.int8 for name, array in graph.constants.items()}
    values["images"] = images_B3HW.double()
    for node in graph.nodes:
        inputs = [values[name] for name in node.input if name]
        if node.op_type == "DequantizeLinear":
            values[node.output[0]] = _dequantized(node, *inputs)
            signed[node.output[0]] = signed.get(node.input[0], False)
        elif node.op_type in ("Conv", "Gemm", "MatMul"):
            narrow = not vnni and signed.get(node.input[1], False) and attribute(node, "group", 1) == 1
            values[node.output[0]] = _product(node, inputs, saturates=narrow)
        else:
            real = [i.real if isinstance(i, Quantized) else i for i in inputs]
            values[node.output[0]] = _OPERATORS[node.op_type](node, *real)
    return [values[name].float() for name in graph.outputs]


class Session:
    """ONNX Runtime's session on a CPU of one kind: what it runs fused is emulated."""

    def __init__(self, data: bytes, session: Any, *, vnni: bool) -> None:
        self._proto, self._session, self._vnni = onnx.ModelProto.FromString(data), session, vnni

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [y.numpy() for y in run(self._proto, torch.from_numpy(feeds["images"]), vnni=self._vnni)]


def _dequantized(node: Any, levels: Tensor, scale: Tensor, zero_point: Tensor) -> Quantized:
    shape = [1] * levels.ndim
    if scale.ndim:
        shape[attribute(node, "axis", 1)] = -1
    return Quantized(levels.double(), *(t.double().reshape(shape) for t in (scale, zero_point)))


def _product(node: Any, inputs: list[Any], *, saturates: bool) -> Tensor:
    """Return a convolution or product of matrices, cut off where it saturates, with its bias."""
    x, weight, *bias = inputs
    real = [i.real if isinstance(i, Quantized) else i.double() for i in (x, weight)]
    if node.op_type == "Conv":
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        how = {"stride": attribute(node, "strides", [1, 1]), "dilation": attribute(node, "dilations", [1, 1])}
        padded = F.pad(real[0], (left, right, top, bottom))
        y = F.conv2d(padded, real[1], **how, groups=attribute(node, "group", 1))
    else:
        y = real[0] @ (real[1].T if attribute(node, "transB", 0) else real[1])
    if saturates and isinstance(x, Quantized):
        if node.op_type == "Conv":
            levels_BCHW = F.pad(x.levels, (left, right, top, bottom), value=float(x.zero_point))
            x_BKL = F.unfold(levels_BCHW, weight.levels.shape[2:], **how)
            x_BKL = x_BKL.unflatten(1, (levels_BCHW.shape[1], -1)).transpose(1, 2).flatten(1, 2)
            lost_BML = lost_by_saturation(x_BKL, weight.levels.permute(0, 2, 3, 1).flatten(1))
            y += lost_BML.reshape(y.shape) * x.scale * weight.scale.reshape(1, -1, 1, 1)
        else:
            weight_MK = weight.levels if attribute(node, "transB", 0) else weight.levels.T
            lost_BML = lost_by_saturation(x.levels.reshape(1, -1, x.levels.shape[-1]).transpose(1, 2), weight_MK)
            y += lost_BML[0].T.reshape(y.shape) * x.scale * weight.scale.flatten()
    for b in bias:
        b_C = b.real if isinstance(b, Quantized) else b.double()
        y = y + (b_C.reshape(1, -1, 1, 1) if node.op_type == "Conv" else b_C)
    return y


def lost_by_saturation(x_BKL: Tensor, weight_MK: Tensor) -> Tensor:
    """Return what is missing from each sum over K because pairs of products are cut to 16 bits."""
    lost_BML = x_BKL.new_zeros(len(x_BKL), len(weight_MK), x_BKL.shape[2])
    for k in range(0, weight_MK.shape[1] - 1, 2):
        w_M2 = weight_MK[:, k : k + 2]
        rows_R = (w_M2.sum(1).abs() > 128).nonzero()[:, 0]
        if len(rows_R):
            pair_BRL = torch.einsum("rp,bpl->brl", w_M2[rows_R], x_BKL[:, k : k + 2])
            lost_BML[:, rows_R] += pair_BRL.clamp(-(2**15), 2**15 - 1) - pair_BRL
    return lost_BML


def _quantize(node: Any, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (torch.round(x / scale.double()) + zero_point).clamp(0, 255)


def _pool(node: Any, x: Tensor) -> Tensor:
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    size, stride = attribute(node, "kernel_shape"), attribute(node, "strides", [1, 1])
    return F.max_pool2d(x, size, stride, ceil_mode=bool(attribute(node, "ceil_mode", 0)))


def _twice(node: Any, x: Tensor, *sizes: Tensor) -> Tensor:
    y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert sizes[-1].tolist()[2:] in ([2.0, 2.0], list(y.shape[2:]))
    return y


def _pad(node: Any, x: Tensor, amounts: Tensor, value: Tensor) -> Tensor:
    before, after = amounts.reshape(2, -1).tolist()
    flat = [amount for pair in zip(before[::-1], after[::-1], strict=True) for amount in pair]
    return F.pad(x.double(), flat, value=float(value))


def _reshape(node: Any, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def _unsqueeze(node: Any, x: Tensor, axes: Tensor) -> Tensor:
    for axis in axes.tolist():
        x = x.unsqueeze(axis)
    return x


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "QuantizeLinear": _quantize,
    "Add": lambda node, a, b: a + b,
    "Mul": lambda node, a, b: a * b,
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "Clip": lambda node, x, low, high: x.clamp(float(low), float(high)),
    "GlobalAveragePool": lambda node, x: x.mean((2, 3), keepdim=True),
    "MaxPool": _pool,
    "Resize": _twice,
    "Transpose": lambda node, x: x.permute(attribute(node, "perm")),
    "Reshape": _reshape,
    "Flatten": lambda node, x: x.flatten(1),
    "Unsqueeze": _unsqueeze,
    "Concat": lambda node, *parts: torch.cat(parts, attribute(node, "axis")),
    "Pad": _pad,
    "Tile": lambda node, x, counts: x.repeat(counts.tolist()),
}
