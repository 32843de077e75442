"""A space that is known to work before Ray starts: keys, values, points; and seeded draws from it."""

import math
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raydet.config import Config, as_flat, field_type, nearest, override
from raydet.exceptions import ConfigError
from raydet.search_spaces.domains import bounds, holds, spelt, to_changes, to_plain
from raydet.search_spaces.keys import check_key

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

_DRAWS = 16
"""Draws of all keys that must pass before a search starts: what goes together is seen in them only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What is searched."""

    name: str
    domains: "dict[str, Domain]"
    """Dotted key -> Ray Tune's domain. Values are numbers, text, true / false or None, which every storage can keep; a
    list is written as text, "0.1,2.0"."""
    points: list[dict[str, Any]]
    """What is tried first, each with a value for every key; the first is the configuration's own."""

    @property
    def keys(self) -> list[str]:
        """The dotted keys, in order."""
        return list(self.domains)

    def changes(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return what `override` takes for a point or a draw: lists are lists again."""
        return to_changes(params)

    def config(self, cfg: Config, params: dict[str, Any]) -> Config:
        """Return the configuration of the trial with these values."""
        return override(cfg, to_changes(params))


def sample(space: Space, cfg: Config, seed: int) -> dict[str, Any]:
    """Return a random draw, the same for the same seed; a key's value does not depend on what other keys there are.

    Raises:
        ConfigError: `cfg` with the drawn values is refused.
    """
    drawn = _draw(space, seed)
    space.config(cfg, drawn)
    return drawn


def _draw(space: Space, seed: int) -> dict[str, Any]:
    import numpy as np

    return {
        key: domain.sample(random_state=np.random.default_rng([seed, zlib.crc32(key.encode())]))
        for key, domain in space.domains.items()
    }


def own_point(cfg: Config, domains: "dict[str, Domain]") -> dict[str, Any]:
    """Return the configuration's own values of these keys, as the domains have them.

    Raises:
        ConfigError: a key that the configuration has not, or that is not searched.
    """
    for key in domains:
        check_key(key, cfg)
    flat = as_flat(cfg)
    return {key: to_plain(flat[key], domain) for key, domain in domains.items()}


def checked(space: Space, cfg: Config, lenient: Container[str] = ()) -> Space:
    """Return the space with the configuration's own point first, points whole and none twice.

    Args:
        lenient: keys whose range is not the one the points were made for; a point outside is left out, not refused.

    Raises:
        ConfigError: a key, a value or a point that cannot be, or the configuration's own value is not in its range.
    """
    own = own_point(cfg, space.domains)
    for key, value in own.items():
        if not holds(space.domains[key], value):
            raise ConfigError(
                f"{key} is {value!r} in this configuration, which is trial 1, and {spelt(space.domains[key])} has no "
                f"such value; add it to the range, or start from one of the range: --{key} VALUE"
            )
    points = [own]
    for number, point in enumerate(space.points, 1):
        outside = _outside(space, point)
        refused = [why for key, why in outside.items() if key not in lenient]
        if refused:
            raise ConfigError(f"space {space.name}, point {number}: {refused[0]}")
        whole = own | point
        if not outside and not any(_same(whole, known) for known in points):
            points.append(whole)
    space = replace(space, points=points)
    for changes, origin in _tried(space, cfg):
        try:
            space.config(cfg, changes)
        except ConfigError as error:
            raise ConfigError(f"{error}; space {space.name}, {origin}") from error
    return space


def _outside(space: Space, point: dict[str, Any]) -> dict[str, str]:
    """Return key -> what is wrong with the point there."""
    wrong = {}
    for key, value in point.items():
        if key not in space.domains:
            close = " or ".join(nearest(key, space.domains))
            wrong[key] = f"{key} is not in the space{f'; did you mean {close}?' if close else ''}"
        elif not holds(space.domains[key], value):
            wrong[key] = f"{key}={value!r} is not in {spelt(space.domains[key])}"
    return wrong


def _same(point: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two points are one but for rounding, which would cost a trial."""
    return all(
        math.isclose(value, other[key], rel_tol=1e-9)
        if isinstance(value, float) and isinstance(other[key], float)
        else value == other[key]
        for key, value in point.items()
    )


def _tried(space: Space, cfg: Config) -> Iterator[tuple[dict[str, Any], str]]:
    """Give what must pass `override`: each key's bounds and a draw of it alone, the points, draws of all."""
    from ray.tune.search.sample import Float

    inner = _draw(space, 0)
    for key, domain in space.domains.items():
        whole = int in field_type(key).scalars
        hint = "; whole numbers are drawn by randint" if whole and isinstance(domain, Float) else ""
        for value in (*bounds(domain), inner[key]):
            yield {key: value}, f"{key} from {spelt(domain)}{hint}"
    for number, point in enumerate(space.points, 1):
        yield point, f"point {number}"
    for seed in range(_DRAWS):
        yield _draw(space, seed), f"draw {seed}"
