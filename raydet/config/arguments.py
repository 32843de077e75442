"""Words of the command line to values: `--optim.lr 0.1 --augment.scale 0.8 1.25` to `override`'s dict.

argparse takes the words apart, for settings and for a verb's own flags alike; `FieldType` says what a word means. A
mistake is answered with what to type instead.
"""

import argparse
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Literal, NoReturn

from raydet.config.field_types import FieldType, field_type_of, field_types, hints, listed, section_of
from raydet.config.near_keys import near_keys, same_keys
from raydet.config.tree import Config
from raydet.exceptions import ConfigError


def _settings() -> dict[str, FieldType]:
    found: dict[str, FieldType] = {}
    for name, hint in hints(Config).items():
        if section_of(hint) is not None:
            found |= {name: field_type_of(hint)} if field_type_of(hint).none else {}
            found |= {key: kind for key, kind in field_types(Config).items() if key.startswith(f"{name}.")}
    return found


SETTINGS: Mapping[str, FieldType] = _settings()
"""What can be set from the command line: dotted key -> what it takes. `--quantization none` switches a section off."""


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Return dotted key -> value for words such as `--optim.lr 0.1` or `--optim.lr=0.1`.

    Numbers, true / false and none are read as the field's type says; several words or commas make a list. Of a key that
    is given twice the last value counts, so that a word can be added to a command that is there.

    Raises:
        ConfigError: a word that belongs to no key, an unknown key, or a key without a value.
    """
    return _settings_parser().read(words)[1]


class SettingsParser(argparse.ArgumentParser):
    """An argparse parser that has all settings among its flags, and whose errors are ConfigErrors."""

    def __init__(self, **how: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **how)
        self.flags: dict[str, argparse.Action] = {}
        """Flags of the verb itself, in order."""
        self.positionals: list[argparse.Action] = []
        self.kinds: dict[str, FieldType] = {}
        """What each flag takes, those of settings too. A flag that takes no value is not among them."""
        self._repeatable: set[str] = set()
        for key, kind in SETTINGS.items():
            nargs = "+" if kind.items else None
            super().add_argument(f"--{key}", dest=key, nargs=nargs, default=argparse.SUPPRESS)
            self.kinds[f"--{key}"] = kind

    def add_argument(  # type: ignore[override]
        self, *names: str, type: type = str, choices: Sequence[str] = (), **how: Any
    ) -> argparse.Action:
        """Add a flag or positional of the verb, as argparse's method of this name does; `read` checks its values."""
        action = super().add_argument(*names, **how)
        if not action.option_strings:
            self.positionals.append(action)
        kind = field_type_of(Literal[tuple(choices)] if choices else type)
        kind = FieldType(items=(kind,), any_length=True) if action.nargs in ("+", "*") else kind
        for name in action.option_strings or [action.dest]:
            if action.option_strings:
                self.flags[name] = action
            if action.nargs != 0:
                self.kinds[name] = kind
        if how.get("action") == "append":
            self._repeatable |= set(names)
        return action

    def read(self, words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """Return the values of the verb's own flags and positionals, and dotted key -> value of the settings.

        Raises:
            ConfigError: the words cannot be meant; says what to type instead.
        """
        options, rest = self.parse_known_args(self._examined(words))
        if rest:
            raise ConfigError(f"unexpected word {rest[0]!r}; a setting is written --section.field value{self._see()}")
        values = vars(options)
        changes = {key: SETTINGS[key].read(_words(values.pop(key))) for key in list(values) if key in SETTINGS}
        for name in self.flags.keys() & self.kinds.keys() - self._repeatable:
            given, default = values[self.flags[name].dest], self.flags[name].default
            if given is not default:
                value = self.kinds[name].check(self.kinds[name].read(_words(given)), name)
                values[self.flags[name].dest] = list(value) if isinstance(value, tuple) else value
        for action in self.positionals:
            if self.kinds[action.dest].choices:
                self.kinds[action.dest].check(values[action.dest], action.dest)
        return options, changes

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError; argparse's own would end the process."""
        raise ConfigError(message + self._see())

    def _see(self) -> str:
        return f"; see `{self.prog} --help`" if self.positionals else ""

    def _examined(self, words: Sequence[str]) -> list[str]:
        """Return the words as argparse is to have them: flags as they are spelt here, a negative number at its flag."""
        out: list[str] = []
        lacks: str | None = None  # the flag that has no value yet
        for word, after in zip(words, [*words[1:], "--"], strict=False):
            if word.startswith("--"):
                if lacks:
                    raise self._needs_value(lacks, word)
                name, equals, value = word.partition("=")
                flag = self._flag(name, value if equals else after)
                if equals and flag not in self.kinds:
                    raise ConfigError(f"{flag} takes no value, got {word}")
                lacks = None if equals or flag not in self.kinds else flag
                out.append(flag + equals + value)
            elif lacks and word.startswith("-") and not self.kinds[lacks].items:
                out[-1] += f"={word}"  # argparse takes -1 for a value, but not -1e-3
                lacks = None
            else:
                if not lacks:
                    self._refuse_assignment(word)
                lacks = None
                out.append(word)
        if lacks:
            raise self._needs_value(lacks, None)
        return out

    def _flag(self, name: str, value: str) -> str:
        """Return the flag that `name` is, with dashes or underscores."""
        for flag in (name, f"--{name[2:].replace('-', '_')}", f"--{name[2:].replace('_', '-')}"):
            if flag in self.flags or flag in self.kinds:
                return flag
        key = name[2:].replace("-", "_")
        if key == "recipe" and any(action.dest == "recipe" for action in self.positionals):
            raise ConfigError(f"--recipe: a recipe is written without a flag: {self.prog} {_value(value) or 'RECIPE'}")
        if section_of(hints(Config).get(key)) is not None and not same_keys(key, SETTINGS):
            first = next(iter(hints(section_of(hints(Config)[key]))))
            raise ConfigError(f"{name} is a section; set its fields, e.g. --{key}.{first}")
        own = difflib.get_close_matches(name, self.flags, 1, 0.75)
        if own and "." not in key and not same_keys(key, SETTINGS):
            raise ConfigError(f"{name}: no such flag; did you mean {own[0]}?")
        raise ConfigError(f"{name}: no such {'setting' if '.' in key else 'flag'}{self._meant(key, value)}")

    def _refuse_assignment(self, word: str) -> None:
        """Raise ConfigError for `epochs=3`; a word without a known name before = is left alone."""
        name, equals, value = word.partition("=")
        key = name.replace("-", "_")
        if equals and re.fullmatch(r"[A-Za-z][\w.]*", key) and near_keys(key, SETTINGS) and not os.path.exists(word):
            raise ConfigError(f"{word}: a setting is written --section.field value{self._meant(key, value)}")

    def _meant(self, key: str, value: str) -> str:
        close = [_suggestion(near, _value(value)) for near in near_keys(key, SETTINGS)]
        return f"; did you mean {listed(close)}?" if close else self._see()

    def _needs_value(self, flag: str, after: str | None) -> ConfigError:
        what = f"{flag} needs a value ({self.kinds[flag].shown()})"
        if after is None or after.partition("=")[0] in {*self.flags, *self.kinds}:
            return ConfigError(what)
        return ConfigError(f"{what}; one that begins with -- is written {flag}={after}")


@cache
def _settings_parser() -> SettingsParser:
    return SettingsParser(prog="raydet")


def _words(given: str | list[str]) -> list[str]:
    return given if isinstance(given, list) else [given]


def _value(word: str) -> str:
    """Return the value that follows a flag; nothing if that is another flag."""
    return "" if word.startswith("--") else word


def _suggestion(key: str, word: str) -> str:
    """Return what to type to set `key` to `word`, or to what the key takes if it does not take that."""
    if key == "data.root" and word.endswith((".yaml", ".yml")):
        return f"--data.format yolo --data.root {PurePosixPath(word).parent}"
    kind = SETTINGS[key]
    try:
        kind.check(kind.read([word]), key)
    except ConfigError:
        word = ""
    return f"--{key} {word or kind.shown()}"
