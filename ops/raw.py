"""Kernels written in CUDA C++: compiled by CuPy at their first launch, launched on torch's current stream.

One source has three readers: CuPy on a GPU; NVRTC without one, with CuPy's own options, for every architecture we name
(tests/ops/test_compile.py); and g++, by which the tests run the same text on the host (tests/ops/harness.py).
Memory is torch's alone: kernels get addresses, and CuPy allocates nothing, so that launches can be captured in a graph.

Who computes is one choice for the whole process, see `choose`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Backend = Literal["auto", "torch", "cuda"]
Kind = torch.dtype | Literal["int32", "int64", "float32", "float64"]
"""What a parameter takes: a dtype stands for a tensor of it (or None, a null pointer), a word for a number."""
Argument = Tensor | int | float | None

_FOLDER = Path(__file__).parent
_LETTERS = {"int32": "i", "int64": "l", "float32": "f", "float64": "d"}
_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "p": np.uint64,
    "i": np.int32,
    "l": np.int64,
    "f": np.float32,
    "d": np.float64,
}
_ALIGNMENT = 16  # bytes of a vector load
CXX = {torch.float32: "float", torch.float64: "double", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
"""What a kernel's source calls a dtype."""

_backend: Backend = "auto"
on_host: "Callable[[Kernel, Sequence[int], Sequence[int], list[int | float]], None] | None" = None
"""Runs launches on CPU tensors instead of a GPU. Only tests set it: tests/ops/harness.py."""


class KernelError(RuntimeError):
    """A kernel cannot be compiled or launched here; says why and what to do."""


def choose(backend: Backend) -> None:
    """Set who computes the operations of this package, for the whole process.

    Args:
        backend: torch: their definitions in PyTorch. cuda: the kernels; a tensor on a CPU, or no CuPy, is an error.
            auto: the kernels where the tensors are on a GPU and CuPy is installed, else PyTorch.
    """
    if backend not in ("auto", "torch", "cuda"):
        raise ValueError(f"backend must be auto, torch or cuda, got {backend!r}")
    global _backend
    _backend = backend


def chosen() -> Backend:
    """Return what `choose` was last called with; auto at the start."""
    return _backend


def runs_kernel(tensor: Tensor, name: str) -> bool:
    """Return whether an operation on `tensor` is to launch its kernel.

    Args:
        name: of the operation's argument that `tensor` is, for the error's sake.

    Raises:
        KernelError: backend cuda, and the tensor is not on a GPU or CuPy is missing.
    """
    if on_host is not None:
        return True
    if _backend == "torch":
        return False
    if not tensor.is_cuda:
        if _backend == "cuda":
            raise KernelError(
                f"{name} is on {tensor.device}, but precision.ops=cuda runs kernels on a GPU only; "
                "move it there, or set precision.ops=auto"
            )
        return False
    cupy = _cupy()
    if not isinstance(cupy, str):
        return True
    if _backend == "cuda":
        raise KernelError(f"precision.ops=cuda needs CuPy: {cupy}")
    _warn_once(f"raydet's operations run in PyTorch, more slowly: {cupy}")
    return False


def install_hint() -> str:
    """Return the command that installs the CuPy which fits this torch."""
    major = (torch.version.cuda or "13").partition(".")[0]
    return f"pip install cupy-cuda{major}x"


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@cache
def _cupy() -> Any:
    """Return the module, or why there is none and what to do."""
    # At the first launch, not at import: CuPy takes 1.5 s, makes its cache folder and must not be seen before a fork.
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return f"it is not installed; {install_hint()}"
        return f"it lacks {error.name}; {install_hint()}"
    except (ImportError, OSError) as error:
        return f"{error}; a cache folder that cannot be written is named by CUPY_CACHE_DIR, else {install_hint()}"
    return cupy


