"""Data sets in VOC, LabelMe, CVAT, Label Studio, CreateML or CSV as an index. Read only."""

import posixpath
import re
from collections.abc import Container
from dataclasses import replace
from typing import Literal

import numpy as np

from raydet.config.data import AnnotatedFormat
from raydet.data.columns import Ints
from raydet.data.formats.annotated.pack import pack_rows
from raydet.data.formats.annotated.readers import READERS
from raydet.data.formats.annotated.table import Table, read_table
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.split_names import SPLITS, Split, split_of
from raydet.data.images.decode import Exif
from raydet.data.storage.files import Tree
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

_MOST_LIST = 64 << 20
_LIST_FOLDERS = ("ImageSets/Main", "ImageSets", "annotations", "Annotations", "")
"""Where VOC's lists of a split lie; the first that holds one counts."""


def load_annotated(
    tree: Tree,
    kind: AnnotatedFormat,
    split: Split,
    chosen: str | None = None,
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    max_bad: float = 0.01,
    left_out: Container[str] = (),
    exif: Exif = "auto",
) -> DetectionIndex:
    """Return the index of a split. All annotations of the set are read for it, for all splits have its classes: the
    sorted names, or those of a file of classes; from the cache when no file has changed.

    Args:
        chosen: an annotation file, a folder of annotations or images, VOC's list (ImageSets/Main/train.txt), the name
            of a split, or "." for all. None: the images that lists, annotations or folders say belong to the split.
        on_bad: fail raises on the first faulty record; skip leaves them out, up to the share `max_bad`.
        left_out: names of images that are not opened, and left out.
        exif: data.exif, of which the sizes are that the annotations do not state.

    Raises:
        DataError: there are no such annotations, or no such split, or they are malformed; names the rule.
    """
    table = read_table(tree, kind, exif)
    lists = _lists(tree) if kind == "voc" else {}
    faults = Faults()
    rows = _rows(tree, table, lists, split, chosen, faults)
    rows = np.array([row for row in rows.tolist() if table.names[row] not in left_out], np.int64)
    if split == "train" and not lists:  # files that cannot be read, or are no annotations, belong to no split
        rows = np.union1d(rows, np.flatnonzero(table.broken & (table.splits < 0)))
    if not rows.size and not len(faults):
        known = ", ".join(split_names(table, lists)) or 'none: set data.train and data.val to "." for all of it'
        what = f"no image belongs to the split {chosen or split}"
        raise DataError(what, file=tree.place, rule="ANN-E21", hint=f"Splits there are: {known}. Set data.{split}.")
    columns = pack_rows(table, rows, READERS[kind].states_size, faults)
    if split == "train":  # once for the whole set
        _tell_unused(table, rows, lists, faults)
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    if not len(columns["ids"]) or (split == "train" and not len(columns["boxes"])):
        what = f"none of {rows.size} images is usable" if not len(columns["ids"]) else f"{rows.size} images have no box"
        faults.add("ANN-E21", what, file=tree.place)
        raise faults.error()
    names = table.classes.tolist()
    index = DetectionIndex.of_columns(tree.place, tree, columns, np.arange(len(names)), names, faults)
    return replace(index, measured=not READERS[kind].states_size)


def known_splits(tree: Tree, kind: AnnotatedFormat) -> dict[str, str]:
    """Return what to set data.train, val and test to, by the splits that the set names; {} where it names none."""
    lists = _lists(tree) if kind == "voc" else {}
    if lists:
        found: dict[str, str] = {split: lists[split] for split in SPLITS if split in lists}
        if "trainval" in lists and "val" not in lists:
            found.setdefault("train", lists["trainval"])
        return found
    return {name: name for name in split_names(read_table(tree, kind), {})}


def split_names(table: Table, lists: dict[str, str]) -> list[str]:
    """Return the names of the splits that a set has, train first."""
    if lists:
        return list(lists)
    return [split for i, split in enumerate(SPLITS) if (table.splits == i).any()]


