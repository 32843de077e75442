"""Changing, comparing, writing and reading a Config. `override` is the one way in: CLI, JSON files, searches."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from raydet.config.field_types import FieldType, field_type_of, field_types, hints, listed, section_of
from raydet.config.near_keys import near_keys
from raydet.config.tree import Config
from raydet.exceptions import ConfigError

FORMAT_VERSION = 1
"""Version of config.json; raised when a field is renamed or changes its meaning."""
_MOST_BYTES = 10_000_000

Section = TypeVar("Section")


def override(cfg: Section, changes: Mapping[str, Any]) -> Section:
    """Return a copy of `cfg` with dotted keys replaced, e.g. `{"optim.lr": 0.1}`; every check runs again.

    Args:
        changes: dotted key -> value, or section -> dict of the same. Lists become tuples, numpy scalars plain numbers,
            whole numbers floats where a float is asked for; nothing else is converted.

    Raises:
        ConfigError: an unknown key (with the nearest ones), a value of the wrong type, or one out of range.
    """
    return _override(cfg, changes, "", type(cfg))


def _override(cfg: Section, changes: Mapping[str, Any], at: str, root: Any) -> Section:
    fields = hints(type(cfg))
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if name not in fields:
            raise no_such_field(at + key, field_types(root))
        hint = fields[name]
        section = section_of(hint)
        if section is None:
            if rest:
                raise ConfigError(f"{at}{key}: {at}{name} is a value, not a section")
            values[name] = field_type_of(hint).check(value, at + name)
        elif rest:
            nested.setdefault(name, {})[rest] = value
        elif isinstance(value, Mapping):
            nested.setdefault(name, {}).update(value)
        elif value is None and field_type_of(hint).none:
            values[name] = None
        else:
            raise ConfigError(f"{at}{name} is a section; set its fields, e.g. {at}{name}.{next(iter(hints(section)))}")
    for name, inner in nested.items():
        section = getattr(cfg, name)
        section = section_of(fields[name])() if section is None else section
        values[name] = _override(section, inner, f"{at}{name}.", root)
    return replace(cfg, **values)  # type: ignore[type-var]


def no_such_field(key: str, known: Collection[str]) -> ConfigError:
    """Return the error for a key that is not among `known`; it names the nearest."""
    close = near_keys(key, known)
    section = key.rpartition(".")[0]
    fields = ", ".join(name for name in known if name.startswith(f"{section}.")) if section else ""
    there_are = f"there are {fields}" if fields else "`raydet fit RECIPE --help` lists all"
    return ConfigError(f"{key}: no such field; {f'did you mean {listed(close)}?' if close else there_are}")


def field_type(key: str) -> FieldType:
    """Return what a dotted key of a Config takes; a section takes none, if it may be off.

    Raises:
        ConfigError: there is no such field; names the nearest.
    """
    known = field_types(Config)
    if key not in known and key not in hints(Config):
        raise no_such_field(key, known)
    return known.get(key) or field_type_of(hints(Config)[key])


def as_flat(cfg: Any, _at: str = "") -> dict[str, Any]:
    """Return every field of `cfg` under its dotted key."""
    flat: dict[str, Any] = {}
    for name in hints(type(cfg)):
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
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path} is larger than any configuration ({_MOST_BYTES} bytes)")
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold one JSON object, a run's config.json")
    return from_dict(values)
