"""Which keys of a configuration can be searched."""

from raydet.config import Config, as_flat, field_type
from raydet.config.field_types import field_types
from raydet.config.overrides import no_such_field
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
    fields = [name for name in field_types(Config) if name.startswith(f"{key}.")]
    section, _, field = key.partition(".")
    if key in _NOT_SEARCHED:
        raise ConfigError(f"{key} is not searched: {_NOT_SEARCHED[key]}")
    if key in known and section == "scaling":
        raise ConfigError(f"{key} is not searched: nothing in scaling changes the trained model")
    if fields:
        raise ConfigError(f"{key} is a section; search its fields, e.g. {fields[0]}")
    if field and known.get(section, "") is None:
        field_type(key)  # with its message if there is no such field
        raise ConfigError(f"{key}: {section} is off in this configuration; switch it on, e.g. --{key} VALUE")
    if key not in known:
        raise no_such_field(key, known)
