"""One checkpoint: every byte guarded, hostile files refused (docs/faults.md F05, B6, S1, S13, S14)."""

import errno
import hashlib
import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.exceptions import CheckpointError
from raydet.runs import checkpoint, checkpoint_store
from raydet.runs.checkpoint import canonical

TENSORS = {"model": {"w": torch.arange(12.0).reshape(3, 4), "n": torch.tensor(7)}, "ema": {"w": torch.ones(2)}}


STATE = {"epoch": 3, "sampler": [1, 2], "name": "né"}


def save(folder: Path, step: int, value: float = 0.5, **more: Any) -> Path:
    return checkpoint_store.save(folder, step, TENSORS, STATE | {"at": step}, {"map": value}, **more)


def break_it(path: Path, file: str = "model.safetensors") -> None:
    data = bytearray((path / file).read_bytes())
    data[-1] ^= 1
    (path / file).write_bytes(data)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def raw(t: torch.Tensor) -> bytes:
        return bytes(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy())

    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def test_a_checkpoint_returns_what_was_saved(tmp_path: Path) -> None:
    found = checkpoint_store.read(save(tmp_path, 1200))
    assert found.path.name == "step_00001200"
    assert (found.step, found.epoch, found.metrics, found.names) == (1200, 3, {"map": 0.5}, ["ema", "model"])
    assert found.state() == STATE | {"at": 1200}
    assert same_bits(found.tensors("model")["w"], TENSORS["model"]["w"])
    assert same_bits(found.tensors("model")["n"], TENSORS["model"]["n"])


@pytest.mark.parametrize("name", ["../model", "a/b", "", ".hidden", "x" * 65])
def test_save_refuses_a_file_name_that_leaves_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file's name"):
        checkpoint_store.save(tmp_path / "in", 1, {name: {}}, {}, {})
    assert list(tmp_path.rglob("*")) == []


def test_files_are_closed_to_other_users(tmp_path: Path) -> None:
    path = save(tmp_path / "run" / "checkpoints", 1)
    assert [oct(p.stat().st_mode & 0o7777) for p in (path.parent.parent, path.parent, path)] == ["0o750"] * 3
    assert {oct(p.stat().st_mode & 0o7777) for p in path.iterdir()} == {"0o640"}


def _refused(path: Path) -> bool:
    try:
        found = checkpoint_store.read(path)
        for name in found.names:
            found.tensors(name)
        found.state()
    except CheckpointError:
        return True
    return False


