"""A line of text to a range: `--set "optim.lr=loguniform(1e-3, 1e-1)"`. Read as a syntax tree; nothing is executed."""

import ast
from typing import TYPE_CHECKING, Any

from raydet.config import Config, nearest
from raydet.exceptions import ConfigError
from raydet.search_spaces.domains import FUNCTIONS, plain_choice
from raydet.search_spaces.keys import check_key

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

_EXAMPLE = "write KEY=FUNCTION(...), e.g. optim.lr=loguniform(1e-3, 1e-1)"
_LARGEST = 1e300
"""No range goes beyond; also keeps out inf and nan."""
_WORDS = {"none": None, "null": None, "true": True, "false": False}


def parse_set(text: str, cfg: Config) -> "tuple[str, Domain]":
    """Return key and domain of a line such as `optim.lr=loguniform(1e-3, 1e-1)`; nothing in it is executed.

    Raises:
        ConfigError: what is wrong with the line, the nearest key or function.
    """
    key, equals, call = (part.strip() for part in text.partition("="))
    key = key.replace("-", "_")
    if not equals or not key:
        raise ConfigError(f"--set {text!r}: {_EXAMPLE}")
    check_key(key, cfg)
    name, values = _call(call, f"--set {text!r}")
    return key, _domain(name, values, f"--set {text!r}")


def _call(text: str, at: str) -> tuple[str, list[Any]]:
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{at} cannot be read; {_EXAMPLE}") from error
    if not isinstance(node, ast.Call):
        raise ConfigError(f"{at} gives no range; {_EXAMPLE}. For a fixed value use the setting itself: --KEY VALUE")
    name = ast.unparse(node.func).removeprefix("tune.") if isinstance(node.func, (ast.Name, ast.Attribute)) else text
    if name not in FUNCTIONS:
        close = nearest(name, FUNCTIONS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(FUNCTIONS)}"
        raise ConfigError(f"{at}: no function {name!r}; {hint}")
    if node.keywords:
        raise ConfigError(f"{at}: write the values without names: {name}({FUNCTIONS[name]})")
    return name, [_literal(argument, at) for argument in node.args]


def _literal(node: ast.expr, at: str) -> Any:
    if isinstance(node, ast.Name):  # quotes seldom survive a shell
        return _WORDS.get(node.id.lower(), node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item, at) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        raise ConfigError(f"{at}: {ast.unparse(node)} is no plain value; give numbers or words") from error


def _domain(name: str, values: list[Any], at: str) -> "Domain":
    from ray import tune

    wanted = f"{name}({FUNCTIONS[name]})"
    if name == "choice":
        values = values[0] if len(values) == 1 and isinstance(values[0], list) else values
        return plain_choice(values, at)
    if len(values) != FUNCTIONS[name].count(",") + 1:
        raise ConfigError(f"{at}: {wanted} takes {FUNCTIONS[name].count(',') + 1} values, got {len(values)}")
    whole = name in ("randint", "lograndint")
    for value in values:
        if type(value) not in ((int,) if whole else (int, float)) or not abs(value) < _LARGEST:
            raise ConfigError(f"{at}: {wanted} needs {'whole numbers' if whole else 'numbers'}, got {value!r}")
    low, high = values[:2]
    if low >= high:
        raise ConfigError(f"{at}: low must be below high, got {low} and {high}")
    if name.startswith("log") and low <= 0:
        raise ConfigError(f"{at}: a logarithmic range starts above 0, got {low}; for one that holds 0 use uniform")
    if name == "quniform" and values[2] <= 0:
        raise ConfigError(f"{at}: the step must be > 0, got {values[2]}")
    try:
        return getattr(tune, name)(*values)
    except ValueError as error:  # quniform: bounds that are no multiples of the step
        raise ConfigError(f"{at}: {error}") from error
