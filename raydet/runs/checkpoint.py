"""One checkpoint: written whole or not at all; nothing in it believed before manifest, sizes and checksums agree.

MANIFEST.json is canonical JSON that holds the SHA-256 of every file and of itself, so any flipped bit anywhere is seen.
That protects from faults, not from forgers; against those stands that only safetensors and JSON are ever parsed.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydet import __version__
from raydet.exceptions import CheckpointError
from raydet.io import safetensors_file
from raydet.io.files import FILE_MODE, FOLDER_MODE
from raydet.io.jsonable import JSON, plain

MANIFEST, STATE = "MANIFEST.json", "state.json"
FORMAT_VERSION = 1
"""Version of the folder's format; raised when an older raydet could not read it."""

_JSON_LIMIT_BYTES = 64_000_000
_FILE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}\.safetensors|state\.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk whose manifest was found good."""

    path: Path
    """Its folder."""
    step: int
    """Optimiser steps done."""
    epoch: int
    """Epochs done."""
    metrics: dict[str, float]
    """Figures it was saved with."""
    manifest: dict[str, Any]
    """The whole manifest: format, raydet, files, and the above."""

    @property
    def names(self) -> list[str]:
        """Names that `tensors` knows, e.g. ema, model, optim."""
        return sorted(name.removesuffix(".safetensors") for name in self.manifest["files"] if name != STATE)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors saved under `name`, on the CPU; the bytes read are those that were checked.

        Raises:
            CheckpointError: no such file, or its bytes are no longer those that were saved.
        """
        file = f"{name}.safetensors"
        data = self._checked(file)
        try:
            return safetensors_file.read(data)
        except ValueError as error:
            raise CheckpointError(f"{self.path / file}: {error}") from error

    def state(self) -> dict[str, JSON]:
        """Return what was saved as state; tuples come back as lists, keys as text.

        Raises:
            CheckpointError: its bytes are no longer those that were saved.
        """
        if int(self.manifest["files"].get(STATE, {}).get("bytes", 0)) > _JSON_LIMIT_BYTES:
            raise CheckpointError(f"{self.path / STATE} is larger than any state ({_JSON_LIMIT_BYTES} bytes)")
        try:
            values = json.loads(self._checked(STATE).decode())
        except (ValueError, RecursionError) as error:
            raise (
                error if isinstance(error, CheckpointError) else CheckpointError(f"{self.path / STATE}: {error}")
            ) from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{self.path / STATE} does not hold a JSON object")
        return values

    def _checked(self, file: str) -> bytes:
        record = self.manifest["files"].get(file)
        if record is None:
            raise CheckpointError(f"{self.path} holds no {file}; it holds {', '.join(self.manifest['files'])}")
        try:
            data = (self.path / file).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.path / file}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise CheckpointError(f"{self.path / file}: the content has changed (SHA-256)")
        return data


def canonical(body: Mapping[str, object]) -> bytes:
    """Return the one spelling of a manifest, its own checksum included."""
    seal = hashlib.sha256(_spell(body)).hexdigest()
    return _spell({**body, "sha256": seal})


