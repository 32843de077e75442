"""Values as JSON has them."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


def plain(value: object) -> JSON:
    """Return `value` as JSON can hold it: tensors and numpy values as numbers or lists, tuples as lists, else text."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):  # kind() also for subclasses: np.float64 is a float, an IntEnum an int
            return kind(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # torch tensors, numpy arrays and numpy scalars alike; copies to the host
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(v) for v in value]
    return str(value)


def strict(value: JSON) -> JSON:
    """Return `value` with null for NaN and infinity, which strict JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    return [strict(v) for v in value] if isinstance(value, list) else value
