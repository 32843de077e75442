"""Runs the CUDA kernels of ops/ on the host: the same source, built by g++ with host_cuda.h, called through ctypes.

Under `on_host(order)` every launch takes CPU tensors and runs its threads and blocks one after the other, in an order
that `order` picks: 0 forward, 1 backward, 2 and more shuffled. A kernel that is right gives the same bits in all.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from raydet.ops import raw

ORDERS = (0, 1, 2, 3)
_SHIM = Path(__file__).parent / "host_cuda.h"
_FLAGS = (
    *("-O2", "-std=c++17", "-shared", "-fPIC", "-w", "-ffp-contract=off", "-fno-strict-aliasing"),
    "-U_FORTIFY_SOURCE",  # it takes a jump to another fiber's stack for an attack
    "-fno-gnu-unique",  # else a template's __shared__ is one for all libraries loaded
)
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int32, "l": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}


@contextmanager
def on_host(order: int = 0) -> Iterator[None]:
    """Send all kernel launches to the host while the context lasts."""
    assert raw.on_host is None

    def launch(kernel: raw.Kernel, grid: Sequence[int], block: Sequence[int], values: list[int | float]) -> None:
        run(kernel, grid, block, values, order)

    raw.on_host = launch
    try:
        yield
    finally:
        raw.on_host = None


def run(
    kernel: raw.Kernel, grid: Sequence[int], block: Sequence[int], values: Sequence[int | float], order: int = 0
) -> None:
    """Launch one kernel; raises RuntimeError for what a GPU would hang on or get wrong without a word."""
    library = built(kernel.source, kernel.name, kernel.options)
    signature = getattr(library, f"emusig_{kernel.name}")
    signature.restype = ctypes.c_char_p
    if signature().decode() != kernel.signature:
        raise TypeError(f"{kernel.name}: parameters are {kernel.signature}, in the source {signature().decode()}")
    sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
    numbers = [_TYPES[letter](value) for letter, value in zip(kernel.signature, values, strict=True)]
    pointers = (ctypes.c_void_p * len(numbers))(*(ctypes.addressof(n) for n in numbers))
    launch = getattr(library, f"emu_{kernel.name}")
    launch.restype = ctypes.c_char_p
    error = launch(sizes, pointers, order)
    if error:
        raise RuntimeError(f"{kernel.name}: {error.decode()}")


@cache
def built(source: str, name: str, options: tuple[str, ...]) -> Any:
    """Return the library that holds kernel `name`, built once for all processes and runs."""
    text = f'#include "{_SHIM}"\n{source}\nEMU_KERNEL({name})\n'
    key = hashlib.sha256(repr((text, _SHIM.read_text(), options, _FLAGS)).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"raydet-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}-{key}.so"
    if not path.exists():
        new = path.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CXX", "g++"), *_FLAGS, *options, "-x", "c++", "-", "-o", str(new)]
        subprocess.run(command, input=text, text=True, check=True)
        os.replace(new, path)
    return ctypes.CDLL(str(path))
