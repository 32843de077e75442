"""Packed columns: what the indexes keep instead of lists of records, and their cache on disk. numpy only.

A Python list shared with forked loader processes is copied page by page as reference counts are touched; an array is
not. 30 000 images x 7 boxes: lists of dicts grew by 42 MiB in each loader process, arrays by nothing measurable.
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

FORMAT_VERSION = 3
"""Part of every cache key; raise it when the columns change their meaning."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Many strings in one byte array; text i is bytes[first[i]:first[i + 1]]."""

    bytes: npt.NDArray[np.uint8]
    first: Ints

    @classmethod
    def pack(cls, texts: Sequence[str]) -> "Texts":
        """The texts packed; lone surrogates (undecodable file names) survive."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        first = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=first[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), first)

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, i: int) -> str:
        if i < 0 or i >= len(self):
            raise IndexError(f"text {i} of {len(self)}")
        return self.bytes[self.first[i] : self.first[i + 1]].tobytes().decode("utf-8", "surrogateescape")

    def tolist(self) -> list[str]:
        """All texts, unpacked."""
        return [self[i] for i in range(len(self))]


def spread_over(count: int, most: int) -> Ints:
    """Return up to `most` positions spread evenly over `count`, the first and the last among them, in order."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


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