@dataclass(frozen=True)
class Kernel:
    """One `extern "C"` function of a .cu file of this folder, with the macros it is built with."""

    file: str
    name: str
    parameters: Mapping[str, Kind] = field(hash=False)
    """Name and kind of each, in order."""
    defines: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> str:
        """The text that is compiled: the prelude is pasted, since CuPy's cache does not see a changed header."""
        return (_FOLDER / "prelude.cuh").read_text() + (_FOLDER / self.file).read_text()

    @property
    def options(self) -> tuple[str, ...]:
        """Compiler options besides the architecture."""
        return ("-std=c++17", *(f"-D{name}={value}" for name, value in self.defines))

    @property
    def signature(self) -> str:
        """One letter a parameter: p pointer, i int32, l int64, f float32, d float64."""
        return "".join("p" if isinstance(k, torch.dtype) else _LETTERS[k] for k in self.parameters.values())

    def __call__(self, grid: Sequence[int], block: Sequence[int], *arguments: Argument) -> None:
        """Launch on the current stream of the tensors' device.

        Raises:
            TypeError, ValueError: an argument that the kernel cannot read; names it. KernelError: no way to compile it.
        """
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        values = [
            self._value(name, kind, argument, device)
            for (name, kind), argument in zip(self.parameters.items(), arguments, strict=True)
        ]
        if on_host is not None:
            on_host(self, grid, block, values)
            return
        if device.type != "cuda":
            raise KernelError(
                f"{self.name}: {next(iter(self.parameters))} is on {device}, but kernels run on a GPU only"
            )
        with nullcontext() if torch.cuda.current_device() == device.index else torch.cuda.device(device):
            stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
            try:
                _function(self)(tuple(grid), tuple(block), typed(self.signature, values), stream=stream)
            except Exception as error:
                raise _explained(self, error) from error

    def _value(self, name: str, kind: Kind, argument: Argument, device: torch.device) -> int | float:
        if isinstance(kind, str):
            assert isinstance(argument, int | float), name
            return argument
        if argument is None:
            return 0
        where = f"{self.name}: {name}"
        if not isinstance(argument, Tensor):
            raise TypeError(f"{where} must be a tensor, got {type(argument).__name__}")
        if argument.dtype != kind:
            raise TypeError(f"{where} must be {kind}, got {argument.dtype}; convert it with .to({kind})")
        if argument.device != device:
            raise ValueError(
                f"{where} is on {argument.device}, the others on {device}; move it with .to({str(device)!r})"
            )
        if not argument.is_contiguous():
            raise ValueError(f"{where} must be contiguous; call .contiguous()")
        address = argument.data_ptr()
        if address % _ALIGNMENT and argument.numel() > 1:
            raise ValueError(f"{where} must start at a multiple of {_ALIGNMENT} bytes; call .clone()")
        return address


def typed(signature: str, values: Sequence[int | float]) -> tuple[Any, ...]:
    """Return the values as CuPy must get them: a bare float would be a C double, whose lower half a float reads."""
    return tuple(_NUMBERS[letter](value) for letter, value in zip(signature, values, strict=True))


@dataclass(frozen=True, slots=True)
class _Stream:
    """All that CuPy's launcher asks of a stream."""

    ptr: int


@cache
def _function(kernel: Kernel) -> Callable[..., None]:
    # CuPy compiles it at its first call on a device and keeps one binary an architecture, also on disk.
    cupy = _cupy()
    if isinstance(cupy, str):
        raise KernelError(f"a CUDA kernel needs CuPy: {cupy}")
    module = cupy.RawModule(code=kernel.source, options=kernel.options)
    function: Callable[..., None] = module.get_function(kernel.name)
    return function


def _explained(kernel: Kernel, error: Exception) -> Exception:
    if isinstance(error, KernelError):
        return error
    text = str(error)
    if "InsufficientDriver" in text or "UNSUPPORTED_PTX" in text or "NO_BINARY_FOR_GPU" in text:
        remedy = f"the NVIDIA driver is too old for CuPy's CUDA; update it, or {install_hint()}"
    else:
        remedy = "precision.ops=torch runs without kernels"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return KernelError(f"{kernel.file}, {kernel.name}: {first}; {remedy}")


def aligned(tensor: Tensor) -> Tensor:
    """Return `tensor` contiguous and starting where vector loads may; a copy only where it is not."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor
