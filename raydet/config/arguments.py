"""Words of the command line to configuration values: `--optim.lr 0.1 --augment.scale 0.8 1.25` to `override`'s dict."""

import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from raydet.config import Config, Quantization, as_flat, nearest
from raydet.exceptions import ConfigError


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Return dotted key -> value for words such as `--optim.lr 0.1` or `--optim.lr=0.1`.

    Numbers, true / false and none are read as the field's type says; several words or commas make a list.

    Raises:
        ConfigError: a word that belongs to no key, an unknown key, or a key without a value.
    """
    changes: dict[str, Any] = {}
    for key, values in _grouped(words):
        hint = field_type(key)
        if not values:
            raise ConfigError(f"--{key} needs a value")
        changes[key] = _value(values, hint)
    return changes


def _grouped(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            groups.append((name.replace("-", "_"), [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise ConfigError(f"unexpected word {word!r}; a setting is written --section.field value")
    return groups


def field_type(key: str) -> Any:
    """Return the type of a dotted key.

    Raises:
        ConfigError: there is no such field; names the nearest.
    """
    hint: Any = Config
    for name in key.split("."):
        hints = next(
            (get_type_hints(arm) for arm in (hint, *get_args(hint)) if hasattr(arm, "__dataclass_fields__")), {}
        )
        if name not in hints:
            close = nearest(
                key, [*as_flat(Config()), *(f"quantization.{field}" for field in get_type_hints(Quantization))]
            )
            raise ConfigError(f"{key}: no such field{'; did you mean ' + ' or '.join(close) + '?' if close else ''}")
        hint = hints[name]
    return hint


def _value(words: list[str], hint: Any) -> Any:
    """Read words by what the type allows; what fits nothing stays text, for `override` to refuse with its message."""
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if len(words) == 1 and words[0].lower() in ("none", "null") and type(None) in arms:
        return None
    pieces = [piece for word in words for piece in word.split(",") if piece]
    for arm in arms:
        if get_origin(arm) is tuple and (len(pieces) > 1 or len(arms) == 1 or type(None) in arms):
            inner = get_args(arm)
            return tuple(
                _single(p, inner[min(i, len(inner) - 1)] if inner[-1] is not ... else inner[0])
                for i, p in enumerate(pieces)
            )
    if len(words) > 1:
        return " ".join(words)
    for arm in arms:
        value = _single(words[0], arm)
        if not isinstance(value, str) or arm is str or value in get_args(arm):
            return value
    return words[0]


def _single(word: str, hint: Any) -> Any:
    if hint is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(word.lower(), word)
    if hint in (int, float):
        try:
            return hint(word)
        except ValueError:
            return word
    return word
