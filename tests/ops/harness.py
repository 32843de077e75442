"""Runs the CUDA kernels of ops/ on the host: the same source, built by g++ with host_cuda.h, called through ctypes.

Under `on_host(order)` every launch takes CPU tensors and runs its threads and blocks one after the other, in an order
that `order` picks: 0 forward, 1 backward, 2 and more shuffled. A kernel that is right gives the same bits in all.
What was never written shows: shared memory is filled with another pattern in each order, torch.empty's with NaN.
"""

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from raydet.ops import raw

ORDERS = (0, 1, 2, 3)
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(.*?\)\s*)?(\w+)\s*\(')
_HERE = Path(__file__).parent
_HEADER = _HERE / "host_cuda.h"
_LAUNCHER = """
extern "C" const char* {0}_signature() {{ return host::letters({0}); }}
extern "C" const char* {0}_launch(const uint3* sizes, void** values, int order) {{
  return host::launch({0}, sizes, values, order);
}}
"""
_FLAGS = (
    *("-DON_HOST", "-O2", "-std=c++17", "-fPIC", "-w", "-ffp-contract=off", "-fno-strict-aliasing"),
    # A GPU faults at a misaligned vector and shifts by 32 to 0 or not as it likes: neither shows on a host unasked.
    *("-fsanitize=alignment,null,bounds,shift,integer-divide-by-zero", "-Wl,--as-needed"),
    "-U_FORTIFY_SOURCE",  # it takes a jump to another fiber's stack for an attack
)
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int32, "l": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}


@contextmanager
def on_host(order: int = 0) -> Iterator[None]:
    """Send all kernel launches to the host while the context lasts."""
    assert raw.on_host is None

    def launch(kernel: raw.Kernel, grid: Sequence[int], block: Sequence[int], values: list[int | float]) -> None:
        run(kernel, grid, block, values, order)

    was_deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns: NaN, or the largest integer
    raw.on_host = launch
    try:
        yield
    finally:
        raw.on_host = None
        torch.use_deterministic_algorithms(was_deterministic)


def run(
    kernel: raw.Kernel, grid: Sequence[int], block: Sequence[int], values: Sequence[int | float], order: int = 0
) -> None:
    """Launch one kernel; raises RuntimeError for what a GPU would hang on or get wrong without a word."""
    library = built(kernel.source, kernel.options)
    signature = getattr(library, f"{kernel.name}_signature")().decode()
    if signature != kernel.signature:
        raise TypeError(f"{kernel.name}: parameters are {kernel.signature}, in the source {signature}")
    sizes = (*grid, 1, 1)[:3] + (*block, 1, 1)[:3]
    if math.prod(sizes[3:]) > 1024:
        raise RuntimeError(f"{kernel.name}: a block has more than 1024 threads")
    if max(sizes[1:3]) > 65535:
        raise RuntimeError(f"{kernel.name}: a grid has more than 65535 blocks along y or z")
    numbers = [_TYPES[letter](value) for letter, value in zip(kernel.signature, values, strict=True)]
    pointers = (ctypes.c_void_p * len(numbers))(*(ctypes.addressof(number) for number in numbers))
    error = getattr(library, f"{kernel.name}_launch")((ctypes.c_uint * 6)(*sizes), pointers, order)
    if error:
        raise RuntimeError(f"{kernel.name}: {error.decode()}")


@cache
def built(source: str, options: tuple[str, ...]) -> Any:
    """Return the library of all kernels in `source`, built once for all processes and runs."""
    prelude = (Path(raw.__file__).parent / "prelude.cuh").read_text()
    own = source.removeprefix(prelude)
    names = KERNEL.findall(own)
    text = "\n".join(
        (
            # In a nameless namespace a template's __shared__ is this library's own, and may lie in a section.
            '#include "host_cuda.h"\nnamespace {',
            f'#line 1 "prelude.cuh"\n{prelude if own != source else ""}',
            f'#line 1 "{names[0]}"\n{own}',
            "}",
            *(_LAUNCHER.format(name) for name in names),
        )
    )
    key = hashlib.sha256(repr((text, _HEADER.read_text(), options, _FLAGS)).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"raydet-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{names[0]}-{key}.so"
    if not path.exists():
        _build(text, options, path)
    library = ctypes.PyDLL(str(path))  # keeps Python's lock: the state of a running grid is one for the library
    for name in names:
        for function in ("launch", "signature"):
            getattr(library, f"{name}_{function}").restype = ctypes.c_char_p
    return library


def _build(text: str, options: tuple[str, ...], path: Path) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise FileNotFoundError(
            f"{compiler} is missing, which runs the kernels' tests on the host; install it (apt-get install g++), "
            "or name another compiler in CXX"
        )
    new = path.with_suffix(f".{os.getpid()}")
    command = [compiler, *_FLAGS, f"-I{_HERE}", *options, "-shared", "-x", "c++", "-", "-o", str(new)]
    done = subprocess.run(command, input=text, text=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise RuntimeError(f"{path.stem}: {compiler} says\n{done.stderr}")
    os.replace(new, path)
