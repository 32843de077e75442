"""What the sections' own checks share: three conditions."""

from typing import Any

from raydet.exceptions import ConfigError


def require(holds: bool, message: str) -> None:
    """Raise ConfigError(message) unless `holds`."""
    if not holds:
        raise ConfigError(message)


def positive(section: str, part: Any, *names: str) -> None:
    """Each named field of `part` is None or greater than 0."""
    for name in names:
        value = getattr(part, name)
        require(value is None or value > 0, f"{section}.{name} must be > 0, got {value}")


def fraction(section: str, part: Any, *names: str) -> None:
    """Each named field of `part` is None or between 0 and 1."""
    for name in names:
        value = getattr(part, name)
        require(value is None or 0 <= value <= 1, f"{section}.{name} must be 0 to 1, got {value}")


def within(field: str, pair: tuple[float, float], low: float, high: float) -> None:
    """`pair` is ordered and lies within [low, high]."""
    require(low <= pair[0] <= pair[1] <= high, f"{field} must be two numbers in order, {low} to {high}, got {pair}")
