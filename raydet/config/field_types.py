"""The one walk over the configuration's type hints: its sections, its dotted keys, and what each key takes.

`override` checks values with it, `arguments` reads words with it, the command line's help shows it.
"""

import math
import types
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from raydet.config.near_keys import nearest
from raydet.exceptions import ConfigError

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SPELT = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_SHOWN = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false"}


@dataclass(frozen=True, slots=True)
class FieldType:
    """What a field takes: its type hint, taken apart once."""

    scalars: tuple[type, ...] = ()
    """Of bool, int, float and str."""
    choices: tuple[str, ...] = ()
    """Words of a Literal."""
    items: tuple["FieldType", ...] = ()
    """A list: the type of each item, or of all if `any_length`. Empty: no list."""
    any_length: bool = False
    none: bool = False

    def read(self, words: Sequence[str]) -> Any:
        """Return the value that words of the command line mean; what fits nothing stays text, for `check` to refuse."""
        if len(words) == 1 and words[0].lower() in ("none", "null") and self.none:
            return None
        if self.items:
            pieces = [piece for word in words for piece in word.split(",") if piece]
            if len(pieces) > 1 or not (self.scalars or self.choices):
                return tuple(kind.read([piece]) for kind, piece in zip(self._items(pieces), pieces, strict=False))
        word = " ".join(words)
        if bool in self.scalars and word.lower() in _BOOLS:
            return _BOOLS[word.lower()]
        for kind in (int, float):
            with suppress(ValueError):
                if kind in self.scalars:
                    return kind(word)
        return word

    def check(self, value: Any, at: str) -> Any:
        """Return `value` as the field holds it: lists as tuples, numpy's scalars as Python's, whole numbers as floats.

        Raises:
            ConfigError: `value` is not of this type; begins with `at`.
        """
        value = value.item() if hasattr(value, "item") else value  # a search algorithm may hand over a numpy scalar
        if value is None and self.none:
            return None
        if isinstance(value, str) and value in self.choices:
            return value
        if type(value) in self.scalars and type(value) is not float:
            return value
        if float in self.scalars and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if self.items and isinstance(value, (list, tuple)) and (self.any_length or len(value) == len(self.items)):
            return tuple(kind.check(item, at) for kind, item in zip(self._items(value), value, strict=True))
        close = nearest(value, self.choices, 1) if isinstance(value, str) and len(self.choices) > 1 else []
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{at} must be {self.spelt()}, got {value!r}{hint}")

    def _items(self, values: Sequence[object]) -> tuple["FieldType", ...]:
        if self.any_length:
            return self.items * len(values)
        return self.items + self.items[-1:] * (len(values) - len(self.items))  # too many: for `check` to refuse

    def spelt(self) -> str:
        """Return the type in words, as errors name it."""
        words = [_SPELT[kind] for kind in self.scalars]
        if len(self.choices) > 1 and not words:
            words = [f"one of {', '.join(self.choices)}"]
        else:
            words = [*self.choices, *words]
        if self.items:
            each = ", ".join(kind.spelt() for kind in self.items)
            words.append(f"a list of {each}" if self.any_length else f"{len(self.items)} values ({each})")
        return " or ".join([*words, *["none"] * self.none])

    def shown(self) -> str:
        """Return the type as help shows it: INT, FLOAT|none, {coco,yolo}."""
        if self.choices and not (self.scalars or self.items):
            return f"{{{','.join([*self.choices, *['none'] * self.none])}}}"
        words = [*self.choices, *(_SHOWN[kind] for kind in self.scalars)]
        if self.items:
            words.append(" ".join(kind.shown() for kind in self.items) + " ..." * self.any_length)
        return "|".join([*words, *["none"] * self.none])


@cache
def field_type_of(hint: Any) -> FieldType:
    """Return what a type hint allows: scalars, Literals of text, tuples of these, None, and unions of all."""
    if hint is type(None):
        return FieldType(none=True)
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return _union([field_type_of(arm) for arm in inner])
    if kind is Literal:
        return FieldType(choices=inner)
    if kind is tuple:
        any_length = inner[-1] is Ellipsis
        return FieldType(items=tuple(map(field_type_of, inner[:1] if any_length else inner)), any_length=any_length)
    return FieldType(scalars=(hint,) if hint in _SPELT else ())  # a section takes no value


def _union(arms: list[FieldType]) -> FieldType:
    return FieldType(
        scalars=tuple(kind for arm in arms for kind in arm.scalars),
        choices=tuple(word for arm in arms for word in arm.choices),
        items=next((arm.items for arm in arms if arm.items), ()),
        any_length=any(arm.any_length for arm in arms),
        none=any(arm.none for arm in arms),
    )


def hints(section: type) -> dict[str, Any]:
    """Return the type hint of each field of a section."""
    return get_type_hints(section)


def section_of(hint: Any) -> Any:
    """Return the dataclass that a field holds, also when it may be None; None for a plain value."""
    return next((arm for arm in (hint, *get_args(hint)) if is_dataclass(arm)), None)


@cache
def field_types(section: type) -> dict[str, FieldType]:
    """Return what each dotted key below a section takes, in order; keys of sections that may be off are among them."""
    found: dict[str, FieldType] = {}
    for name, hint in hints(section).items():
        inner = section_of(hint)
        if inner is None:
            found[name] = field_type_of(hint)
        else:
            found |= {f"{name}.{key}": kind for key, kind in field_types(inner).items()}
    return found


def shown(value: Any) -> str:
    """Return a value as the command line takes it: none, true, `0.1 2.0`, "" for an empty list."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value)) or '""'
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or '""'


def listed(words: Iterable[str]) -> str:
    """Return `a, b or c`."""
    *before, last = words
    return f"{', '.join(before)} or {last}" if before else last
