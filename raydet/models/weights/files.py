"""Weight files: where they lie, and reading them without running anything that is in them.

Only two readers are used: `torch.load(weights_only=True)`, which an environment variable cannot switch off because the
argument is explicit, and safetensors after a check of its header (docs/faults.md S1, S13).
"""

import argparse
import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from raydet.exceptions import UnsafeWeights, WeightsError
from raydet.io import safetensors_file
from raydet.models.weights.networks import network_in
from raydet.models.weights.published import PUBLISHED, fetch

HUB_INSTALL = "pip install timm huggingface_hub"
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_STATES = ("state_dict", "model", "model_state_dict", "net", "weights")
"""Where training programs keep the network in what they save."""
_SAFE = "Where it was made and is trusted, save the weights alone: torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What a file holds, before any name in it is understood."""

    path: Path
    tensors: dict[str, Tensor]
    """By the file's own names, less what wrappers put before them."""
    own: bool = False
    """Whether raydet wrote it: then boxes are coded (tx, ty, tw, th)."""
    names: tuple[str, ...] = field(default=())
    """Texts that may name the variant: the file, a hub's folder, the architecture a checkpoint records."""
    beside: tuple[str, ...] = field(default=())
    """Names in the file that are no part of the network."""


def is_path(spec: str) -> bool:
    """Whether `spec` means a place on this machine's disks."""
    return "://" not in spec and not spec.startswith(("timm:", "effdet:", "torchvision:"))


def resolve(spec: str | Path) -> Path:
    """Return the local path that `spec` means, downloading it where it names a hub.

    Args:
        spec: a path, `effdet:NAME`, `torchvision:NAME`, `timm:NAME` (published weights, see `published`) or
            `hf://owner/repository/file`, the last with an optional `@revision`.

    Raises:
        WeightsError: the path does not exist, the form is wrong, timm has no such weights, or the hub cannot be asked.
    """
    text = str(spec)
    if text in PUBLISHED:
        return fetch(text)
    if text.startswith(("effdet:", "torchvision:")):
        kind = text.partition(":")[0]
        known = ", ".join(name for name in PUBLISHED if name.startswith(kind))
        raise WeightsError(f"no weights named {text!r}; known are {known}")
    if text.startswith("timm:"):
        return _from_timm(text.removeprefix("timm:"))
    if text.startswith("hf://"):
        form = re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+)(?:@(.+))?", text)
        if form is None:
            raise WeightsError(f"{text!r} must read hf://owner/repository/file or hf://owner/repository/file@revision")
        return _hub_download(form[1], form[2], form[3])
    path = Path(spec).expanduser()
    if not path.exists():
        raise WeightsError(f"no such weights: {path}")
    return path


def _from_timm(name: str) -> Path:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise WeightsError(f"timm:{name} needs timm: {HUB_INSTALL}") from error
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise WeightsError(f"timm has no weights named {name!r}: {error}") from error
    if not cfg or not cfg.hf_hub_id:
        raise WeightsError(f"timm keeps no weights named {name!r} on the hub")
    return _hub_download(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors", None)


def _hub_download(repository: str, file: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(f"hf://{repository}/{file} needs huggingface_hub: {HUB_INSTALL}") from error
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except (OSError, ValueError) as error:  # the library's own errors are kinds of these
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"cannot download {file} of {repository}: {reason}") from error


def read(path: Path, *, ema: bool, pick: Callable[[list[Path]], Path] | None = None) -> WeightFile:
    """Return the tensors at `path`.

    Args:
        path: a file, a checkpoint's folder (`step_00001200`) or a run's folder.
        ema: take the averaged weights where there are any.
        pick: chooses among a run's checkpoint folders, given from the oldest to the newest; None takes the newest.

    Raises:
        WeightsError: missing, truncated, no weights in it, or code in it.
    """
    if path.is_dir():
        path = _file_in(_checkpoint_in(path, pick), ema)
    if not path.is_file():
        raise WeightsError(f"no such weights: {path}")
    file = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, ema)
    try:
        network = network_in(file.tensors, ema=ema)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return replace(file, tensors=network.tensors, beside=network.beside)


def _checkpoint_in(folder: Path, pick: Callable[[list[Path]], Path] | None) -> Path:
    parent = folder / "checkpoints"
    if not parent.is_dir():
        return folder
    found = [(int(match[1]), p) for p in parent.iterdir() if (match := re.fullmatch(r"step_(\d+)", p.name))]
    if not found:
        raise WeightsError(f"no checkpoint (step_*) in {parent}")
    steps = [p for _, p in sorted(found)]
    return steps[-1] if pick is None else pick(steps)


def _file_in(folder: Path, ema: bool) -> Path:
    for name in ("ema.safetensors", "model.safetensors") if ema else ("model.safetensors",):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"no model.safetensors in {folder}; give a checkpoint's or a run's folder, or a file")


def _read_safetensors(path: Path) -> WeightFile:
    data = path.read_bytes()
    try:
        tensors = safetensors_file.read(data)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    length = struct.unpack("<Q", data[:8])[0]
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    # A copy of a checkpoint's file carries nothing of its origin, unless whoever wrote it put it into the metadata.
    own = "raydet" in metadata or (path.parent / "state.json").is_file()
    names = [str(metadata[key]) for key in ("raydet", "architecture", "arch", "model") if key in metadata]
    return WeightFile(path, tensors, own, (*names, *_names_in_path(path)))


def _read_torch(path: Path, ema: bool) -> WeightFile:
    try:
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"nsupported (?:global: )?(?:GLOBAL|class) (\S+)", str(error))
        reason = "it is truncated or no PyTorch file" if code is None else f"it holds pickled code ({code[1]}). {_SAFE}"
        raise (WeightsError if code is None else UnsafeWeights)(f"{path} is refused: {reason}") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the reader has no kind of its own: RuntimeError, EOFError, KeyError, ... for bad bytes
        raise WeightsError(f"{path} cannot be read: it is truncated or no PyTorch file") from error
    tensors = _state_dict(content, path, ema)
    arch = content.get("arch") if isinstance(content, Mapping) else None
    names = (*([arch] if isinstance(arch, str) else []), *_names_in_path(path))
    return WeightFile(path, tensors, names=names)


def _harmless() -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """Return what training checkpoints hold besides tensors: the command line, and scores as NumPy numbers."""
    allowed: list[Callable[..., object]] = [argparse.Namespace]
    try:
        import numpy as np
        from numpy._core.multiarray import scalar
    except ImportError:
        return [*allowed]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)]
    return [*allowed, np.dtype, *kinds, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _state_dict(content: object, path: Path, ema: bool) -> dict[str, Tensor]:
    """Return the tensors of a flat or of a training dict."""
    if isinstance(content, Mapping):
        for key in (*(_AVERAGED if ema else ()), *_STATES, ""):
            state = content.get(key) if key else content
            if isinstance(state, Mapping):
                tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
                if tensors:
                    return tensors
    held = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(f"{path} holds no weights, only: {held}")


def _names_in_path(path: Path) -> tuple[str, ...]:
    """Return the file's name and, in the hub's cache, the repository's folder."""
    return (path.name, *(part for part in path.parts if part.startswith("models--")))
