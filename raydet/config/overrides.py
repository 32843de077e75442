"""Changing, comparing, writing and reading a Config. `override` is the one way in: CLI, JSON files, searches."""

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raydet.config.tree import Config
from raydet.exceptions import ConfigError

FORMAT_VERSION = 1
"""Version of config.json; raised when a field is renamed or changes its meaning."""

Section = TypeVar("Section")


def override(cfg: Section, changes: Mapping[str, Any], _at: str = "") -> Section:
    """Return a copy of `cfg` with dotted keys replaced, e.g. `{"optim.lr": 0.1}`; every check runs again.

    Args:
        changes: dotted key -> value, or section -> dict of the same. Lists become tuples, numpy scalars plain numbers,
            whole numbers floats where a float is asked for; nothing else is converted.

    Raises:
        ConfigError: an unknown key (with the nearest ones), a value of the wrong type, or one out of range.
    """
    hints = get_type_hints(type(cfg))
    here: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if name not in hints:
            raise ConfigError(f"{_at}{key}: no such field{_hint(cfg, _at, key)}")
        section = _section(hints[name])
        if section is not None and value is None and type(None) in get_args(hints[name]) and not rest:
            here[name] = None
        elif section is None:
            if rest:
                raise ConfigError(f"{_at}{key}: {_at}{name} is a value, not a section")
            here[name] = _checked(value, hints[name], _at + name)
        elif rest:
            nested.setdefault(name, {})[rest] = value
        elif isinstance(value, Mapping):
            nested.setdefault(name, {}).update(value)
        else:
            raise ConfigError(f"{_at}{name} is a section; set its fields, e.g. {_at}{name}.{_first_field(section)}")
    for name, sub in nested.items():
        section = getattr(cfg, name)
        here[name] = override(_section(hints[name])() if section is None else section, sub, f"{_at}{name}.")
    return replace(cfg, **here)  # type: ignore[type-var]


def _section(hint: Any) -> Any:
    """Return the dataclass that a field holds, also when it may be None; None for a plain value."""
    return next((arm for arm in (hint, *get_args(hint)) if is_dataclass(arm)), None)


def _first_field(section: type) -> str:
    return next(iter(get_type_hints(section)))


def _hint(cfg: Any, at: str, key: str) -> str:
    whole = [at + k for k in as_flat(cfg)]
    close = nearest(at + key, whole) or nearest(key.rpartition(".")[2], whole)
    return f"; did you mean {' or '.join(close)}?" if close else f"; {at or 'there'} has {', '.join(as_flat(cfg))}"


def nearest(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return up to `most` of `known` that look like `word`, the best first; dotted names also match by their end."""
    ends: dict[str, list[str]] = {}
    for name in known:
        for form in {name, name.rpartition(".")[2]}:
            ends.setdefault(form.lower(), []).append(name)
    word = word.lower()
    forms = difflib.get_close_matches(word, ends, most, 0.6) or [
        f for f in difflib.get_close_matches(word.rpartition(".")[2], ends, most, 0.6)
    ]
    return list(dict.fromkeys(name for form in forms for name in ends[form]))[:most]


def _checked(value: Any, hint: Any, at: str) -> Any:
    if hasattr(value, "item"):  # a search algorithm may hand over a numpy scalar
        value = value.item()
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        return _checked_union(value, get_args(hint), at)
    if kind is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint)):
            return value
        near = (
            [c for c in nearest(value, get_args(hint), 1) if len(get_args(hint)) > 1] if isinstance(value, str) else []
        )
        raise ConfigError(
            f"{at} must be one of {', '.join(map(str, get_args(hint)))}, got {value!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if kind is tuple and isinstance(value, (list, tuple)):
        inner = get_args(hint)
        inner = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        if len(inner) == len(value):
            return tuple(_checked(v, h, at) for v, h in zip(value, inner, strict=True))
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if isinstance(hint, type) and type(value) is hint and hint is not float:
        return value
    raise ConfigError(f"{at} must be {_spelt(hint)}, got {value!r}")


def _checked_union(value: Any, arms: tuple[Any, ...], at: str) -> Any:
    for arm in sorted(arms, key=lambda a: a is not type(value)):  # an int stays an int in `int | float`
        try:
            return None if arm is type(None) and value is None else _checked(value, arm, at)
        except ConfigError:
            continue
    literals = [a for a in arms if get_origin(a) is Literal]
    if literals and isinstance(value, str):
        return _checked(value, Literal[tuple(v for a in literals for v in get_args(a))], at)
    raise ConfigError(f"{at} must be {' or '.join(_spelt(a) for a in arms)}, got {value!r}")


def _spelt(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    if hint in words:
        return words[hint]
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    inner = get_args(hint)
    if inner and inner[-1] is Ellipsis:
        return f"a list of {_spelt(inner[0])}"
    return f"{len(inner)} values ({', '.join(map(_spelt, inner))})" if inner else str(hint)


def as_flat(cfg: Any, _at: str = "") -> dict[str, Any]:
    """Return every field of `cfg` under its dotted key."""
    flat: dict[str, Any] = {}
    for name in get_type_hints(type(cfg)):
        value = getattr(cfg, name)
        flat |= as_flat(value, f"{_at}{name}.") if is_dataclass(value) else {_at + name: value}
    return flat


def differences(ours: Config, theirs: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value in `ours`, value in `theirs`) where the two differ; None in a section that is off."""
    a, b = as_flat(ours), as_flat(theirs)
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def to_dict(cfg: Config) -> dict[str, Any]:
    """Return what config.json holds: the nested values and the format's version; `from_dict` is its inverse."""
    return {"format": FORMAT_VERSION, **asdict(cfg)}


def from_dict(values: Mapping[str, Any]) -> Config:
    """Return the Config that `to_dict` was given, checked again.

    Raises:
        ConfigError: a value or key that this version does not know.
    """
    values = dict(values)
    version = values.pop("format", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ConfigError(f"this config has format {version}, this raydet reads format {FORMAT_VERSION}")
    return override(Config(), values)


def load(path: Path) -> Config:
    """Return the Config in a config.json.

    Raises:
        ConfigError: no such file, not JSON, or not a Config of this version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold one JSON object, a run's config.json")
    return from_dict(values)
