"""Every kernel compiles for every architecture we name, within registers, and moves memory in whole vectors."""

from pathlib import Path

import pytest
import torch

from raydet.ops import raw
from tests.ops.harness import KERNEL
from tests.ops.nvrtc import ARCHITECTURES, compiled, label, modules

pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="NVRTC comes with CuPy")

KERNELS = {label(kernel): kernel for module in modules() for kernel in module.kernels()}
# A module says by STREAMING which of its kernels read (ld) or write (st) long tensors: 16 bytes an instruction then.
STREAMING = {name: kinds for module in modules() for name, kinds in getattr(module, "STREAMING", {}).items()}
QUICK = "sm_90"
CASES = [
    pytest.param(name, architecture, marks=() if architecture == QUICK else pytest.mark.slow)
    for architecture in ARCHITECTURES
    for name in KERNELS
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_a_kernel_fits_a_multiprocessor(name: str, architecture: str) -> None:
    kernel = KERNELS[name]
    result = compiled(kernel, architecture)
    said = f"{name} for {architecture}: {result.registers} registers, {result.spilled_bytes} bytes spilled, "
    said += f"{result.stack_bytes} of stack, {result.shared_bytes} of shared memory"
    print(said)
    assert result.shared_bytes <= 48 << 10, said
    assert result.spilled_bytes == 0 and result.stack_bytes == 0, said
    for_gradcheck = ("SCALAR", "double") in kernel.defines  # never run on a GPU for its speed
    assert result.registers <= (128 if for_gradcheck else 64), said


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_parameters_are_the_sources(name: str) -> None:
    assert compiled(KERNELS[name], QUICK).signature == KERNELS[name].signature.replace("p", "l")


@pytest.mark.parametrize("name", [name for name in KERNELS if KERNELS[name].name in STREAMING])
def test_a_streaming_kernel_moves_16_bytes_an_instruction(name: str) -> None:
    result = compiled(KERNELS[name], QUICK)
    for instruction in STREAMING[KERNELS[name].name]:
        assert result.moves_16_bytes(instruction), f"{name} has no {instruction} of 16 bytes"


def test_every_kernel_of_every_source_is_compiled() -> None:
    folder = Path(raw.__file__).parent
    written = {(file.name, name) for file in folder.glob("*.cu") for name in KERNEL.findall(file.read_text())}
    assert written == {(kernel.file, kernel.name) for kernel in KERNELS.values()}


def test_an_error_of_the_compiler_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "wrong.cu"
    path.write_text('extern "C" __global__ void wrong(float* y) { *y = no_such_name; }')
    with pytest.raises(RuntimeError, match=r"wrong.cu for sm_90: .*no_such_name"):
        compiled(raw.Kernel(str(path), "wrong", {"y": torch.float32}), QUICK)