def _spell(body: Mapping[str, object]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def manifest_body(
    step: int, epoch: int, metrics: Mapping[str, float | None], files: Mapping[str, Mapping[str, int | str]]
) -> dict[str, object]:
    """Return a manifest without its checksum."""
    head = {"format": FORMAT_VERSION, "raydet": __version__, "step": step, "epoch": epoch}
    return {**head, "metrics": dict(metrics), "files": {name: dict(record) for name, record in files.items()}}


def peek(path: Path) -> Checkpoint:
    """Return the checkpoint at `path` after its manifest and its files' sizes were checked, contents unread.

    Raises:
        CheckpointError: the manifest is missing, damaged or of another format, or a file is missing or cut.
    """
    at = path / MANIFEST
    try:
        manifest = _parsed(_bounded(at))
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        if canonical(body) != at.read_bytes():
            raise ValueError("damaged: it does not fit its own SHA-256")
        if manifest["format"] != FORMAT_VERSION:
            raise ValueError(f"format {manifest['format']}; this raydet reads format {FORMAT_VERSION}")
        metrics = {name: float("nan") if value is None else float(value) for name, value in manifest["metrics"].items()}
        found = Checkpoint(path, int(manifest["step"]), int(manifest["epoch"]), metrics, manifest)
        files = {str(name): int(record["bytes"]) for name, record in manifest["files"].items()}
    except OSError as error:
        raise CheckpointError(f"{at}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{at}: {error}") from error
    for name, size in files.items():
        _check_file(path, name, size)
    return found


def _bounded(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _JSON_LIMIT_BYTES:
        raise ValueError(f"not a file of at most {_JSON_LIMIT_BYTES} bytes")
    return path.read_bytes()


def _parsed(data: bytes) -> dict[str, Any]:
    manifest = json.loads(data.decode())
    if not isinstance(manifest, dict):
        raise ValueError("not a JSON object")
    return manifest


def _check_file(path: Path, name: str, size: int) -> None:
    if not _FILE_NAME.fullmatch(name):  # the manifest is not trusted: neither ../ nor a pickle
        raise CheckpointError(
            f"{path / MANIFEST}: {name!r}: only .safetensors and state.json are read from a checkpoint"
        )
    file = path / name
    try:
        status = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise CheckpointError(f"{file}: {status.st_size} bytes, saved were {size}")


def read(path: Path) -> Checkpoint:
    """Return the checkpoint at `path` after every byte of it was checked.

    Raises:
        CheckpointError: anything missing, cut, changed, or over the limits for safetensors headers.
    """
    found = peek(path)
    for name, record in found.manifest["files"].items():
        file = path / name
        try:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
                if digest != record["sha256"]:
                    raise ValueError("the content has changed (SHA-256)")
                if name != STATE:
                    opened.seek(0)
                    safetensors_file.check_header(opened, record["bytes"])
        except OSError as error:
            raise CheckpointError(f"{file}: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error
    return found


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state_text: str,
    metrics: Mapping[str, float],
) -> Path:
    """Return the folder of a new checkpoint once all of it is on the disk; on failure nothing of it is left.

    The files are written and synced in a hidden folder, which is then renamed, so that no reader sees a part of it. An
    older checkpoint of the same step is replaced.
    """
    part = folder / f".tmp-{uuid.uuid4().hex}"
    try:
        os.mkdir(part, FOLDER_MODE)
        files = {
            f"{n}.safetensors": _write(part / f"{n}.safetensors", safetensors_file.chunks(g))
            for n, g in tensors.items()
        }
        files[STATE] = _write(part / STATE, [memoryview(state_text.encode())])
        figures = {str(k): _finite(v) for k, v in metrics.items()}
        epoch = json.loads(state_text).get("epoch", 0)
        _write(part / MANIFEST, [memoryview(canonical(manifest_body(step, epoch, figures, files)))])
        _sync_folder(part)
        return _into_place(part, folder / f"step_{step:08d}")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _finite(value: float) -> float | None:
    number = plain(value)
    if not isinstance(number, int | float):
        raise ValueError(f"a metric must be a number, got {value!r}")
    return float(number) if math.isfinite(number) else None


def _write(path: Path, parts: Iterable[memoryview]) -> dict[str, int | str]:
    """Write a file, wait until the disk has it, and return its manifest record."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        for part in parts:
            digest.update(part)
            size += len(part)
            while len(part):
                part = part[os.write(handle, part) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(handle)


def _into_place(part: Path, target: Path) -> Path:
    """Rename `part` to `target`. While an older `target` steps aside it is still found, under its .old- name."""
    old = target.with_name(f".old-{target.name}-{uuid.uuid4().hex}") if target.exists() else None
    if old is not None:
        os.rename(target, old)
    try:
        os.rename(part, target)
    except BaseException:
        if old is not None:
            os.rename(old, target)
        raise
    _sync_folder(target.parent)
    if old is not None:
        remove(old)
    return target


def remove(path: Path) -> None:
    """Remove a checkpoint folder; what a crash leaves of it has a name that no reader looks at."""
    gone = path.with_name(f".tmp-{uuid.uuid4().hex}")
    os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)
