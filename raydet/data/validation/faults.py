"""What is wrong with a data set, collected: each kind of fault once, counted exactly, with its first five records.

A fault concerns records of one kind (annotations, images, images ...) or, without a kind, the file as a whole.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.validation.rules import FOLLOWS, RULES
from raydet.exceptions import DataError, one_line

SHOWN = 5
"""Records named per kind of fault."""
_LONGEST = 100
"""Characters of a record's name or value that are kept."""
_MOST_WHATS = 20
"""Different sentences kept per rule; further ones are counted under the rule's own."""


_COLLECTING: ContextVar[bool] = ContextVar("collecting", default=False)


@contextmanager
def collecting() -> Iterator[None]:
    """Within this, `Faults.check` raises nothing: whoever opens data judges all that was found together.

    So no fault of a split hides another, and its images are looked at although its annotations are refused. What
    leaves nothing to open is raised all the same.
    """
    token = _COLLECTING.set(True)
    try:
        yield
    finally:
        _COLLECTING.reset(token)


@dataclass(frozen=True, slots=True)
class Example:
    """One faulty record: its name, what it holds, the file name of its image."""

    record: str | None = None
    value: str | None = None
    image: str | None = None

    def __str__(self) -> str:
        return " ".join(p for p in (self.record, f"({self.value})" if self.value is not None else None) if p)


@dataclass(slots=True)
class Fault:
    """One kind of fault: all records of a file that break a rule in the same way."""

    rule: str
    what: str
    file: str = ""
    """Annotation file or folder."""
    kind: str = ""
    """Plural of what is counted; "": the file as a whole."""
    hint: str | None = None
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def severe(self) -> bool:
        """Whether the rule refuses (E), rather than warns (W)."""
        return self.rule.split("-")[1].startswith("E")

    @property
    def record(self) -> str | None:
        """The first faulty record."""
        return self.examples[0].record if self.examples else None

    @property
    def value(self) -> str | None:
        """What the first faulty record holds."""
        return self.examples[0].value if self.examples else None


@dataclass(frozen=True, slots=True)
class RuleFaults:
    """All faults of one rule, in however many files and forms."""

    rule: str
    faults: list[Fault]
    total: int
    """Records that were looked at in their files; 0: not counted."""

    @property
    def severe(self) -> bool:
        """Whether the rule refuses."""
        return self.faults[0].severe

    @property
    def count(self) -> int:
        """Records that break it."""
        return sum(fault.count for fault in self.faults)

    @property
    def what(self) -> str:
        """What is wrong, in the words of its only form, else in the rule's."""
        forms = {fault.what for fault in self.faults}
        return forms.pop() if len(forms) == 1 else RULES.get(self.rule, self.rule)

    @property
    def examples(self) -> list[Example]:
        """The first records."""
        return [example for fault in self.faults for example in fault.examples][:SHOWN]

    @property
    def hint(self) -> str | None:
        """What to do about it, for the most frequent form that has an answer."""
        return next((f.hint for f in sorted(self.faults, key=lambda f: -f.count) if f.hint), None)

    @property
    def files(self) -> dict[str, int]:
        """Annotation files and folders, with the faults of each."""
        counts: dict[str, int] = {}
        for fault in self.faults:
            counts[fault.file] = counts.get(fault.file, 0) + fault.count
        return counts

    def said(self, most: int = SHOWN) -> str:
        """Return count, what is wrong and the first records."""
        kinds = {fault.kind for fault in self.faults}
        counted = ""
        if kinds != {""}:
            kind = kinds.pop() if len(kinds) == 1 else "records"
            counted = f"{self.count} of {self.total} {kind}: " if self.total else f"{self.count} {kind}: "
        elif len(self.faults) > 1:
            counted = f"{len(self.faults)} times: "
        shown = ", ".join(map(str, self.examples[:most]))
        if not shown and len(self.faults) > 1:  # the sentences are all there is
            shown = "; ".join(dict.fromkeys(fault.what for fault in self.faults[:most]))
        return f"{counted}{self.what}" + (f"; {shown}" if shown and shown != self.what else "")

    def line(self, root: str = "") -> str:
        """Return the rule, its files, what is said, and what to do."""
        names = {_below(file, root): count for file, count in self.files.items() if _below(file, root)}
        if len(names) < 2:
            where = "".join(f"{name}: " for name in names)
        else:
            first = ", ".join(f"{name} {count}" for name, count in list(names.items())[:SHOWN])
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            where = f"{len(names)} files ({first}{more}): "
        return f"{self.rule} {where}{self.said()}" + (f". {one_line(self.hint)}" if self.hint else "")


def _below(file: str, root: str) -> str:
    return file.removeprefix(root).strip("/") if root and file.startswith(root) else file


