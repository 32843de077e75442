"""Compiles kernels by NVRTC as CuPy would, for any architecture: without a GPU, and without a driver.

`python -m tests.ops.nvrtc` prints what each kernel takes of a multiprocessor.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import raydet.ops
from raydet.ops import raw

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")  # A100, H100 and H200, B200
# What CuPy 14 adds to the options of every RawModule (cupy/cuda/compiler.py); -ftz=true cannot be taken back.
_CUPYS = ("-ftz=true", "--device-as-default-execution-space")
_PTX_LETTERS = {"64": "l", "32": "i"}


@dataclass(frozen=True)
class Compiled:
    """What ptxas says of one kernel, and its PTX from the parameters on."""

    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    ptx: str

    @property
    def signature(self) -> str:
        """As `raw.Kernel.signature`, but a pointer is an l: to PTX it is a number of 64 bits."""
        types = re.findall(r"\.param \.([a-z])(\d+)", self.ptx[: self.ptx.index(")")])
        floats = {"64": "d", "32": "f"}
        return "".join((floats if kind == "f" else _PTX_LETTERS)[bits] for kind, bits in types)

    def moves_16_bytes(self, instruction: str) -> bool:
        """Return whether a global `instruction` (ld or st) of 16 bytes is there."""
        return bool(re.search(rf"\b{instruction}\.global(\.nc)?(\.L\w+)*\.(v4\.[a-z]32|v2\.[a-z]64)\b", self.ptx))


def modules() -> Iterator[ModuleType]:
    """Yield the modules of raydet.ops that have kernels."""
    for found in sorted(pkgutil.iter_modules(raydet.ops.__path__), key=lambda found: found.name):
        module = importlib.import_module(f"raydet.ops.{found.name}")
        if hasattr(module, "kernels"):
            yield module


def label(kernel: raw.Kernel) -> str:
    """Return the kernel's name and the values of its macros."""
    return "-".join([kernel.name, *(value for _, value in kernel.defines)])


def compiled(kernel: raw.Kernel, architecture: str) -> Compiled:
    """Return what the compiler makes of `kernel`; raises RuntimeError with its log."""
    log, ptx = _program(kernel.source, kernel.file, kernel.options, architecture)
    part = log.split(f"Compiling entry function '{kernel.name}'")[1].split("Compiling entry function")[0]
    text = re.split(rf"\.entry {kernel.name}\(", ptx)[1].split(".entry ")[0]

    def number(pattern: str) -> int:
        return sum(int(found) for found in re.findall(pattern, part))

    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    sizes = number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes smem")
    return Compiled(number(r"Used (\d+) registers"), spilled, *sizes, text)


@cache  # a file's kernels are compiled together
def _program(source: str, file: str, options: tuple[str, ...], architecture: str) -> tuple[str, str]:
    from cuda.pathfinder import find_nvidia_header_directory
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source, file, (), ())
    headers = f"-I{find_nvidia_header_directory('cudart')}"
    given = (*options, f"--gpu-architecture={architecture}", headers, *_CUPYS, "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, given)
        return nvrtc.getProgramLog(program), nvrtc.getPTX(program).decode()
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{file} for {architecture}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


def _table() -> None:
    print(
        "| kernel | " + " | ".join(ARCHITECTURES) + " | shared memory, bytes |\n|" + "---|" * (len(ARCHITECTURES) + 2)
    )
    for module in modules():
        for kernel in module.kernels():
            results = [compiled(kernel, architecture) for architecture in ARCHITECTURES]
            cells = [f"{r.registers}" + f" (+{r.spilled_bytes} spilled)" * bool(r.spilled_bytes) for r in results]
            print(f"| {label(kernel)} | {' | '.join(cells)} | {max(r.shared_bytes for r in results)} |")


if __name__ == "__main__":
    _table()