def _lists(tree: Tree) -> dict[str, str]:
    """VOC's lists by the names of their splits, those of Main before others."""
    texts = [name for name in tree.walk("") if name.lower().endswith(".txt")]
    for folder in _LIST_FOLDERS:
        found = dict[str, str]()
        for name in texts:
            stem = posixpath.basename(name)[:-4].lower()
            label = "trainval" if stem == "trainval" else split_of(stem) if re.fullmatch("[a-z]+", stem) else None
            if posixpath.dirname(name) == folder and label is not None:
                found.setdefault(label, name)
        if found:
            return {label: found[label] for label in (*SPLITS, "trainval") if label in found}
    return {}


def _rows(tree: Tree, table: Table, lists: dict[str, str], split: Split, chosen: str | None, faults: Faults) -> Ints:
    """The images of the split, in the table's order."""
    place = posixpath.normpath(chosen) if chosen is not None else None
    if place == ".":
        return np.arange(len(table))
    label: str = split if place is None else place
    if label == "train" and label not in lists and "trainval" in lists and "val" not in lists:
        label = "trainval"
    file = lists.get(label, label if label.lower().endswith(".txt") else None)
    if file is not None:
        return _listed(tree, table, file, faults)
    if place is not None:
        below = [
            i
            for i in range(len(table))
            if f"{table.files[i]}/".startswith(f"{place}/") or table.names[i].startswith(f"{place}/")
        ]
        if below:
            return np.array(below, np.int64)
    wanted = split_of(label)
    return (
        np.flatnonzero(table.splits == SPLITS.index(wanted))
        if wanted is not None and not lists
        else np.zeros(0, np.int64)
    )


def _listed(tree: Tree, table: Table, file: str, faults: Faults) -> Ints:
    """The images that a list names: a name a line, perhaps with numbers behind."""
    text = tree.read(file, _MOST_LIST).decode("utf-8-sig", "replace")
    row_of = dict[str, int]()
    for i in range(len(table)):
        stem = posixpath.splitext(table.files[i])[0]
        while stem:  # with every beginning of its folders left out; what two files are called means neither
            row_of[stem] = i if row_of.get(stem, i) == i else -1
            stem = stem.partition("/")[2]
    rows, missing = dict[int, None](), list[Example]()
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip().strip('"')
        if not entry:
            continue
        row = next((row_of[form] for form in _forms(entry) if row_of.get(form, -1) >= 0), None)
        if row is None:
            missing.append(Example(f"line {number} of {file}", entry))
        else:
            rows[row] = None
    if missing:
        hint = "Remove them from the list, or add an XML file; one without objects says that there is nothing."
        what = "a listed image has no annotation file, or several of its name"
        faults.add("VOC-E02", what, kind="names", count=len(missing), examples=missing[:SHOWN], hint=hint)
    faults.looked_at("names", len(rows) + len(missing), len(missing))
    return np.array(list(rows), np.int64)


def _forms(entry: str) -> list[str]:
    """What a line of a list may call an annotation file: the whole or its first word, a name or an image's path."""
    whole = [entry, entry.split()[0]]
    bare = [posixpath.splitext(one)[0] for one in whole]
    return [*whole, *bare, *(posixpath.basename(one) for one in bare)]


def _tell_unused(table: Table, rows: Ints, lists: dict[str, str], faults: Faults) -> None:
    """Say which images no annotation names, and how many belong to no split of those that there are."""
    if len(table.unnamed):
        shown = [Example(f"image {table.unnamed[i]}") for i in range(min(SHOWN, len(table.unnamed)))]
        what = "an image that no annotation names: left out, not taken for background"
        faults.add("ANN-W23", what, kind="files", count=len(table.unnamed), examples=shown)
    lost = np.setdiff1d(np.flatnonzero((table.splits < 0) & ~table.broken), rows)
    if lost.size and not lists:
        shown = [Example(table.records[int(i)]) for i in lost[:SHOWN]]
        what = "an image that belongs to no split, by its folder or its annotations: left out"
        faults.add("ANN-W25", what, kind="annotated images", count=lost.size, examples=shown)
    loose: dict[str, list[str]] = {}
    for name in table.classes.tolist():
        loose.setdefault("".join(c for c in name.casefold() if c not in " _-"), []).append(name)
    alike = [Example(" = ".join(names)) for names in loose.values() if len(names) > 1]
    if alike:
        hint = "They stay apart; merge them if they mean the same."
        what = "classes differ in case, spaces or hyphens only"
        faults.add("ANN-W22", what, kind="classes", count=len(alike), examples=alike[:SHOWN], hint=hint)
