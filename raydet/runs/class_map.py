"""classes.json: what a run's class numbers mean, and how often each class occurs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raydet.io.files import replace_file


class ClassList(Protocol):
    """What an index of a split knows of its classes."""

    @property
    def class_names(self) -> list[str]: ...
    @property
    def category_ids(self) -> Any: ...


def write_class_map(folder: Path, classes: ClassList, counts: Mapping[str, npt.NDArray[np.signedinteger[Any]]]) -> None:
    """Write `classes.json` to a run's folder: class, the data set's id, name, and a count for each split.

    Args:
        counts: split -> boxes or images of each class.
    """
    rows = [
        {"class": i, "id": int(classes.category_ids[i]), "name": name}
        | {split: int(per_class[i]) for split, per_class in counts.items()}
        for i, name in enumerate(classes.class_names)
    ]
    replace_file(folder / "classes.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
