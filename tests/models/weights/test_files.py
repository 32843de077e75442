import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raydet.exceptions import WeightsError
from raydet.models.weights import files
from raydet.models.weights.files import read, resolve


class _Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")  # torch's hint, beside our refusal
@pytest.mark.parametrize("forced", [False, True], ids=["", "with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("layout", ["in a dict", "in a state dict", "plain pickle", "legacy", "optimizer", "script"])
def test_code_in_a_file_never_runs(layout, forced, tmp_path, monkeypatch):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    evil = _Evil(marker)
    if layout == "plain pickle":
        path.write_bytes(pickle.dumps({"state_dict": evil}, protocol=2))
    elif layout == "script":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    else:
        content = {
            "in a dict": {"conv_stem.weight": torch.ones(2), "x": evil},
            "in a state dict": {"state_dict": {"conv_stem.weight": evil}},
            "legacy": {"state_dict": {"conv_stem.weight": torch.ones(2)}, "args": evil},
            "optimizer": {"state_dict": {"conv_stem.weight": torch.ones(2)}, "optimizer": {"state": [evil]}},
        }[layout]
        torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    with pytest.raises(WeightsError) as caught:
        read(path, ema=True)
    assert not marker.exists()
    assert len(str(caught.value).splitlines()) == 1
    if layout != "script":
        assert "pickled code" in str(caught.value) and "mkdir" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 60, 2000, -8])
def test_truncated_file_is_refused_in_one_line(suffix, kept, tmp_path):
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"conv_stem.weight": torch.ones(5000)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=str(path)) as caught:
        read(path, ema=True)
    assert len(str(caught.value).splitlines()) == 1


def test_header_of_safetensors_is_checked_first(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 50_000_000) + b" " * 64)
    with pytest.raises(WeightsError, match="a header of 50000000 bytes"):
        read(path, ema=True)
    entry = '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = ("{" + entry + "," + entry + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(WeightsError, match="'x' stands twice"):
        read(path, ema=True)


@pytest.mark.parametrize("spec", ["nowhere.pth", "/nowhere/at/all"])
def test_missing_path_is_named(spec):
    with pytest.raises(WeightsError, match=f"no such weights: {spec}"):
        resolve(spec)


def test_folder_without_weights_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no model\.safetensors in"):
        read(tmp_path, ema=True)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WeightsError, match=r"no checkpoint \(step_\*\)"):
        read(tmp_path, ema=True)


def test_file_without_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="holds no weights, only: epoch, lr"):
        read(tmp_path / "a.pth", ema=True)
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="holds no weights, only: list"):
        read(tmp_path / "b.pth", ema=True)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefixes_are_stripped(prefix, tmp_path):
    state = {f"{prefix}conv_stem.weight": torch.ones(2), f"{prefix}model_head": torch.ones(1)}
    state[f"{prefix.removesuffix('model.')}anchors.boxes"] = torch.zeros(4)
    torch.save(state, tmp_path / "a.pth")
    assert set(read(tmp_path / "a.pth", ema=True).tensors) == {"conv_stem.weight", "model_head"}


def test_folder_of_a_checkpoint_marks_the_file_as_ours(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert not read(tmp_path, ema=True).own
    (tmp_path / "state.json").write_text(json.dumps({}))
    assert read(tmp_path, ema=True).own


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """The hub, as a list of what was asked of it."""
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return tmp_path / file

    monkeypatch.setattr(files, "_hub_download", download)
    return asked


def test_resolve_hub(downloads, tmp_path):
    assert resolve("hf://timm/efficientnet_b0.ra_in1k/model.safetensors") == tmp_path / "model.safetensors"
    resolve("hf://a/b/folder/file.pth@v1.2")
    assert downloads == [
        ("timm/efficientnet_b0.ra_in1k", "model.safetensors", None),
        ("a/b", "folder/file.pth", "v1.2"),
    ]


@pytest.mark.parametrize("spec", ["hf://a/b", "hf://a", "hf://a/b/@main"])
def test_resolve_refuses_an_incomplete_hub_address(spec, downloads):
    with pytest.raises(WeightsError, match="must read hf://owner/repository/file"):
        resolve(spec)
    assert downloads == []


def test_resolve_timm(downloads):
    pytest.importorskip("timm")
    resolve("timm:tf_efficientnet_b0.ns_jft_in1k")
    assert downloads == [("timm/tf_efficientnet_b0.ns_jft_in1k", "model.safetensors", None)]
    with pytest.raises(WeightsError, match=r"timm .* weights named 'efficientnet_b77'"):
        resolve("timm:efficientnet_b77")


def test_resolve_names_the_pip_line_where_timm_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm.models", None)
    with pytest.raises(WeightsError, match="pip install timm huggingface_hub"):
        resolve("timm:efficientnet_b0")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **kwargs):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(WeightsError, match=r"cannot download c\.pth of a/b: no route to host$"):
        resolve("hf://a/b/c.pth")


def test_the_hubs_folder_names_the_variant(tmp_path):
    folder = tmp_path / "models--timm--tf_efficientnet_b0.ns_jft_in1k" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    names = read(Path(folder / "model.safetensors"), ema=True).names
    assert "models--timm--tf_efficientnet_b0.ns_jft_in1k" in names
