"""What all verbs' parsers share: flags, help, errors, the printed result."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from raydet.cli import HelpShown, help_text
from raydet.config.arguments import SettingsParser


class VerbParser(SettingsParser):
    """The parser of a verb: its flags, those that all verbs have, and all settings."""

    def __init__(
        self, verb: str, what: str, examples: Sequence[str], more: Callable[[str | None], list[str]] | None = None
    ) -> None:
        """
        Args:
            verb: its name.
            what: what it does, in a sentence or two.
            examples: whole commands, shown at the end of its help.
            more: gives further lines of help, for the first positional on the command line (None: there is none).
        """
        super().__init__(prog=f"raydet {verb}", description=what)
        self._examples, self._more = examples, more
        self.add_argument("-h", "--help", action="store_true", help="show this")
        self.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")

    def parse(self, words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """Return (options, dotted key -> value of the settings).

        Raises:
            HelpShown: help was asked for; whatever else is wrong with the words, that is not refused.
            ConfigError: the words cannot be meant; says what to type instead.
        """
        if {"-h", "--help"} & set(words):
            first = words[0] if not words[0].startswith("-") else None
            print("\n".join(self._help(first)))
            raise HelpShown
        return self.read(words)

    def _help(self, first: str | None) -> list[str]:
        more = self._more(first) if self._more else []  # first of all: it may refuse `first`
        lines = [*help_text.usage(self.prog, self.positionals), "", *help_text.wrapped(self.description or ""), ""]
        options = sorted(dict.fromkeys(self.flags.values()), key=lambda action: action.dest in ("help", "json"))
        lines += [*help_text.flags(self.positionals, options, self.kinds), *more]
        if self.prog != "raydet fit" or first is None:
            see = "Settings: --section.field value, or --section.field=value; `raydet fit RECIPE --help` lists them."
            lines += ["", *help_text.wrapped(see)]
        return lines + help_text.commands("examples", self._examples)


def print_result(values: dict[str, Any], as_json: bool) -> None:
    """Print named figures, one a line, or all as one line of JSON."""
    if as_json:
        from raydet.io.jsonable import strict

        print(json.dumps(strict(values)), flush=True)  # NaN is no JSON: null
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
