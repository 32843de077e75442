"""Files that are whole or not there, and files of lines that survive a kill."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FILE_MODE, FOLDER_MODE = 0o640, 0o750
"""Nothing in a run's folder is for other users of the machine."""


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents where they are missing."""
    for part in [*reversed(folder.parents), folder]:
        if not part.is_dir():
            part.mkdir(mode=FOLDER_MODE, exist_ok=True)


def replace_file(path: Path, content: str | bytes, mode: int = FILE_MODE, *, sync: bool = True) -> None:
    """Put `content` in the place of `path`'s; a crash leaves the old file or the new one, never a mixture.

    Args:
        sync: wait for the disk. False: a crash of the machine, not of the process, may leave an empty file.
    """
    with replaced(path, mode, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced(path: Path, mode: int = FILE_MODE, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of `path` at the block's end; as `replace_file`."""
    part = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(handle)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class LineFile:
    """An append-only file of lines. What a kill left of a last line is cut off when it is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
        self._torn = False
        _cut_torn_line(self._handle)

    def write(self, line: str) -> None:
        """Append `line` and a line end.

        Raises:
            OSError: the disk took none or only a part of it.
        """
        if self._handle is None:
            raise ValueError(f"{self.path} is closed")
        payload = ("\n" * self._torn + line + "\n").encode()
        self._torn = True
        if os.write(self._handle, payload) < len(payload):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._torn = False

    def flush(self) -> None:
        """Wait until the disk has everything."""
        if self._handle is not None:
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)
