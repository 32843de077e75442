"""Search over a recipe's documented defaults, on Ray Tune: `raydet.tune` and what it leaves behind."""

from typing import Any

__all__ = ["TuneResult", "tune"]


def __getattr__(name: str) -> Any:  # its parts, e.g. rows, need no Ray
    if name in __all__:
        from raydet.tuning import search

        return getattr(search, name)
    raise AttributeError(f"module 'raydet.tuning' has no attribute {name!r}")
