"""Images that a user wants left out: those of the quarantine list, and training images that another split has too."""

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from raydet.config import Config, override
from raydet.data.formats.class_mapping import with_faults
from raydet.data.formats.index import Index
from raydet.data.formats.open_split import open_split as open_whole
from raydet.data.formats.split_names import Split
from raydet.data.holdout import divided
from raydet.data.image_checks import Looked, look
from raydet.data.loading.parallel import here
from raydet.data.storage.cache import content_key, load_columns, save_columns
from raydet.data.validation.duplicates import near, same
from raydet.data.validation.faults import SHOWN, Example, Faults, collecting
from raydet.exceptions import DataError, one_line

_PART = 64
"""Images of one piece of work: some 0.1 s."""
_MANY = 2000
"""Images whose look takes so long that it is said."""
_MINIATURE = 256
"""Bytes of one."""


def open_split(cfg: Config, split: Split) -> Index:
    """Return the index of a split, without the images of data.quarantine and, with data.on_leak=drop, of training
    those that another split has too; its faults say how many these are. With data.val_fraction train and val are parts
    of the training split.

    Raises:
        DataError: as `raydet.data.formats.open_split.open_split`; the quarantine list cannot be read.
    """
    if cfg.data.val_fraction is not None and split != "test":
        return _held_back(cfg, split)
    listed = read_quarantine(cfg.data.quarantine).get(split, frozenset()) if cfg.data.quarantine else frozenset()
    index = open_whole(cfg, split, listed)
    faults = Faults()
    if listed:
        index = _without_listed(index, split, listed, faults)
    if split == "train" and cfg.data.on_leak == "drop":
        index = _without_leaks(cfg, index, faults)
    return with_faults(index, faults) if len(faults) else index


def _held_back(cfg: Config, split: Split) -> Index:
    """The part of the training split that is trained on, or the one that is held back for validation."""
    plain = override(cfg, {"data.val_fraction": None, "data.on_leak": "warn"})
    index = open_split(plain, "train")
    seen = prints(override(plain, {"data.on_bad": "skip", "data.max_bad": 1.0}), index)
    groups = [[one.row for _, one in group.members] for group in duplicate_groups({"train": seen})]
    train, val = divided(cfg, index, seen, groups)
    return index.select(train if split == "train" else val)


def quarantine_name(name: str) -> str:
    """Return how the quarantine list spells an image's name: on one line."""
    return one_line(name, 4096)


def read_quarantine(path: str) -> dict[str, frozenset[str]]:
    """Return the names of a quarantine list by split.

    Raises:
        DataError: it cannot be read.
    """
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the quarantine list cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        raise DataError(what, file=path, rule="DIR-E01", hint="Is data.quarantine right?") from None
    names: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for line in filter(str.strip, lines):
        split, tab, rest = line.partition("\t")
        of = [names[split]] if tab and split in names else names.values()
        for held in of:
            held.add(rest.partition("\t")[0] if tab and split in names else line.strip())
    return {split: frozenset(held) for split, held in names.items()}


def _without_listed(index: Index, split: Split, listed: Collection[str], faults: Faults) -> Index:
    rows = {quarantine_name(name): row for row, name in enumerate(index.names.tolist())}
    # Those that a format opens for their size have never entered its index.
    unknown = [name for name in sorted(listed) if name not in rows and not _is_image(index, name)]
    gone = [name for name in sorted(listed) if name not in unknown]
    for rule, what, names in (
        ("DIR-W11", "images of the quarantine list are left out (data.quarantine)", gone),
        ("DIR-W12", f"the quarantine list names what is no image of {split}", unknown),
    ):
        if names:
            shown = [Example(name) for name in names[:SHOWN]]
            faults.add(rule, what, file=index.file, kind="images", count=len(names), examples=shown)
    kept = np.array([row for name, row in rows.items() if name not in listed], np.int64)
    return index if len(kept) == len(index) else index.select(kept)


def _is_image(index: Index, name: str) -> bool:
    try:
        return index.files.exists(name)
    except DataError:
        return False


