"""A list of JSON records read column by column, so that a million of them are checked in a second."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from raydet.data.columns import Ints
from raydet.data.errors import DataError


class Table:
    """The records of one list of the file, read column by column; a bad value is reported with its record."""

    def __init__(self, path: Path, kind: str, records: object) -> None:
        self.path, self.kind = path, kind
        if not isinstance(records, list):
            raise DataError(f'"{kind}" must be a list, got {type(records).__name__}', file=path, rule="COCO-E03")
        self.records: list[dict[str, Any]] = records
        for i in self.other_than({dict}, records):
            raise DataError(f"{kind}[{i}] must be an object, got {records[i]!r}", file=path, rule="COCO-E29")

    @staticmethod
    def other_than(kinds: set[type], values: list[Any]) -> Iterable[int]:
        """Positions of the values of another type; the common case, none, costs one pass in C."""
        if set(map(type, values)) <= kinds:
            return ()
        return (i for i, value in enumerate(values) if type(value) not in kinds)

    def fault(self, i: int, what: str, rule: str, hint: str | None = None) -> DataError:
        """The error for record i."""
        name = f"{self.kind.removesuffix('s') if self.kind != 'categories' else 'category'}"
        record = f"{name} {self.records[i]['id']}" if "id" in self.records[i] else f"{self.kind}[{i}]"
        return DataError(what, file=self.path, record=record, rule=rule, hint=hint)

    def values(self, key: str) -> list[Any]:
        """The field of each record; None where it is missing."""
        return [record.get(key) for record in self.records]

    def whole(self, key: str) -> Ints:
        """A field that every record must have, as int64."""
        values = self.values(key)
        for i in self.other_than({int}, values):
            raise self.fault(i, f"{key} must be a whole number, got {values[i]!r}", "COCO-E29")
        try:
            return np.array(values, np.int64)
        except OverflowError:
            i = next(i for i, v in enumerate(values) if not -(2**63) <= v < 2**63)
            raise self.fault(i, f"{key} must fit 64 bits, got {values[i]}", "COCO-E29") from None

    def unique(self, key: str, rule: str, show: str | None = None) -> Ints:
        """`whole`, refusing a value that two records share; the message shows their field `show`."""
        found = self.whole(key)
        order = np.argsort(found, kind="stable")
        same = np.flatnonzero(found[order][1:] == found[order][:-1])
        if same.size:
            a, b = (int(order[same[0] + k]) for k in (0, 1))
            both = f" ({self.records[a].get(show)}, {self.records[b].get(show)})" if show else f" ({a} and {b})"
            what = f"{key} {found[a]} is used twice{both}; {same.size} such in the file"
            raise self.fault(a, what, rule, "Give each record an id of its own.")
        return found
