"""The one place that time comes from."""

import time
from datetime import datetime


def now() -> datetime:
    """Return the time of day with its zone. For stamps only: it can jump."""
    return datetime.now().astimezone()


def clock() -> float:
    """Return seconds that only ever grow. For every duration, timeout and forecast."""
    return time.monotonic()
