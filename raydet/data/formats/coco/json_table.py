"""JSON records read column by column, so that a million are checked in seconds; faults are counted by record."""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Ints
from raydet.data.formats.coco.json_stream import REPEATED
from raydet.data.validation.faults import SHOWN, Example, Faults

NOTHING = -(2**63)
"""Stands for an id that is no whole number."""

Rows = Sequence[int] | Ints | npt.NDArray[np.bool_]
SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


class Log:
    """Counts faults of the records of one list of a file, and remembers which records are faulty."""

    def __init__(
        self,
        file: str,
        kind: str,
        faults: Faults,
        bad: npt.NDArray[np.bool_],
        name: Callable[[int], str] | None = None,
        image: Callable[[int], str | None] | None = None,
    ) -> None:
        """Take what record i is called, and its image; neither may refer to the log: no cycle is ever collected."""
        self.file, self.kind, self.faults, self.bad = file, kind, faults, bad
        self._name, self._image = name, image

    def name(self, i: int) -> str:
        """What record i is called in messages."""
        return self._name(i) if self._name else f"{self.kind}[{i}]"

    def image(self, i: int) -> str | None:
        """File name of record i's image, or the id of the image it names."""
        return self._image(i) if self._image else None

    def warn(
        self, rule: str, what: str, rows: Rows, value: Callable[[int], object] | None = None, hint: str | None = None
    ) -> None:
        """Count the records at `rows` (positions, or a mask) under a rule."""
        at = np.flatnonzero(rows) if isinstance(rows, np.ndarray) and rows.dtype == bool else rows
        if len(at) == 0:
            return
        first = [int(i) for i in at[:SHOWN]]
        shown = [Example(self.name(i), None if value is None else str(value(i)), self.image(i)) for i in first]
        self.faults.add(rule, what, file=self.file, kind=self.kind, count=len(at), examples=shown, hint=hint)

    def refuse(
        self, rule: str, what: str, rows: Rows, value: Callable[[int], object] | None = None, hint: str | None = None
    ) -> None:
        """`warn`, and leave the records out."""
        if len(rows):
            self.bad[np.asarray(rows)] = True
        self.warn(rule, what, rows, value, hint)


class JsonTable(Log):
    """A batch of the records of one list, read field by field."""

    def __init__(self, file: str, kind: str, values: list[Any], start: int, faults: Faults) -> None:
        """Take the objects among `values`, which begin at position `start` of the list.

        Other values are counted, and no rows of the table.
        """
        self.at = np.arange(start, start + len(values))
        self.records: list[dict[str, Any]] = values
        if not of_kinds({dict}, values):
            objects = np.array([type(value) is dict for value in values])
            others = Log(file, kind, faults, ~objects, lambda i: f"{kind}[{start + i}]")
            others.warn("COCO-E29", "must be an object", ~objects, lambda i: shown(values[i]))
            self.records, self.at = [v for v in values if type(v) is dict], self.at[objects]
        super().__init__(file, kind, faults, np.zeros(len(self.records), bool))
        self._repeated()

    def name(self, i: int) -> str:
        """By its id, or its place in the list."""
        given = self.records[i].get("id")
        return f"{SINGULAR[self.kind]} {given}" if type(given) in (int, str, float) else f"{self.kind}[{self.at[i]}]"

    def image(self, i: int) -> str | None:
        """Of an annotation the image's id."""
        given = self.records[i].get({"images": "file_name", "annotations": "image_id"}.get(self.kind, ""))
        return None if given is None else str(given)

    def _repeated(self) -> None:
        rows = [i for i, record in enumerate(self.records) if REPEATED in record]
        what, hint = "the same key stands twice in the record", "Which one counts is unclear; remove the other."
        self.refuse("COCO-E40", what, rows, lambda i: shown(self.records[i][REPEATED]), hint)

    def values(self, key: str) -> list[Any]:
        """The field of each record; None where it is missing."""
        try:
            return list(map(itemgetter(key), self.records))
        except KeyError:
            return [record.get(key) for record in self.records]

    def shown(self, values: Sequence[object]) -> Callable[[int], str]:
        """How a message shows row i of a column."""
        return lambda i: shown(values[i])

    def missing(self, key: str, rows: Sequence[int], rule: str = "COCO-E29") -> None:
        """Refuse the records that lack a field, and say what it may be called there instead."""
        if rows:
            near = similar(key, self.records[rows[0]])
            hint = f'The first has "{near}"; COCO calls it "{key}".' if near else None
            self.refuse(rule, f"{key} is missing", rows, hint=hint)

    def whole(self, key: str) -> Ints:
        """A field that every record must have, as int64; of a faulty value what it may have meant, or NOTHING."""
        values = self.values(key)
        if set(map(type, values)) <= {int}:
            try:
                return np.array(values, np.int64)
            except OverflowError:
                pass
        self.missing(key, [i for i, value in enumerate(values) if value is None])
        large = [i for i, v in enumerate(values) if type(v) is int and not NOTHING < v < 2**63]
        self.refuse("COCO-E29", f"{key} must fit 64 bits", large, self.shown(values))
        wrong = [i for i, value in enumerate(values) if value is not None and type(value) is not int]
        hint = _id_hint(values[wrong[0]]) if wrong else None
        self.refuse("COCO-E29", f"{key} must be a whole number", wrong, self.shown(values), hint)
        return np.array([_meant(value) for value in values], np.int64)


def of_kinds(kinds: set[type], values: Iterable[object]) -> bool:
    """Whether all values are of these types; one pass in C."""
    return set(map(type, values)) <= kinds


def shown(value: object) -> str:
    """A value as a message shows it; a huge one in part."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return f"a whole number of {len(str(value).lstrip('-'))} digits"
    if isinstance(value, (list, dict)) and len(value) > 20:
        return f"{type(value).__name__} of {len(value)} entries"
    try:
        return repr(value)[:200]
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"


def similar(key: str, held: Iterable[str]) -> str | None:
    """The key among `held` that is `key` but for case, underscores and a plural s."""
    return next((other for other in held if other != key and _plain(other) == _plain(key)), None)


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "").replace(" ", "").rstrip("s")


def _meant(value: object) -> int:
    """The id that was meant by "7" or 7.0, so that what names it is found all the same."""
    if type(value) not in (int, str, float) or (isinstance(value, float) and value % 1):
        return NOTHING
    try:
        number = int(value)  # type: ignore[call-overload]
    except (ValueError, OverflowError):
        return NOTHING
    return number if NOTHING < number < 2**63 else NOTHING


def _id_hint(value: object) -> str | None:
    if isinstance(value, str):
        return 'Ids are numbers in COCO: write 1, not "1".'
    if isinstance(value, float):
        return "Ids are whole numbers: write 1, not 1.0 (pandas makes floats of a column with gaps)."
    return None
