"""How help is laid out: flags and settings in the width of the terminal, never broken inside a word."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raydet.config import Config, Quantization, as_flat
from raydet.config.arguments import SETTINGS
from raydet.config.field_docs import field_docs
from raydet.config.field_types import FieldType, shown

_FIXED = "\N{NO-BREAK SPACE}"
_TOGETHER = re.compile(r"\(default: [^)]{,30}\)|\[[^]]+\]|`[^`]{,40}`")
"""What is not broken over two lines."""
_FLAG_COLUMN = 24
"""Where the text of a flag begins."""


def width() -> int:
    """Return the columns of the terminal, at most 100; 80 into a pipe."""
    return max(40, min(100, shutil.get_terminal_size((80, 24)).columns))


def wrapped(text: str, indent: int = 0) -> list[str]:
    """Return a paragraph as lines, broken at spaces only; what stands in brackets after "default" stays together."""
    margin = " " * indent
    how: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    text = _TOGETHER.sub(lambda match: match[0].replace(" ", _FIXED), text)
    lines = textwrap.wrap(text, width(), initial_indent=margin, subsequent_indent=margin, **how)
    return [line.replace(_FIXED, " ") for line in lines]


def entry(left: str, text: str, column: int = _FLAG_COLUMN) -> list[str]:
    """Return a flag and its text beside it, or below it where it is too long for that."""
    lines = wrapped(text, column)
    if len(left) + 4 <= column and lines:
        return [f"  {left}".ljust(column) + lines[0][column:], *lines[1:]]
    return [*wrapped(left, 2), *lines]


def usage(prog: str, positionals: Iterable[argparse.Action]) -> list[str]:
    """Return the line that shows how a verb is called."""
    words = [_positional(action) for action in positionals]
    first, *rest = wrapped(" ".join(["usage:", prog, *words, "[flags] [--section.field value ...]"]), 7)
    return [first.lstrip(), *rest]


def flags(
    positionals: Iterable[argparse.Action], options: Iterable[argparse.Action], kinds: Mapping[str, FieldType]
) -> list[str]:
    """Return a verb's positionals and flags, each with its type, meaning and default."""
    lines: list[str] = []
    for action in positionals:
        lines += entry(_positional(action), _with_default(action))
    lines += ["", "flags:"]
    for action in options:
        kind = kinds.get(action.option_strings[-1])
        what = "" if kind is None else f" {action.metavar or kind.shown()}"
        lines += entry(", ".join(action.option_strings) + what, _with_default(action))
    return lines


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    name += "..." * (action.nargs in ("+", "*"))
    return f"[{name}]" if action.nargs in ("?", "*") else name


def _with_default(action: argparse.Action) -> str:
    text = action.help or ""
    if not action.option_strings or "(default" in text or action.dest == "help":
        return text
    default = "off" if action.default is False else shown(None if action.default == [] else action.default)
    return f"{text} (default: {default})".strip()


def settings(cfg: Config) -> list[str]:
    """Return every setting, by section, with its type, its meaning and its value in `cfg`."""
    docs = field_docs(Config)
    values = {**{f"quantization.{key}": value for key, value in as_flat(Quantization()).items()}, **as_flat(cfg)}
    lines: list[str] = []
    section = ""
    for key, kind in SETTINGS.items():
        name, _, field = key.partition(".")
        if name != section:
            section = name
            off = " Off here: setting one of its fields switches it on." if getattr(cfg, name) is None else ""
            lines += ["", *wrapped(f"{name}: {docs.get(name, '')}{off}")]
        if not field:
            lines += entry(f"--{key} none", "Switch it off.", 6)
            continue
        lines += entry(f"--{key} {kind.shown()}", f"{docs.get(key, '')} (default: {shown(values[key])})", 6)
    return lines


def commands(title: str, lines: Sequence[str]) -> list[str]:
    """Return lines to be typed, under their title."""
    return ["", f"{title}:", *(f"  {line}" for line in lines)]
