"""raydet: train and tune EfficientNet and EfficientDet on Ray. Start with `raydet.fit(raydet.recipe(name))`."""

import importlib
from pathlib import Path as _Path
from typing import Any

_root = _Path(__file__).resolve().parents[1]
if (_root / "setup.cfg").is_file() and (_root / "ops").is_dir():
    # A bare checkout (python -m raydet, a Ray job's working_dir): raydet.ops and raydet.search_spaces lie beside us.
    __path__.append(str(_root))

__version__ = "0.1.0"

_LATER = {
    "Config": "config",
    "override": "config",
    "parse_overrides": "config.arguments",
    "recipe": "recipes",
    "fit": "driver.fit",
    "Result": "driver.fit",
    "tune": "tuning.tune",
    "TuneResult": "tuning.tune",
    "evaluate": "inference.evaluate",
    "predict": "inference.predict",
    "export": "inference.export",
    "check": "audit.check",
    "convert": "data.convert",
    "rank_calibrations": "bench.sensitivity",
    "open_split": "data",
    "draw_comparison": "visualization.boxes",
    "contact_sheet": "visualization.boxes",
    "RaydetError": "exceptions",
    "ConfigError": "exceptions",
    "DataError": "exceptions",
    "CheckpointError": "exceptions",
    "WeightsError": "exceptions",
    "ExportError": "exceptions",
    "StorageFull": "exceptions",
    "NonFiniteLoss": "exceptions",
    "Refused": "exceptions",
    "RunFailed": "exceptions",
    "Stopped": "exceptions",
}
__all__ = [*_LATER, "__version__"]


def __getattr__(name: str) -> Any:  # `import raydet` must need neither torch nor Ray; each name loads on first use
    if name not in _LATER:
        raise AttributeError(f"module 'raydet' has no attribute {name!r}; it has {', '.join(_LATER)}")
    return getattr(importlib.import_module(f"raydet.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
