"""The first Ctrl-C or SIGTERM, answered in order; a second one, or the end of the time that was given, ends at once."""

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def first_signal(answer: Callable[[int], None]) -> Iterator[None]:
    """Give the first signal to `answer` while the body runs; a second one is answered as before.

    Does nothing outside the main thread, which alone has signals.

    Args:
        answer: called once, in a thread of its own: a handler must not wait for what it has interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        for which, handler in before.items():
            signal.signal(which, handler)
        threading.Thread(target=answer, args=(number,), daemon=True).start()

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once() -> None:
    """Interrupt the main thread as Ctrl-C does; for another thread."""
    _thread.interrupt_main()
