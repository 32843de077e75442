"""What all verbs' parsers share: flags, errors, the printed result."""

import argparse
import difflib
import json
from typing import Any

from raydet.exceptions import ConfigError


def new_parser(verb: str, what: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, with the flags that all have."""
    parser = argparse.ArgumentParser(prog=f"raydet {verb}", description=what, add_help=False, allow_abbrev=False)
    parser.error = usage_error  # type: ignore[method-assign]
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    return parser


def usage_error(message: str) -> Any:
    """Raise ConfigError; argparse would end the process."""
    raise ConfigError(message)


def print_result(values: dict[str, Any], as_json: bool) -> None:
    """Print named figures, one a line, or all as one line of JSON."""
    if as_json:
        from raydet.io.jsonable import strict

        print(json.dumps(strict(values)), flush=True)  # NaN is no JSON: null
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


def parse(parser: argparse.ArgumentParser, words: list[str]) -> tuple[Any, list[str]]:
    """Return (options, the words of settings). A flag that is none of the verb's own begins a setting."""
    flags = {flag for action in parser._actions for flag in action.option_strings}
    own: list[str] = []
    settings: list[str] = []
    target = own
    for word in words:
        flag = word.partition("=")[0]
        if word.startswith("--"):
            target = own if flag in flags else settings
            close = difflib.get_close_matches(flag, flags, 1, 0.75) if flag not in flags and "." not in flag else []
            if close:
                raise ConfigError(f"{flag}: no such flag; did you mean {close[0]}?")
        target.append(word)
    if {"-h", "--help"} & set(own):
        # Whatever else is wrong with the words, help is not refused.
        positional = [word for word in own if not word.startswith("-")]
        return argparse.Namespace(help=True, first=positional[0] if positional else None), []
    return parser.parse_args(own), settings
