"""How kernels are launched: who is chosen to compute, what CuPy is handed, and what a mistake is told."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet import ops
from raydet.ops import KernelError, choose, ema_update, focal_loss, raw
from tests.ops.harness import on_host

SCALE = raw.Kernel(
    "multi_tensor.cu", "ema_update", {"pairs": torch.int64, "decay": torch.float32}, (("VALUE", "float"),)
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    choose("auto")
    raw._cupy.cache_clear()
    raw._warn_once.cache_clear()


class OnGpu:
    """As much of a CUDA tensor as the choice looks at."""

    is_cuda = True
    device = torch.device("cuda:0")


def test_numbers_have_the_size_that_the_kernel_reads() -> None:
    given = raw.typed("pilfd", (2**40, 7, -1, 0.1, 0.1))
    assert [v.nbytes for v in given] == [8, 4, 8, 4, 8]
    assert given[0] == 2**40 and given[3] == np.float32(0.1) and given[4] == 0.1


def test_the_prelude_is_pasted_so_that_a_change_of_it_is_a_new_kernel() -> None:
    assert '#include "prelude' not in SCALE.source and "block_sum" in SCALE.source and "ema_update" in SCALE.source
    assert SCALE.options == ("-std=c++17", "-DVALUE=float") and SCALE.signature == "pp"


def test_a_cpu_computes_in_pytorch_unless_kernels_are_demanded() -> None:
    for backend in ("auto", "torch"):
        choose(backend)
        assert not raw.runs_kernel(torch.zeros(1), "logits")
    choose("cuda")
    with pytest.raises(KernelError, match=r"logits is on cpu, but precision\.ops=cuda .* set precision\.ops=auto"):
        focal_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 0.25, 1.5)
    with pytest.raises(KernelError, match="averages is on cpu"):
        ema_update([torch.zeros(1)], [torch.zeros(1)], 0.5)


def test_a_gpu_without_cupy_falls_back_with_one_warning_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    raw._cupy.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.warns(RuntimeWarning, match=r"in PyTorch, more slowly: it .*; pip install cupy-cuda1[0-9]x"):
        assert not raw.runs_kernel(OnGpu(), "logits")  # type: ignore[arg-type]
    choose("cuda")
    with pytest.raises(KernelError, match=r"precision\.ops=cuda needs CuPy: it .*; pip install cupy-cuda1[0-9]x"):
        raw.runs_kernel(OnGpu(), "logits")  # type: ignore[arg-type]
    choose("torch")
    assert not raw.runs_kernel(OnGpu(), "logits")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_gpu_with_cupy_runs_kernels() -> None:
    pytest.importorskip("cupy")
    assert raw.runs_kernel(OnGpu(), "logits")  # type: ignore[arg-type]


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be auto, torch or cuda, got 'gpu'"):
        choose("gpu")  # type: ignore[arg-type]
    assert ops.raw.chosen() == "auto"


@pytest.mark.parametrize(
    ("pairs", "decay", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(()), TypeError, r"pairs must be torch\.int64, got torch\.float32; .*\.to\("),
        (torch.zeros(3, dtype=torch.int64), 0.5, TypeError, "decay must be a tensor, got float"),
        (torch.zeros(6, dtype=torch.int64)[::2], torch.zeros(()), ValueError, r"pairs must be contiguous; call \.cont"),
        (torch.zeros(7, dtype=torch.int64)[1:], torch.zeros(()), ValueError, r"pairs must start at a multiple of 16"),
        (torch.zeros(3, dtype=torch.int64), torch.zeros((), device="meta"), ValueError, "decay is on meta, the others"),
    ],
)
def test_a_wrong_argument_is_named_with_the_remedy(
    pairs: torch.Tensor, decay: torch.Tensor, error: type[Exception], message: str
) -> None:
    with on_host(), pytest.raises(error, match=f"ema_update: {message}"):
        SCALE((1,), (32,), pairs, decay)


def test_a_launch_needs_a_gpu() -> None:
    with pytest.raises(KernelError, match="ema_update: pairs is on cpu, but kernels run on a GPU only"):
        SCALE((1,), (32,), torch.zeros(3, dtype=torch.int64), torch.zeros(()))


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        (
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient",
            "the NVIDIA driver is too old .* update it",
        ),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the NVIDIA driver is too old"),
        ("nvrtc: error: identifier x is undefined", r"precision\.ops=torch runs without kernels"),
    ],
)
def test_what_cupy_cannot_do_is_explained(problem: str, remedy: str) -> None:
    error = raw._explained(SCALE, RuntimeError(problem))
    assert isinstance(error, KernelError)
    with pytest.raises(KernelError, match=rf"multi_tensor\.cu, ema_update: .*{remedy}"):
        raise error


def test_a_cupy_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw._cupy.cache_clear()
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    (tmp_path / "cupy.py").write_text("raise FileNotFoundError('/nowhere/.cupy')")
    monkeypatch.syspath_prepend(tmp_path)
    choose("cuda")
    with pytest.raises(KernelError, match=r"needs CuPy: /nowhere/\.cupy; .* CUPY_CACHE_DIR"):
        raw.runs_kernel(OnGpu(), "logits")  # type: ignore[arg-type]
