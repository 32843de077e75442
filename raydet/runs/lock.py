"""The lock on a run's folder."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from raydet.exceptions import ConfigError, Refused
from raydet.io.files import make_folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, for this process.

    Raises:
        Refused: another process holds it, or another thread of this one. ConfigError: it cannot be made.
    """
    if folder in _HELD:
        raise Refused(f"{folder} is being trained by this process already")
    with _open_lock(folder) as lock:
        _take(lock, folder)
        _HELD.add(folder)
        try:
            yield
        finally:
            _HELD.discard(folder)


_HELD: set[Path] = set()
"""Runs that this process is at: the system's locks are between processes."""


def _open_lock(folder: Path) -> TextIO:
    try:
        make_folder(folder)
        return open(folder / ".lock", "a+")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(f"run.storage_path: {error.filename}: {error.strerror}") from error


def _take(lock: TextIO, folder: Path) -> None:
    try:
        # The system lets go of it when this process dies; flock's would live on in forked loader processes.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        lock.seek(0)
        raise Refused(f"{folder} is being trained by another process ({lock.read().strip()})") from None
    lock.truncate(0)
    lock.write(f"pid {os.getpid()} on {os.uname().nodename}")
    lock.flush()
