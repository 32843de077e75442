"""result.json: a run's folder says that it is finished."""

import json
from pathlib import Path
from typing import Any

from raydet.io.files import replace_file
from raydet.io.jsonable import strict


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return what `write_result` left of a finished run; None if it is not finished."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def write_result(folder: Path, step: int, metrics: dict[str, float]) -> None:
    """Mark the run in `folder` as finished."""
    replace_file(folder / "result.json", json.dumps({"step": step, "metrics": strict({**metrics})}, indent=2) + "\n")
