"""Ctrl-C and SIGTERM during a search: trials are left in order; and where Ray is gone already, the process ends."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from raydet.driver.first_signal import first_signal

if TYPE_CHECKING:
    from raydet.tuning.search.stopping import StopSearch


@contextmanager
def interrupts(stop: "StopSearch", save: Callable[[], Any]) -> Iterator[None]:
    """Answer the first signal by `stop.interrupted` while the body runs; a second one is answered as before.

    Args:
        save: writes what is known; called where the body cannot come to its end.
    """
    done = threading.Event()

    def note(number: int) -> None:
        stop.interrupted = number
        _leave_a_dead_ray(number, done, save)

    with first_signal(note):
        try:
            yield
        finally:
            done.set()


def _leave_a_dead_ray(number: int, done: threading.Event, save: Callable[[], Any]) -> None:
    """End the process if its local Ray has died: the signal went to the whole group, as `timeout` and Slurm send it.

    Ray Tune waits for it in vain, and Ray itself ends the process after a minute, without a word (ray 2.60).
    """
    from raydet.driver.ray_private import local_ray_died

    while not done.wait(1.0):
        if local_ray_died():
            with suppress(Exception):
                save()
            print("raydet: terminated with its Ray; the same command continues where it was left", file=sys.stderr)
            sys.stderr.flush()
            os._exit(128 + number)
