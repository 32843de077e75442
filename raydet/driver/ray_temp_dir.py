"""The folder of a local Ray: short enough for its sockets, known by its owner, removed when that was killed."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_OWNER = "owner"
"""File with the process that the folder is for: its number, and when it was started."""
_LONGEST = 40
"""Ray appends about 65 characters to its folder's name, and a socket's path may have 107."""


def make() -> str:
    """Make a folder for this process's Ray, and remove those of processes that are no more."""
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]
    base = next(p for p in places if (p and len(p) + len("/raydet-abcdefgh") <= _LONGEST) or p == "/tmp")
    _sweep(Path(base))
    folder = tempfile.mkdtemp(prefix="raydet-", dir=base)
    Path(folder, _OWNER).write_text(f"{os.getpid()} {_started_at(os.getpid())}")
    return folder


def disown(folder: str) -> None:
    """Keep the folder when its process has ended: its logs are needed."""
    Path(folder, _OWNER).unlink(missing_ok=True)


def _sweep(base: Path) -> None:
    for path in base.glob(f"raydet-*/{_OWNER}"):
        with suppress(OSError, ValueError):
            pid, started = path.read_text().split()
            if _started_at(int(pid)) != started:
                shutil.rmtree(path.parent, ignore_errors=True)


def _started_at(pid: int) -> str:
    """Return when a process of this machine was started, in ticks since it booted; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
