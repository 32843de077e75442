"""A run's checkpoints: saved whole or not at all, found again by step, pruned without ever losing the last good one.

`<folder>/step_00001200/{<name>.safetensors ..., state.json, MANIFEST.json}`, see raydet.runs.checkpoint. Order is by
step, never by a file's time. Design and the faults behind it: docs/faults.md B6, F03-F06, F16, F19. Given up: object
stores, which have no rename; a run's folder must be a file system.

One process writes a folder at a time (rank 0 of the run that holds it); any number may read.
"""

import errno
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from raydet.exceptions import CheckpointError as CheckpointError
from raydet.exceptions import StorageFull
from raydet.io import safetensors_file
from raydet.io.files import make_folder
from raydet.io.jsonable import JSON
from raydet.runs.checkpoint import Checkpoint as Checkpoint
from raydet.runs.checkpoint import peek, remove, write
from raydet.runs.checkpoint import read as read

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ENTRY = re.compile(r"(\.old-)?step_(\d{8,})(?:-[0-9a-f]{32})?")
_MARGIN = 1.5
"""Free space asked for before a save, in sizes of the checkpoint: room for it and for the logs beside it."""


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, JSON],
    metrics: Mapping[str, float],
    best: Path | None = None,
) -> Path:
    """Return the folder of a new checkpoint once all of it is on the disk.

    A checkpoint of the same step is replaced. When the disk is full, the oldest are removed to make room, but never the
    newest good one nor `best`.

    Args:
        tensors: file name without suffix (model, ema, optim) -> tensor name -> tensor, of any device and strides.
        state: JSON values with text keys; `epoch` (epochs done) is also kept in the manifest.
        metrics: figures for `best()`.
        best: the checkpoint not to remove in need.

    Raises:
        StorageFull: no room for it.
        ValueError: a file name, tensor or value that the format cannot hold.
    """
    for name in tensors:
        if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):
            raise ValueError(f"tensors[{name!r}]: a file's name is 1 to 64 letters, digits and underscores")
    text = json.dumps(state)
    need = int(_MARGIN * (sum(safetensors_file.size_bytes(group) for group in tensors.values()) + len(text)))
    make_folder(folder)
    if _free_bytes(folder) < need and not _make_room(folder, need, best):
        raise StorageFull(folder, need, _free_bytes(folder))
    try:
        return write(folder, step, tensors, text, metrics)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        cause = error
    _drop_oldest(folder, best)
    try:
        return write(folder, step, tensors, text, metrics)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(folder, need, _free_bytes(folder)) from cause


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _step_of(path: Path) -> int:
    found = _ENTRY.fullmatch(path.name)
    return int(found[2]) if found else -1


def _entries(folder: Path) -> list[Path]:
    """Return the checkpoint folders, highest step first, damaged ones included; of one step the one in place first."""
    found = [path for path in folder.iterdir() if _ENTRY.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (-_step_of(path), path.name.startswith(".")))


def last_step(folder: Path) -> int:
    """Return the highest step of which there is a checkpoint, whole or not; -1 where there is none."""
    return next(map(_step_of, _entries(folder)), -1)


def entries(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints in place, lowest step first, damaged ones included."""
    return [path for path in reversed(_entries(folder)) if not path.name.startswith(".")]


def size_bytes(path: Path) -> int:
    """Return how much the files of a checkpoint take."""
    return sum(file.stat().st_size for file in path.iterdir())


def newest(folder: Path) -> Checkpoint | None:
    """Return the highest step's checkpoint that verifies; None where there is none. Damaged ones are warned of."""
    skipped: list[CheckpointError] = []
    found: Checkpoint | None = None
    for path in _entries(folder):
        try:
            found = read(path)
            break
        except CheckpointError as error:
            skipped.append(error)
    for cause in skipped:
        instead = f"{found.path} is used instead" if found else "no good one is left"
        warnings.warn(f"damaged checkpoint skipped: {cause}; {instead}", RuntimeWarning, stacklevel=2)
    return found


def best(folder: Path, metric: str, mode: Literal["max", "min"]) -> Checkpoint | None:
    """Return the checkpoint with the best `metric`, the earliest of equals; None where none has a finite one."""
    found: list[tuple[float, int, Path]] = []
    for path in _entries(folder):
        try:
            seen = peek(path)
        except CheckpointError as error:
            warnings.warn(f"damaged checkpoint skipped: {error}", RuntimeWarning, stacklevel=2)
            continue
        value = seen.metrics.get(metric, math.nan)
        if math.isfinite(value):
            found.append((-value if mode == "max" else value, seen.step, path))
    for _, _, path in sorted(found):
        try:
            return read(path)
        except CheckpointError as error:
            warnings.warn(f"damaged checkpoint skipped: {error}", RuntimeWarning, stacklevel=2)
    return None


def prune(folder: Path, keep: int, best: Path | None) -> list[Path]:
    """Remove all checkpoints but the `keep` newest good ones and `best`; return the removed.

    Nothing is removed unless a newer checkpoint verifies: the last good one always stays.
    """
    found = newest(folder)
    if found is None:
        return []
    sweep(folder)
    kept, removed = 1, []
    for path in _entries(folder):
        if _step_of(path) >= _step_of(found.path) or _same(path, best):
            continue
        if kept < keep and _is_whole(path):
            kept += 1
            continue
        remove(path)
        removed.append(path)
    return removed


def sweep(folder: Path) -> list[Path]:
    """Remove what crashes left over, and return it. For the one process that writes here, while it is not saving."""
    removed = [path for path in folder.iterdir() if path.name.startswith(".tmp-")] if folder.is_dir() else []
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    for old in [path for path in _entries(folder) if path.name.startswith(".old-")]:
        target = folder / f"step_{_step_of(old):08d}"
        if not target.exists():  # the crash came between the two renames of a replacement
            os.rename(old, target)
        elif _verifies(target):
            remove(old)
            removed.append(old)
    return removed


def _is_whole(path: Path) -> bool:
    try:
        peek(path)
    except CheckpointError:
        return False
    return True


def _verifies(path: Path) -> bool:
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def _same(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()


def _spare(folder: Path, best: Path | None) -> list[Path]:
    """Return the checkpoints that may go in need, oldest first: none newer than the newest good one, not the best."""
    good = next((path for path in _entries(folder) if _verifies(path)), None)
    if good is None:
        return []
    return [p for p in reversed(_entries(folder)) if _step_of(p) < _step_of(good) and not _same(p, best)]


def _drop_oldest(folder: Path, best: Path | None) -> None:
    sweep(folder)
    for path in _spare(folder, best)[:1]:
        remove(path)


def _make_room(folder: Path, need: int, best: Path | None) -> bool:
    """Remove the fewest old checkpoints that make `need` bytes free; none where all would not be enough."""
    sweep(folder)
    spare = _spare(folder, best)
    if _free_bytes(folder) + sum(map(size_bytes, spare)) < need:
        return False
    for path in spare:
        if _free_bytes(folder) >= need:
            break
        remove(path)
    return _free_bytes(folder) >= need
