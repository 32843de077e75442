"""The libraries that fake-quantize, behind one function: both call theirs TensorQuantizer, with the same methods.

Sources: pytorch-quantization 2.1.3 (Wu et al. 2020, arXiv:2004.09602) and NVIDIA Model Optimizer, which grew out of it
(https://github.com/NVIDIA/Model-Optimizer). Both round x * (bound / amax), clip to [-bound - 1, bound], and pass
gradients straight through within the range.

A quantizer here has its range, the buffer `_amax`, from the start, NaN until it is calibrated: an output of NaN is
seen, while a quantizer without the buffer silently takes each batch's own range, and in the older library it can be
loaded on a GPU only.
"""

import importlib
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from raydet.config import Quantization
from raydet.exceptions import QuantizationNotAvailable

_NEEDS = {
    "pytorch-quantization": "pytorch-quantization==2.1.3 (2.2.x on PyPI is an empty placeholder)",
    "modelopt": "nvidia-modelopt>=0.47",
}


class Quantizer(Protocol):
    """What both libraries' fake-quantizers have in common."""

    _amax: Tensor
    """The range: values beyond +-amax are clipped. Scalar, or one per channel with the weight's dimensions."""
    _calibrator: Any
    num_bits: int
    axis: int | None
    unsigned: bool

    def __call__(self, x: Tensor) -> Tensor: ...
    def enable_calib(self) -> None: ...
    def disable_calib(self) -> None: ...
    def enable_quant(self) -> None: ...
    def disable_quant(self) -> None: ...
    def load_calib_amax(self, *args: Any, **kwargs: Any) -> None: ...


def fake_quantize(quantizer: nn.Module, x: Tensor) -> Tensor:
    """Return x on the quantizer's grid, of x's type; worked out in float32, whose steps are finer than the grid's."""
    if x.dtype == torch.float32:
        y: Tensor = quantizer(x)
        return y
    with torch.autocast(x.device.type, enabled=False):
        y = quantizer(x.float())
    return y.to(x.dtype)


def make_quantizer(cfg: Quantization, shape: tuple[int, ...], device: torch.device) -> nn.Module:
    """Return a fake-quantizer without a range.

    Args:
        cfg: library and bits.
        shape: of its range: () for one over the tensor, (C, 1, ...) for one per index of the first dimension.
        device: of its range.

    Raises:
        QuantizationNotAvailable: the library is not there.
    """
    axis = 0 if shape else None
    made = (_pytorch_quantization if cfg.backend == "pytorch-quantization" else _modelopt)(cfg.bits, axis)
    made.register_buffer("_amax", torch.full(shape, math.nan, device=device))
    return made


def _pytorch_quantization(bits: int, axis: int | None) -> nn.Module:
    with _quiet_import("pytorch-quantization"):
        from absl import logging as absl_logging
        from pytorch_quantization.nn import TensorQuantizer
        from pytorch_quantization.tensor_quant import QuantDescriptor

        absl_logging.set_verbosity(absl_logging.ERROR)  # else a warning for each of a hundred quantizers
    made: nn.Module = TensorQuantizer(QuantDescriptor(num_bits=bits, axis=axis))
    return made


def _modelopt(bits: int, axis: int | None) -> nn.Module:
    with _quiet_import("modelopt"):
        from modelopt.torch.quantization.config import QuantizerAttributeConfig
        from modelopt.torch.quantization.nn import TensorQuantizer
    made: nn.Module = TensorQuantizer(QuantizerAttributeConfig(num_bits=bits, axis=axis))
    return made


def collect(quantizer: nn.Module, *, histogram: bool) -> None:
    """Let a quantizer pass values through and collect them, in a histogram or only the largest."""
    calib = importlib.import_module(f"{type(quantizer).__module__.partition('.nn.')[0]}.calib")
    kind = calib.HistogramCalibrator if histogram else calib.MaxCalibrator
    q = cast("Quantizer", quantizer)
    q._calibrator = kind(q.num_bits, q.axis, q.unsigned)
    q.enable_calib()
    q.disable_quant()


def stop_collecting(quantizer: nn.Module) -> None:
    """Let a quantizer quantize again."""
    q = cast("Quantizer", quantizer)
    q.disable_calib()
    q.enable_quant()
    q._calibrator.reset()  # a histogram would be copied with every copy of the model


@contextmanager
def _quiet_import(backend: str) -> Iterator[None]:
    """Keep an import's warnings (of torch.jit, of a missing CUDA) from users; say what to install if it fails."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        need = f"backend '{backend}' needs {_NEEDS[backend]}; pip install raydet[qat]"
        raise QuantizationNotAvailable(f"quantization.backend: {need}. The import says: {error}") from error
    finally:
        logger.setLevel(before)


@contextmanager
def exporting(model: nn.Module) -> Iterator[None]:
    """Let torch.onnx.export(dynamo=False) write QuantizeLinear and DequantizeLinear for the model's quantizers.

    The older library else writes its arithmetic, a float graph, and says nothing. Its switch is one for all its
    quantizers, so this is for the main thread.
    """
    classes = {type(m) for m in model.modules() if hasattr(type(m), "use_fb_fake_quant")}
    before = {cls: cls.use_fb_fake_quant for cls in classes}  # type: ignore[attr-defined]
    for cls in classes:
        cls.use_fb_fake_quant = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for cls, was in before.items():
            cls.use_fb_fake_quant = was  # type: ignore[attr-defined]
