"""The wish that a run stops, as a file in its folder, which all its workers see.

Whoever wants the run to stop leaves it there: the driver at Ctrl-C or SIGTERM, or `touch runs/NAME/stop` by hand. The
workers save a checkpoint of the step that they are at and end.
"""

from collections.abc import Callable
from pathlib import Path

from raydet.io.clock import clock

_NAME = "stop"
_POLL_S = 0.5


def request(folder: Path) -> None:
    """Ask the run in this folder to stop."""
    (folder / _NAME).touch()


def withdraw(folder: Path) -> None:
    """Take the wish back, if there is one."""
    (folder / _NAME).unlink(missing_ok=True)


def is_requested(folder: Path) -> bool:
    """Whether somebody asks it to stop."""
    return (folder / _NAME).exists()


def watch(folder: Path) -> Callable[[], bool]:
    """Return a function that says whether the run is to stop; it looks twice a second, however often it is called."""
    seen, looked = False, -_POLL_S

    def asked() -> bool:
        nonlocal seen, looked
        if not seen and clock() - looked >= _POLL_S:
            looked = clock()
            seen = is_requested(folder)
        return seen

    return asked
