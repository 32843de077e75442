"""Parsed annotations on disk: columns of numbers under the key of what they were read from."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns

FORMAT_VERSION = 5
"""Part of every cache key; raise it when the columns change their meaning."""


def cache_dir() -> Path:
    """Where raydet keeps what it can make again: $RAYDET_CACHE, or ~/.cache/raydet."""
    given = os.environ.get("RAYDET_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "raydet"


def file_key(path: Path) -> str:
    """A name that changes with the file's place, size, time of change, beginning or end."""
    stat = path.stat()
    digest = hashlib.sha256(f"{FORMAT_VERSION}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|".encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 16))
        file.seek(max(0, stat.st_size - (1 << 16)))
        digest.update(file.read())
    return digest.hexdigest()[:32]


def content_key(kind: str, *content: object) -> str:
    """A name that changes with the content."""
    text = repr((FORMAT_VERSION, *content))
    return f"{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}-{kind}"


def load_columns(key: str) -> Columns | None:
    """The columns kept under `key`; None where there are none, or they cannot be read."""
    try:
        with np.load(cache_dir() / "index" / f"{key}.npz", allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # a cache that is missing or damaged is made again


def save_columns(key: str, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Keep `columns` under `key`, atomically. A cache that cannot be written is no error: nothing depends on it."""
    written = None
    try:
        folder = cache_dir() / "index"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            written = Path(file.name)
            np.savez(file, **columns)  # type: ignore[arg-type]  # numpy's stub takes the names for allow_pickle
        os.replace(written, folder / f"{key}.npz")
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        if written is not None:
            written.unlink(missing_ok=True)
