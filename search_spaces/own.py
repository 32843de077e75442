"""A user's own search space, a Python file with `space(cfg)`. It is executed: whoever names it trusts it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from raydet.config import Config
from raydet.exceptions import ConfigError


def load(path: Path) -> ModuleType:
    """Execute the file and return it as a module; what it raises is reported with the file's name.

    Raises:
        ConfigError: no such file, an error while it runs, or no function `space` in it.
    """
    if not path.is_file():
        raise ConfigError(f"search space {path}: no such file")
    found = importlib.util.spec_from_file_location(f"raydet_space_{path.stem}", path)
    if found is None or found.loader is None:
        raise ConfigError(f"search space {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        del sys.modules[found.name]
        raise ConfigError(f"search space {path}: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "space", None)):
        raise ConfigError(
            f"search space {path} has no function space(cfg) that returns a dict of dotted keys to ray.tune domains, "
            'e.g. {"optim.lr": tune.loguniform(1e-3, 1e-1)}'
        )
    return module


def ask(module: ModuleType, function: str, cfg: Config) -> Any:
    """Return what the file's function says of `cfg`; None if it has no such function.

    Raises:
        ConfigError: whatever the function raises.
    """
    if not hasattr(module, function):
        return None
    try:
        return getattr(module, function)(cfg)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        raise ConfigError(f"{module.__file__}: {function}(cfg): {type(error).__name__}: {error}") from error
