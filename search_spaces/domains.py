"""Ray Tune's domains as a search needs them: which are allowed, what they hold, how they and their values are written.

Only what OptunaSearch converts without loss is allowed: no grid, no function, no normal distribution, no steps on a log
scale. The values of a choice are plain (None, true / false, numbers, text), for Optuna's storage writes JSON: a study
with tuples it has written itself it then refuses ("does not support dynamic value space", optuna 5.0.0). So a list is
text in a space, and a list again on its way into the configuration.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from raydet.config import field_type
from raydet.exceptions import ConfigError

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

FUNCTIONS: dict[str, str] = {
    "uniform": "low, high",
    "loguniform": "low, high",
    "quniform": "low, high, step",
    "randint": "low, high",
    "lograndint": "low, high",
    "choice": "value, value, ...",
}
"""What `--set` understands, as in ray.tune: `high` of randint and lograndint is not drawn."""


def plain_space(domains: Any, name: str) -> "dict[str, Domain]":
    """Return what a file's `space()` gave, with choices of lists as choices of text.

    Raises:
        ConfigError: not a flat dict of domains that Optuna takes.
    """
    from ray.tune.search.sample import Categorical

    if not isinstance(domains, Mapping) or not domains:
        raise ConfigError(f"space {name}: space(cfg) must return a dict of dotted keys to ray.tune domains, not empty")
    plain = {}
    for key, domain in domains.items():
        if isinstance(domain, Mapping):
            inner = next(iter(domain), "...")
            wrong = "a grid; use tune.choice" if inner == "grid_search" else f"nested; write one key, {key}.{inner}"
            raise ConfigError(f"space {name}: {key} is {wrong}")
        if not _takes(domain):
            fixed = "" if callable(domain) or hasattr(domain, "sample") else "; a fixed value is set by --KEY VALUE"
            raise ConfigError(f"space {name}: {key} is {domain!r}, not one of tune's {', '.join(FUNCTIONS)}{fixed}")
        if isinstance(domain, Categorical):
            domain = plain_choice(domain.categories, f"space {name}: {key}")
        plain[str(key)] = domain
    return plain


def plain_choice(values: Iterable[Any], at: str) -> "Domain":
    """Return a choice of these values, each once, lists as text.

    Raises:
        ConfigError: a value that is none of None, true / false, number, text or a list of these.
    """
    from ray import tune

    plain: list[Any] = []
    for value in map(_plain, values):
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise ConfigError(f"{at}: {value!r} is no value of a choice; give numbers, text, true, false or none")
        if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in plain):
            plain.append(value)
    if not plain:
        raise ConfigError(f"{at}: a choice needs at least one value")
    return tune.choice(plain)


def plain_points(points: Any, name: str) -> list[dict[str, Any]]:
    """Return what a file's `points()` gave, with lists as text.

    Raises:
        ConfigError: not a list of dicts.
    """
    if not isinstance(points, (list, tuple)) or not all(isinstance(point, Mapping) for point in points):
        raise ConfigError(f"space {name}: points(cfg) must return a list of dicts, each dotted key -> value")
    return [{str(key): _plain(value) for key, value in point.items()} for point in points]


def _takes(domain: Any) -> bool:
    from ray.tune.search import sample

    drawn = domain.get_sampler() if hasattr(domain, "get_sampler") else None
    if isinstance(drawn, sample.Quantized):
        return isinstance(domain, sample.Float) and isinstance(drawn.sampler, sample.Uniform)
    logs = (sample.Float, sample.Integer)
    allowed = logs if isinstance(drawn, sample.LogUniform) else (*logs, sample.Categorical)
    return isinstance(domain, allowed) and isinstance(drawn, (sample.Uniform, sample.LogUniform))


def bounds(domain: "Domain") -> list[Any]:
    """Return the lowest and the highest value, or all there are of a choice."""
    from ray.tune.search.sample import Categorical, Integer

    if isinstance(domain, Categorical):
        return list(domain.categories)
    return [domain.lower, domain.upper - 1 if isinstance(domain, Integer) else domain.upper]


def holds(domain: "Domain", value: Any) -> bool:
    """Tell whether Optuna takes `value` as one of the domain's."""
    from ray.tune.search.sample import Categorical, Integer, Quantized

    if isinstance(domain, Categorical):
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in domain.categories)
    if isinstance(value, bool) or not isinstance(value, int if isinstance(domain, Integer) else (int, float)):
        return False
    low, high = bounds(domain)
    drawn = domain.get_sampler()
    steps = (value - low) / drawn.q if isinstance(drawn, Quantized) else 0.0
    return bool(low <= value <= high and abs(steps - round(steps)) < 1e-8)


def spelt(domain: "Domain") -> str:
    """Return the domain as `--set` reads it."""
    from ray.tune.search.sample import Categorical, Integer, LogUniform, Quantized

    if isinstance(domain, Categorical):
        return f"choice({', '.join(map(repr, domain.categories))})"
    drawn = domain.get_sampler()
    values = [domain.lower, domain.upper]
    log = "log" if isinstance(drawn, LogUniform) else ""
    name = log + ("randint" if isinstance(domain, Integer) else "uniform")
    if isinstance(drawn, Quantized):
        name, values = f"q{name}", [*values, drawn.q]
    return f"{name}({', '.join(f'{value:.12g}' if isinstance(value, float) else str(value) for value in values)})"


def to_plain(value: Any, domain: "Domain") -> Any:
    """Return a configuration's value as the domain has it: lists as text, a whole float among whole numbers as int."""
    from ray.tune.search.sample import Integer

    if isinstance(domain, Integer) and isinstance(value, float) and value.is_integer():
        return int(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value.item() if hasattr(value, "item") else value  # numpy's


def to_changes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as `override` takes them: text that stands for a list becomes one."""
    return {
        key: field_type(key).read([value]) if isinstance(value, str) and field_type(key).items else value
        for key, value in params.items()
    }