def _without_leaks(cfg: Config, index: Index, faults: Faults) -> Index:
    started = time.perf_counter()
    plain = override(cfg, {"data.on_leak": "warn", "data.on_bad": "skip", "data.max_bad": 1.0})
    seen = {"train": prints(plain, index)}
    for other in ("val", "test"):
        try:
            with collecting():
                seen[other] = prints(plain, open_split(plain, other))  # type: ignore[arg-type]
        except DataError:
            if other == "val":
                raise
    lost = {
        one.row for group in duplicate_groups(seen) if group.across for split, one in group.members if split == "train"
    }
    if not lost:
        return index
    count, spent = sum(map(len, seen.values())), time.perf_counter() - started
    cost = f"data.on_leak=drop: {count} images compared in {spent:.0f} s"
    faults.add(
        "IMG-W20",
        f"training images that another split has too, or nearly, are left out ({cost})",
        file=index.file,
        kind="images",
        count=len(lost),
        examples=[Example(index.names[row]) for row in sorted(lost)[:SHOWN]],
    )
    return index.select(np.array([i for i in range(len(index)) if i not in lost], np.int64))


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that are one, or nearly."""

    kind: Literal["exact", "near"]
    members: tuple[tuple[str, Looked], ...]
    """Split and image."""

    @property
    def across(self) -> bool:
        """Whether the images lie in more than one split."""
        return len({split for split, _ in self.members}) > 1


def duplicate_groups(seen: Mapping[str, Sequence[Looked]]) -> list[DuplicateGroup]:
    """Return the groups of equal files, then of nearly equal images, over all splits."""
    where = [(split, one) for split, ones in seen.items() for one in ones]
    exact = same([one.sha1 for _, one in where])
    again = {i for group in exact for i in group[1:]}  # of equal files the first stands for all
    prints = [None if i in again else one.dhash for i, (_, one) in enumerate(where)]
    alike = near(prints, [one.miniature for _, one in where])
    found = [DuplicateGroup("exact", tuple(where[i] for i in group)) for group in exact]
    # The files equal to a member are in its group too, or a leak of the copy would be missed.
    copies = {group[0]: group[1:] for group in exact}
    wider = [sorted({j for i in group for j in (i, *copies.get(i, []))}) for group in alike]
    return found + [DuplicateGroup("near", tuple(where[i] for i in group)) for group in wider]


def prints(cfg: Config, index: Index) -> list[Looked]:
    """Return what each image of a split is recognized by; from the cache if none of them has changed."""
    key = _key(cfg, index)
    columns = None if key is None else load_columns(key)
    if columns is not None:
        names, tiny = index.names.tolist(), columns["miniature"]
        return [
            Looked(
                row,
                name,
                sha1=columns["sha1"][row].tobytes() if columns["read"][row] else b"",
                dhash=int(columns["dhash"][row]) if columns["decoded"][row] else None,
                miniature=tiny[row].tobytes() if columns["decoded"][row] else b"",
            )
            for row, name in enumerate(names)
        ]
    if len(index) >= _MANY:
        what = f"{len(index)} images of {index.file} are looked at once for data.on_leak=drop"
        print(f"{what}, at some 300 a second and core", file=sys.stderr, flush=True)
    parts = [part.tolist() for part in np.array_split(np.arange(len(index)), -(-len(index) // _PART))]
    processes = 0 if len(index) <= 2 * _PART else len(os.sched_getaffinity(0))
    found = [one for answer in here(Look(cfg, index), parts, processes, index.files.forkable) for one in answer]
    save_prints(cfg, index, found)
    return found


class Look:
    """Look at some rows of an index; goes to other processes."""

    def __init__(self, cfg: Config, index: Index) -> None:
        self._cfg, self._index = cfg, index

    def __call__(self, rows: list[int]) -> list[Looked]:
        return [look(self._cfg, self._index, row) for row in rows]


def save_prints(cfg: Config, index: Index, seen: Sequence[Looked]) -> None:
    """Keep what all images of a split, in order, are recognized by."""
    key = _key(cfg, index)
    if key is None or len(seen) != len(index):
        return
    blank = bytes(_MINIATURE)
    save_columns(
        key,
        {
            "read": np.array([bool(one.sha1) for one in seen]),
            "decoded": np.array([one.dhash is not None for one in seen]),
            "sha1": np.frombuffer(b"".join(one.sha1 or bytes(20) for one in seen), np.uint8).reshape(-1, 20),
            "dhash": np.array([one.dhash or 0 for one in seen], np.uint64),
            "miniature": np.frombuffer(b"".join(one.miniature or blank for one in seen), np.uint8).reshape(
                -1, _MINIATURE
            ),
        },
    )


def _key(cfg: Config, index: Index) -> str | None:
    """A name that changes with any of the images; None where that would be as dear as a look."""
    stamps: list[object] = []
    for name in index.names.tolist():
        try:
            image = None if index.files.at_once > 1 else index.files.image(name)
            if not isinstance(image, Path):
                return None
            stat = image.stat()
            stamps.append((name, stat.st_size, stat.st_mtime_ns))
        except (OSError, DataError) as error:
            stamps.append((name, type(error).__name__))
    return content_key("prints", index.files.place, cfg.data.exif, cfg.data.max_pixels, stamps)
