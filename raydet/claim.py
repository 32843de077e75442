"""A run's folder, held by the one process that trains it, and what says whose it is: config.json, env.json."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from raydet.config import ConfigError, differences, load, to_dict
from raydet.log import environment
from raydet.plan import Plan, Refused
from raydet.sinks import make_folder, replace_file


@contextmanager
def claimed(plan: Plan) -> Iterator[None]:
    """Hold the run's folder for this process; it is made, with config.json and env.json, if it is new.

    Where the body fails before anything was trained, nothing of a new folder is left.

    Raises:
        Refused: another process is at this run, or another thread of this one. ConfigError: the folder cannot be made.
    """
    folder = plan.folder
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with held(folder):
        try:
            _write_identity(plan)
            yield
        except BaseException:
            _take_back(made)
            raise


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


def _take_back(made: list[Path]) -> None:
    """Remove the folders in `made`, from the inside out, unless there is more in the first than an unused run has."""
    unused = {".lock", "config.json", "env.json", "ray", "plots", "classes.json"}
    if made and {path.name for path in made[0].iterdir()} <= unused:
        shutil.rmtree(made[0], ignore_errors=True)
        with suppress(OSError):  # another run lies there by now
            for path in made[1:]:
                path.rmdir()


def _write_identity(plan: Plan) -> None:
    if plan.finished:
        return
    path = plan.folder / "config.json"
    if not path.exists() or differences(load(path), plan.cfg):
        replace_file(path, json.dumps(to_dict(plan.cfg), indent=2) + "\n")
    replace_file(plan.folder / "env.json", json.dumps(environment(), indent=2) + "\n")
