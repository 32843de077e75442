"""Tensors come back from a file as they went in, whatever their strides."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raydet.io import safetensors_file
from raydet.runs import checkpoint_store


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def raw(t: torch.Tensor) -> bytes:
        return bytes(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy())

    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def test_awkward_tensors_survive_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    group = {
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": torch.tensor([1.0]).expand(5),
        "shared_a": base,
        "shared_b": base,
        "slice": base[1],
        "scalar": torch.tensor(3.25),
        "int64": torch.tensor([2**62, -1]),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "bf16": base.to(torch.bfloat16),
        "fp16": base.to(torch.float16),
        "fp64": base.double(),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "param": torch.nn.Parameter(base.clone()),
        "név ☃": torch.ones(1),
    }
    path = checkpoint_store.save(tmp_path, 1, {"model": group}, {}, {})
    loaded = checkpoint_store.read(path).tensors("model")
    assert loaded.keys() == group.keys()
    for name, tensor in group.items():
        assert same_bits(loaded[name], tensor), name
    library = load_file(path / "model.safetensors")
    assert all(same_bits(library[name], tensor) for name, tensor in group.items())


def test_an_empty_group_of_tensors_is_allowed(tmp_path: Path) -> None:
    assert checkpoint_store.read(checkpoint_store.save(tmp_path, 1, {"optim": {}}, {}, {})).tensors("optim") == {}


def test_save_names_the_tensor_that_the_format_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'z'.*complex64"):
        checkpoint_store.save(tmp_path, 1, {"model": {"z": torch.zeros(1, dtype=torch.complex64)}}, {}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_too_many_tensors_are_refused_when_saving(tmp_path: Path) -> None:
    many = dict.fromkeys(map(str, range(safetensors_file.TENSOR_LIMIT + 1)), torch.zeros(0))
    with pytest.raises(ValueError, match="20001 tensors"):
        checkpoint_store.save(tmp_path, 1, {"model": many}, {}, {})