class Faults:
    """All faults found, in the order in which their kinds were met."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], Fault] = {}
        self._totals: dict[tuple[str, str], tuple[int, int]] = {}
        self.unusable: list[tuple[str, str]] = []
        """Name and rule of each image that cannot be used and has not entered the index: for the quarantine list."""

    def add(
        self,
        rule: str,
        what: str,
        *,
        file: object = "",
        kind: str = "",
        count: int = 1,
        examples: Iterable[Example] = (),
        hint: str | None = None,
    ) -> None:
        """Count `count` records that break a rule.

        Args:
            what: what is wrong, without the record's value, so that equal faults are counted together.
            examples: the first of the records, at least five if there are as many.
        """
        place = one_line(str(file))
        if (rule, what, place) not in self._found and sum(key[0] == rule for key in self._found) >= _MOST_WHATS:
            what = RULES.get(rule, rule)
            if sum(key[0] == rule for key in self._found) >= 2 * _MOST_WHATS:  # a file a record
                place = ""
        fault = self._found.setdefault((rule, what, place), Fault(rule, one_line(what), place, kind, hint))
        fault.count += count
        for example in examples:
            if len(fault.examples) >= SHOWN:
                break
            fault.examples.append(_clean(example))

    def add_error(self, error: DataError, *, file: object = "", kind: str = "") -> None:
        """Count what an error says; its text becomes the record's value, the rule's meaning the kind of fault."""
        if not kind:
            examples = [] if error.record is None else [Example(error.record)]
            self.add(error.rule, error.what, file=error.file or file, examples=examples, hint=error.hint)
            return
        record = error.record or (str(error.file) if error.file is not None else None)
        example = Example(record, error.what, record)
        self.add(
            error.rule, RULES.get(error.rule, error.rule), file=file, kind=kind, examples=[example], hint=error.hint
        )

    def looked_at(self, kind: str, total: int, left_out: int = 0, file: object = "") -> None:
        """Count records that were looked at, and those of them that are faulty (each once, whatever ails it)."""
        key = (one_line(str(file)), kind)
        before = self._totals.get(key, (0, 0))
        self._totals[key] = (before[0] + total, before[1] + left_out)

    def extend(self, other: "Faults", file: str = "") -> None:
        """Count all that another collector holds; `file` stands for what has none."""
        for f in other:
            self.add(f.rule, f.what, file=f.file or file, kind=f.kind, count=f.count, examples=f.examples, hint=f.hint)
        for (place, kind), (total, left_out) in other._totals.items():
            self.looked_at(kind, total, left_out, place or file)
        self.unusable += other.unusable

    def name_images(self, kind: str, look: Callable[[str], str | None]) -> None:
        """Replace what the examples of a kind hold for an image by what `look` makes of it."""
        for fault in self._found.values():
            if fault.kind == kind:
                shown = [(e, None if e.image is None else look(e.image)) for e in fault.examples]
                fault.examples = [_clean(replace(e, image=name)) for e, name in shown]

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def counted(self, kind: str, file: object = "") -> bool:
        """Return whether it was said how many records of that kind a file has."""
        return (one_line(str(file)), kind) in self._totals

    @property
    def errors(self) -> list[Fault]:
        """Kinds of fault that refuse the data; those of the file as a whole first, what follows from others last."""
        return sorted((f for f in self if f.severe), key=lambda fault: (fault.rule in FOLLOWS, bool(fault.kind)))

    @property
    def warnings(self) -> list[Fault]:
        """Kinds of fault that are accepted and said."""
        return [fault for fault in self if not fault.severe]

    def share(self, kind: str) -> float:
        """Return the share of the records of a kind that are faulty, in the worst file."""
        return max((left / total for (_, k), (total, left) in self._totals.items() if k == kind and total), default=0.0)

    def by_rule(self) -> list["RuleFaults"]:
        """Return all faults joined by their rules, those that refuse first."""
        groups: dict[str, list[Fault]] = {}
        for fault in self._sorted():
            groups.setdefault(fault.rule, []).append(fault)
        return [
            RuleFaults(
                rule, faults, sum(self._totals.get(place, (0, 0))[0] for place in {(f.file, f.kind) for f in faults})
            )
            for rule, faults in groups.items()
        ]

    def lines(self, root: str = "") -> list[str]:
        """Return one line per rule, errors first: rule, files, count, what, the first records, what to do.

        Args:
            root: the data set's place, which is not said again in the names of files.
        """
        return [group.line(root) for group in self.by_rule()]

    def notes(self) -> list[str]:
        """Return what was left out, accepted or repaired, one line per rule, which ends it; what is left out first."""
        return [f"{group.said(1)} ({group.rule})" for group in self.by_rule()]

    def said(self, fault: Fault) -> str:
        """Return a kind of fault as one line that ends with its rule, as in `index.warnings`."""
        return f"{self._said(fault, 1)} ({fault.rule})"

    def error(self, fault: Fault | None = None) -> DataError:
        """Return the error that a kind of fault raises; by default the first that refuses."""
        first, others = fault or self.errors[0], [f for f in self.errors if f is not (fault or self.errors[0])]
        what = first.what + (f", got {first.value}" if first.value is not None else "")
        if first.kind:
            what += f"; {self._counted(first)}"
        if first.count > 1 and first.kind:
            what += f": {', '.join(e.record.split(' ', 1)[-1] for e in first.examples if e.record)}"
        more = f"Also {', '.join(dict.fromkeys(f.rule for f in others))}. " if others else ""
        if all(fault.rule in FOLLOWS for fault in (first, *others)):  # then it is warnings that have left nothing
            more += "".join(f"{f.rule}: {self._counted(f)}: {f.what}. " for f in self.warnings[:2] if f.kind)
        tip = "`raydet check` shows all." if first.count > 1 or others else ""
        hint = " ".join(part for part in (first.hint, more + tip) if part)
        return self._of(
            DataError(what, rule=first.rule, file=first.file or None, record=first.record, hint=hint or None)
        )

    def check(self, *, skip: bool, max_bad: float) -> None:
        """Raise what must not be gone on with: any E; with `skip`, those of a whole file, and too many faulty records.

        Raises:
            DataError: the gravest fault, with its count and first records; none while faults are being collected.
        """
        if _COLLECTING.get():
            return
        errors = self.errors
        if errors and (not skip or not all(fault.kind for fault in errors)):
            raise self.error()
        for (file, kind), (total, left_out) in self._totals.items():
            if left_out > max_bad * total:
                guilty = next((f for f in errors if (f.kind, f.file) == (kind, file)), errors[0] if errors else None)
                first = self.error(guilty) if guilty else DataError("see the warnings", rule="COCO-E29")
                what = f"{left_out} of {total} {kind} are faulty, more than data.max_bad={max_bad}; {first.what}"
                again = DataError(what, rule=first.rule, file=file or None, record=first.record, hint=first.hint)
                raise self._of(again)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as values that JSON holds."""
        return {
            "errors": sum(f.count for f in self if f.severe),
            "warnings": sum(f.count for f in self if not f.severe),
            "records": [
                {"file": file, "kind": kind, "total": total, "faulty": left}
                for (file, kind), (total, left) in self._totals.items()
            ],
            "unusable": [list(pair) for pair in self.unusable],
            "findings": [
                {
                    "rule": group.rule,
                    "severe": group.severe,
                    "count": group.count,
                    "total": group.total,
                    "what": group.what,
                    "files": group.files,
                    "examples": [str(example) for example in group.examples],
                    "remedy": group.hint,
                }
                for group in self.by_rule()
            ],
            "faults": [
                asdict(f) | {"severe": f.severe, "rule_text": RULES.get(f.rule, f.rule)} for f in self._sorted()
            ],
        }

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> "Faults":
        """Return what `to_dict` was made of."""
        faults = cls()
        for f in held["faults"]:
            given = {key: f[key] for key in ("file", "kind", "count", "hint")}
            faults.add(f["rule"], f["what"], examples=[Example(**e) for e in f["examples"]], **given)
        for row in held["records"]:
            faults.looked_at(row["kind"], row["total"], row["faulty"], row["file"])
        faults.unusable = [(name, rule) for name, rule in held["unusable"]]
        return faults

    def to_json(self) -> str:
        """Return `to_dict` as ASCII text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def packed(self) -> npt.NDArray[np.uint8]:
        """Return all of it as a column of an index's cache."""
        return np.frombuffer(self.to_json().encode(), np.uint8)

    @classmethod
    def unpacked(cls, column: npt.NDArray[np.uint8], file: str | None = None) -> "Faults":
        """Return what `packed` was made of; `file`: how the file is spelt now, where it is one."""
        held = json.loads(column.tobytes())
        if file is not None:
            for row in held["faults"] + held["records"]:
                row["file"] = file
        return cls.from_dict(held)

    def _of(self, error: DataError) -> DataError:
        error.faults = self
        return error

    def _sorted(self) -> list[Fault]:
        return self.errors + self.warnings

    def _counted(self, fault: Fault) -> str:
        total = self._totals.get((fault.file, fault.kind), (0, 0))[0]
        return f"{fault.count} of {total} {fault.kind}" if total else f"{fault.count} {fault.kind}"

    def _said(self, fault: Fault, most: int = SHOWN) -> str:
        text = f"{self._counted(fault)}: {fault.what}" if fault.kind else fault.what
        return f"{text}; {', '.join(map(str, fault.examples[:most]))}" if fault.examples else text


def _clean(example: Example) -> Example:
    parts = (example.record, example.value, example.image)
    return Example(*(None if part is None else one_line(part, _LONGEST) for part in parts))
