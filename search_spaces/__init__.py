"""Search spaces: one file each, `space(cfg) -> {"optim.lr": tune.loguniform(...)}`. Imported as `raydet.search_spaces`.

A space is flat: dotted configuration keys to Ray Tune's domains, so that Optuna finds its points to try first (in a
nested one they are silently passed over). Ranges stand around the configuration's own values, which are the first point
of each space; the text of each file says where a range comes from. Given up for flatness: a key that only some draws
use (`optim.alpha` without rmsprop) is drawn all the same; nobody reads it then, so it does no harm but to be one more
dimension.

Listing needs no Ray; `get` imports it.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from raydet.config import Config, nearest
from raydet.exceptions import ConfigError
from raydet.search_spaces.checked import Space, checked, sample
from raydet.search_spaces.domains import plain_points, plain_space, spelt
from raydet.search_spaces.own import ask, load
from raydet.search_spaces.sets import parse_set

__all__ = ["SPACES", "Space", "fitting", "get", "sample", "spelt"]

SPACES: dict[str, str] = {
    "lr": "learning rate",
    "wd": "weight decay",
    "lr_wd": "learning rate, weight decay, momentum, warm-up, EMA",
    "qat": "quantization-aware training: optimiser, schedule, calibration, BatchNorm; with a quantized recipe",
    "augment": "variation of the images and label smoothing",
    "detector": "detectors: focal loss, weight of the boxes, suppression",
}
"""Name of each space -> what it searches."""


def get(name: "str | Mapping[str, Any] | None", cfg: Config, sets: Sequence[str] = ()) -> Space:
    """Return a space round `cfg`, checked: every key exists, every value passes `override`, the first point is `cfg`.

    Args:
        name: one of SPACES, or the path of a Python file with `space(cfg)` and, if it likes, `points(cfg)`: what to try
            next after the configuration's own values (keys it leaves out have these), and `fits(cfg)`, which raises
            ConfigError. **The file is executed**, as `python FILE` would. Or the dict that `space(cfg)` would return.
            None: what `sets` say and no more.
        sets: `KEY=FUNCTION(...)`, e.g. `optim.lr=loguniform(1e-3, 1e-1)`, added or put in place of the space's own. Of
            the space's further points those that no longer lie inside are left out.

    Raises:
        ConfigError: no such space or file, a space that does not fit the configuration, a bad line in `sets`.
    """
    if name is None and not sets:
        raise ConfigError(f"nothing to search: give a space ({', '.join(SPACES)}, a file) or --set KEY=FUNCTION(...)")
    if isinstance(name, str):
        space = _named(name, cfg)
    else:
        space = Space(name="set", domains={} if name is None else plain_space(name, "of your own"), points=[])
    put = dict(parse_set(text, cfg) for text in sets)
    return checked(replace(space, domains=space.domains | put), cfg, lenient=put)


def fitting(cfg: Config) -> list[str]:
    """Return the names of the spaces that fit this configuration."""
    names = []
    for name in SPACES:
        try:
            ask(_module(name), "fits", cfg)
        except ConfigError:
            continue
        names.append(name)
    return names


def _named(name: str, cfg: Config) -> Space:
    file = Path(name).expanduser()
    module = load(file) if file.suffix == ".py" or len(file.parts) > 1 else _module(name)
    ask(module, "fits", cfg)
    domains = plain_space(ask(module, "space", cfg), name)
    points = plain_points(ask(module, "points", cfg) or [], name)
    return Space(name=file.stem.replace("-", "_"), domains=domains, points=points)


def _module(name: str) -> ModuleType:
    known = name.replace("-", "_")
    if known not in SPACES:
        close = nearest(known, SPACES)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(SPACES)}."
        raise ConfigError(f"no search space {name!r}; {hint} A file of your own ends in .py")
    return importlib.import_module(f"raydet.search_spaces.{known}")
