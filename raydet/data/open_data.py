"""The audit at the door, one for every verb: a data set's splits opened, and all that is wrong or odd with them.

`fit`, its dry run, `tune`, `evaluate` and `check` begin with it, so they agree; `check` then looks at every image.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raydet.config import Config, override
from raydet.data.formats.class_mapping import with_classes
from raydet.data.formats.index import TOO_SMALL, ClassificationIndex, DetectionIndex, Index
from raydet.data.formats.split_names import Split
from raydet.data.left_out import open_split
from raydet.data.validation.anchor_coverage import unmatched
from raydet.data.validation.faults import SHOWN, Example, Faults, collecting
from raydet.exceptions import DataError

_NOT_THERE = ("DIR-E01", "YOLO-E06", "ANN-E21")
"""Rules of a split that there is none of."""
_LEFT_OUT = re.compile(r"\((?:[A-Z]+-E\d+|BOX-W01|BOX-W02|BOX-W03|DIR-W09|DIR-W10|DIR-W11|IMG-W20)\)$")
"""Rules that a user must know of before all else: they change what is trained on."""


@dataclass
class OpenedData:
    """The splits that could be opened, and every fault of all that were asked for."""

    cfg: Config
    splits: dict[Split, Index] = field(default_factory=dict)
    """val and test have the classes of train."""
    found: dict[Split, Faults] = field(default_factory=dict)
    """What is wrong or odd with each split."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Images of train that training leaves out, by why."""

    @property
    def train_images(self) -> int:
        """Images that are trained on."""
        return len(self.splits["train"]) - sum(self.left_out.values())

    @property
    def faults(self) -> Faults:
        """All of it."""
        faults = Faults()
        for split, found in self.found.items():
            faults.extend(found, split)
        return faults

    @property
    def notes(self) -> list[str]:
        """What is left out, then what was accepted or repaired: one line a split and rule."""
        lines = [f"{split}: {line}" for split, found in self.found.items() for line in found.notes()]
        return sorted(lines, key=lambda line: _LEFT_OUT.search(line) is None)

    def verdict(self, splits: Sequence[Split] = ("train", "val", "test")) -> DataError | None:
        """Return what refuses these of the splits that were opened; None: they may be used."""
        faults = Faults()
        for split in splits:
            faults.extend(self.found.get(split, Faults()))
        try:
            faults.check(skip=self.cfg.data.on_bad == "skip", max_bad=self.cfg.data.max_bad)
        except DataError as error:
            return error
        return None

    def check(self) -> "OpenedData":
        """Return this, if the data may be used.

        Raises:
            DataError: the gravest fault, with its count and first records; `faults` holds all.
        """
        if (error := self.verdict()) is not None:
            raise error
        return self


def open_data(cfg: Config, splits: Sequence[Split]) -> OpenedData:
    """Return the splits, opened, with all that is found without looking at an image.

    Nothing about the data is raised (`OpenedData.check` does), so that no fault hides another.

    Args:
        splits: of test one that the configuration does not name may be absent.
    """
    data = OpenedData(cfg)
    tolerant = override(cfg, {"data.on_bad": "skip", "data.max_bad": 1.0})
    for split in splits:
        faults = data.found.setdefault(split, Faults())
        index = _opened(tolerant, split, faults)
        unnamed = split == "test" and cfg.data.test is None
        if index is None or (unnamed and any(_same(index, other) for other in data.splits.values())):
            continue
        index = data.splits[split] = _in_classes_of_train(data, split, index, faults)
        faults.extend(index.faults)
        if split == "train":
            data.left_out = _note_training(cfg, index, faults)
        else:
            _note_scoring(split, index, faults)
    return data


def _opened(cfg: Config, split: Split, faults: Faults) -> Index | None:
    try:
        with collecting():
            return open_split(cfg, split)
    except DataError as error:
        if split == "test" and cfg.data.test is None and error.rule in _NOT_THERE:
            if cfg.data.format == "yolo" and "got None" not in error.what:  # its YAML names one
                faults.add("DIR-W14", f"the test split is not looked at: {error.what}", file=error.file or "")
            return None
        if isinstance(error.faults, Faults):
            faults.extend(error.faults)
        else:
            faults.add_error(error)
    return None


def _same(index: Index, other: Index) -> bool:
    """Whether two splits are one: a set without validation images is often given its test images for them."""
    return (index.file, index.files.place) == (other.file, other.files.place) and np.array_equal(
        index.names.bytes, other.names.bytes
    )


def _in_classes_of_train(data: OpenedData, split: Split, index: Index, faults: Faults) -> Index:
    train = data.splits.get("train")
    if train is None or split == "train":
        return index
    try:
        skip = data.cfg.data.on_bad == "skip"
        return with_classes(index, train.class_names, train.category_ids, skip=skip)
    except DataError as error:
        faults.add_error(error)
        return index


def _note_training(cfg: Config, index: Index, faults: Faults) -> dict[str, int]:
    """Count what training leaves out, refuse what leaves nothing, and say which boxes no anchor meets.

    Returns:
        How many images are left out, by why.
    """
    if isinstance(index, ClassificationIndex):
        if index.num_classes == 1:
            what = f"there is one class, {index.class_names[0]!r}: a classifier has nothing to tell apart"
            faults.add("DIR-E13", what, file=index.file, hint="Add images of what it is not, in a folder of their own.")
        return {}
    left_out: dict[str, int] = {}
    for why, mask in index.not_trained(cfg).items():
        rule, rows = ("BOX-W02" if why == TOO_SMALL else "BOX-W01"), np.flatnonzero(mask)
        if len(rows):
            left_out[why] = len(rows)
            hint = None if why == TOO_SMALL else "data.skip_empty=false trains on them as background."
            what = f"images {why} are left out of training"
            shown = [Example(index.names[row]) for row in rows[:SHOWN].tolist()]
            faults.add(rule, what, file=index.file, kind="images", count=len(rows), examples=shown, hint=hint)
    if sum(left_out.values()) == len(index):
        try:
            index.train_rows(cfg)
        except DataError as error:
            faults.add_error(error)
    if (advice := unmatched(cfg, index)) is not None:
        faults.add("BOX-W03", advice, file=index.file)
    return left_out


def _note_scoring(split: Split, index: Index, faults: Faults) -> None:
    """Refuse a split on which AP cannot be computed."""
    if not isinstance(index, DetectionIndex) or not index.crowd.all():
        return
    which = {"val": "validation"}.get(split, split)
    boxes = "boxes but crowds" if len(index.boxes) else "boxes"
    what = f"the {which} split has no {boxes}, so AP cannot be computed"
    faults.add("COCO-E26", what, file=index.file, hint="Choose a split with boxes; `raydet predict` needs none.")
