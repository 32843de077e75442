"""Which keys of a configuration can be searched."""

from typing import get_args, get_type_hints

from raydet.config import Config, as_flat, nearest
from raydet.config.arguments import field_type
from raydet.exceptions import ConfigError

_NOT_SEARCHED = {
    "recipe": "it is where the settings came from, not one of them",
    "run.name": "each trial's name is the search's to give",
    "run.storage_path": "each trial's place is the search's to give",
    "run.seed": "a seed that wins is luck; to see the spread, repeat a run with other seeds",
}


def check_key(key: str, cfg: Config) -> None:
    """Do nothing if `key` is a field of `cfg` that may be searched.

    Raises:
        ConfigError: no such field (with the nearest), a section, one of a section that is off, or not to be searched.
    """
    known = as_flat(cfg)
    fields = [name for name in known if name.startswith(f"{key}.")] or _fields_if_off(key)
    section, _, field = key.partition(".")
    if key in _NOT_SEARCHED:
        raise ConfigError(f"{key} is not searched: {_NOT_SEARCHED[key]}")
    if key in known and section == "scaling":
        raise ConfigError(f"{key} is not searched: nothing in scaling changes what is learnt")
    if fields:
        raise ConfigError(f"{key} is a section; search its fields, e.g. {fields[0]}")
    if field and known.get(section, "") is None:
        field_type(key)  # with its message if there is no such field
        raise ConfigError(f"{key}: {section} is off in this configuration; switch it on, e.g. --{key} VALUE")
    if key not in known:
        close = " or ".join(nearest(key, known))
        raise ConfigError(f"{key}: no such field; {f'did you mean {close}?' if close else 'see raydet fit --help'}")


def _fields_if_off(key: str) -> list[str]:
    """Return the fields of a section that is None."""
    hint = get_type_hints(Config).get(key)
    parts = [arm for arm in get_args(hint) if hasattr(arm, "__dataclass_fields__")]
    return [f"{key}.{name}" for part in parts for name in get_type_hints(part)]
