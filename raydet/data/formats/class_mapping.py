"""A split's classes as those of another, by name: splits list their classes in another order, or not all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raydet.data.columns import Ints
from raydet.data.formats.index import ClassificationIndex, DetectionIndex, Index
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError


def with_classes(
    index: Index, names: Sequence[str], ids: Ints, *, of: str = "the training split", skip: bool = False
) -> Index:
    """Return the index with the classes of a training split or model, and what was done about it in its faults.

    Classes are the same if their names are; where names are used twice, or missing, if ids and names are.

    Args:
        names: of each class; "" for a gap of class_ids=raw.
        ids: the data set's id of each class.
        of: whose they are, for messages.
        skip: leave out, and count, what is of other classes, instead of refusing.

    Raises:
        DataError: the index has classes that are not among them.
    """
    target = list(zip(ids.tolist(), names, strict=True))
    given = list(zip(index.category_ids.tolist(), index.class_names, strict=True))
    if target == given:
        return index
    if _ambiguous(names) or _ambiguous(index.class_names):
        place: dict[object, int] = {pair: i for i, pair in enumerate(target)}
        classes = np.array([place.get(pair, -1) for pair in given], np.int64)
    else:
        place = {name: i for i, (_, name) in enumerate(target) if name}
        classes = np.array([place.get(name, -1) for _, name in given], np.int64)
    count = np.bincount(index.labels, minlength=len(given))
    extra = [i for i, (_, name) in enumerate(given) if classes[i] < 0 and (name or count[i])]
    kind, faults = ("boxes" if isinstance(index, DetectionIndex) else "images"), Faults()
    shown = [Example(f"class {_shown(given[i], index)}", f"{count[i]} {kind}") for i in extra]
    if extra and not skip:
        listed = ", ".join(f"{example.record} ({example.value})" for example in shown[:SHOWN])
        more = f" and {len(extra) - SHOWN} more" if len(extra) > SHOWN else ""
        what = f"has classes that {of} lacks: {listed}{more}"
        hint = "Name the same classes in both, or set data.on_bad=skip to leave out what is of these."
        raise DataError(what, file=index.file, rule="DIR-E04", hint=hint)
    if extra:
        what, lost = f"of classes that {of} lacks: left out", int(count[extra].sum())
        faults.add("DIR-W10", what, file=index.file, kind=kind, count=lost, examples=shown)
    lacking = [pair for i, pair in enumerate(target) if pair[1] and i not in set(classes.tolist())]
    what = f"its classes are matched with those of {of} by name"
    if lacking:
        what += f"; it has none of {len(lacking)} of the {sum(1 for n in names if n)}"
    faults.add("DIR-W09", what, file=index.file, examples=[Example(f"class {_shown(p, index)}") for p in lacking])
    mapped = index.relabel(classes, np.asarray(ids), list(names))
    return with_faults(mapped, faults)


def with_faults(index: Index, faults: Faults) -> Index:
    """Return the index with further faults beside its own."""
    both = Faults()
    both.extend(index.faults)
    both.extend(faults)
    return replace(index, faults=both, warnings=[both.said(fault) for fault in both])


def _ambiguous(names: Sequence[str]) -> bool:
    return any(count > 1 for name, count in Counter(names).items() if name)


def _shown(pair: tuple[int, str], index: Index) -> str:
    return pair[1] if isinstance(index, ClassificationIndex) else f"{pair[0]} {pair[1]!r}"