def test_no_single_byte_flip_is_loaded_silently(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    files = sorted(path.iterdir())
    rng = random.Random(0)
    silent = []
    for i in range(200):
        file = files[i % len(files)]
        good = file.read_bytes()
        at, bit = rng.randrange(len(good)), rng.randrange(1, 256)
        file.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        if not _refused(path):
            silent.append((file.name, at, bit))
        file.write_bytes(good)
    assert silent == []
    assert not _refused(path)


def test_no_truncation_or_addition_is_loaded_silently(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    files = sorted(path.iterdir())
    rng = random.Random(1)
    for i in range(50):
        file = files[i % len(files)]
        good = file.read_bytes()
        file.write_bytes(good[: rng.randrange(len(good))])
        assert _refused(path), file
        file.write_bytes(good + b"\n")
        assert _refused(path), file
        file.write_bytes(good)
    for file in files:
        file.rename(tmp_path / "away")
        with pytest.raises(CheckpointError, match=file.name):
            checkpoint_store.read(path)
        (tmp_path / "away").rename(file)


def test_a_change_after_the_check_is_noticed_when_loading(tmp_path: Path) -> None:
    found = checkpoint_store.read(save(tmp_path, 1))
    break_it(found.path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*changed"):
        found.tensors("model")
    break_it(found.path, "state.json")
    with pytest.raises(CheckpointError, match=r"state\.json.*changed"):
        found.state()


def test_all_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    real_open, real_fsync, real_rename = os.open, os.fsync, os.rename

    def opened(path: Any, *args: Any, **kwargs: Any) -> int:
        handle = real_open(path, *args, **kwargs)
        names[handle] = Path(path).name
        return handle

    def synced(handle: int) -> None:
        real_fsync(handle)
        done.append(("sync", names[handle]))

    def renamed(source: Path, target: Path) -> None:
        real_rename(source, target)
        done.append(("rename", source.name))

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    save(tmp_path, 1)
    part = done[-2][1]
    assert part.startswith(".tmp-")
    files = [("sync", f) for f in ("model.safetensors", "ema.safetensors", "state.json", "MANIFEST.json")]
    assert done == [*files, ("sync", part), ("rename", part), ("sync", tmp_path.name)]


def test_a_failed_rename_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1, 0.1)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if source.name.startswith(".tmp-") and target == path:
            raise PermissionError(errno.EACCES, "no")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(PermissionError):
        save(tmp_path, 1, 0.2)
    assert checkpoint_store.read(path).metrics == {"map": 0.1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_step_saved_again_replaces_the_old(tmp_path: Path) -> None:
    save(tmp_path, 1, 0.1)
    path = save(tmp_path, 1, 0.2)
    assert checkpoint_store.read(path).metrics == {"map": 0.2}
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def forge(path: Path, name: str, data: bytes, **changes: Any) -> Path:
    """Write a checkpoint whose manifest is right about a file that is not."""
    path.mkdir(parents=True)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(data)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    body = checkpoint.manifest_body(1, 0, {}, {name: record}) | changes
    (path / "MANIFEST.json").write_bytes(canonical(body))
    return path


def header(text: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "header|short|cut"),
        (pickle.dumps({"a": 1}), "header"),
        (b"PK\x03\x04" + b"\0" * 100, "header"),
        (header(f'{{"a":{ENTRY},"a":{ENTRY}}}', b"\0" * 4), "twice"),
        (header('{"a":{"dtype":"F32","dtype":"I8","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4), "twice"),
        (struct.pack("<Q", 10_000_001) + b" " * 10_000_001, "10000000 are allowed"),
        (header("{" + ",".join(f'"{i}":{ENTRY}' for i in range(20_001)) + "}", b"\0" * 4), "20000"),
        (header("[" * 100_000), "not JSON"),
        (header("\udcff".encode("utf-8", "surrogatepass").decode("latin-1")), "not JSON"),
        (header("[]"), "object"),
    ],
    ids=["empty", "pickle", "zip", "twice", "twice inside", "long", "many", "deep", "bytes", "list"],
)
def test_an_evil_safetensors_file_is_refused_before_the_library_sees_it(
    tmp_path: Path, data: bytes, cause: str
) -> None:
    path = forge(tmp_path / "step_00000001", "model.safetensors", data)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*({cause})"):
        checkpoint_store.read(path)


@pytest.mark.parametrize(
    "data",
    [
        header('{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}', b"\0" * 4),
        header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}}', b"\0" * 4),
        header('{"a":{"dtype":"EVIL","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        header('{"a":7}'),
    ],
)
def test_a_header_that_lies_is_refused_on_loading(tmp_path: Path, data: bytes) -> None:
    found = checkpoint_store.read(forge(tmp_path / "step_00000001", "model.safetensors", data))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        found.tensors("model")


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "data.pt2", "model.bin", "sub/model.safetensors", "x.json"])
def test_only_safetensors_and_state_json_are_ever_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    path = forge(tmp_path / "step_00000001", name, pickle.dumps(Evil(marker)))
    with pytest.raises(CheckpointError):
        checkpoint_store.read(path)
    assert not marker.exists()


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(header("{}"))
    path = forge(tmp_path / "step_00000001", "model.safetensors", header("{}"), files={})
    record = {"bytes": 10, "sha256": hashlib.sha256(header("{}")).hexdigest()}
    body = checkpoint.manifest_body(1, 0, {}, {"../model.safetensors": record})
    (path / "MANIFEST.json").write_bytes(canonical(body))
    with pytest.raises(CheckpointError):
        found = checkpoint_store.read(path)
        found.tensors("../model")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [({"format": 2}, "format 2; this raydet reads format 1"), ({"files": 3}, "MANIFEST"), ({"step": "x"}, "MANIFEST")],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    path = forge(tmp_path / "step_00000001", "state.json", b"{}", **changes)
    with pytest.raises(CheckpointError, match=cause):
        checkpoint_store.read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format": 1}', "\xff"])
def test_a_manifest_of_rubbish_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "step_00000001"
    path.mkdir()
    (path / "MANIFEST.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        checkpoint_store.read(path)


def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name in ("model.safetensors", "MANIFEST.json"):
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(CheckpointError):
            checkpoint_store.read(path)


def test_files_that_the_manifest_does_not_name_are_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / ".metadata.json").write_text("{}")  # Ray puts one into every checkpoint it registers
    assert checkpoint_store.read(path).names == ["ema", "model"]


def test_an_old_checkpoint_of_this_format_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001"
    path.mkdir()
    entry = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (path / "model.safetensors").write_bytes(header(entry, struct.pack("<f", 1.5)))
    (path / "state.json").write_text('{"epoch": 2}')
    (path / "MANIFEST.json").write_text(OLD_MANIFEST)
    found = checkpoint_store.read(path)
    assert found.tensors("model")["a"].tolist() == [1.5] and found.state() == {"epoch": 2} and found.epoch == 2


OLD_MANIFEST = """\
{
 "epoch": 2,
 "files": {
  "model.safetensors": {
   "bytes": 66,
   "sha256": "70dae5f20019ccde7b3925dc1bb8c2da1ee633adcc6ef37009b68354ee2d665e"
  },
  "state.json": {
   "bytes": 12,
   "sha256": "d93f0c9cbbf4c94f73ab2bb36b32023121c9bcfcb3221e3b915f9f46f4f76648"
  }
 },
 "format": 1,
 "metrics": {
  "map": 0.25
 },
 "raydet": "0.1.0",
 "sha256": "f58425d95cac922d559dad09644460ad29b7ef46ecf1e96ad6cc9631748c8607",
 "step": 1
}
"""


def test_the_manifest_is_plain_json_for_other_tools(tmp_path: Path) -> None:
    manifest = json.loads((save(tmp_path, 1) / "MANIFEST.json").read_text())
    assert manifest["step"] == 1 and manifest["files"]["model.safetensors"].keys() == {"bytes", "sha256"}
