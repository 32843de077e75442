"""A folder of class folders (ImageFolder) as an index of packed arrays: root/cat/1.jpg is a picture of class "cat"."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raydet.data.coco import CocoIndex
from raydet.data.columns import Ints, Texts
from raydet.data.errors import DataError
from raydet.data.files import Files, Folder, Source

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of file names that are taken for pictures, in any case of letters."""


@dataclass(frozen=True, slots=True)
class FolderIndex:
    """The pictures of one split, in order of class and path."""

    file: str
    """The folder."""
    files: Files
    names: Texts
    """Path of each picture below the folder."""
    labels: npt.NDArray[np.int32]
    class_names: list[str]
    warnings: list[str]

    @classmethod
    def load(cls, root: Path | str) -> "FolderIndex":
        """Return the index of a folder; its classes are the sub-folders sorted by name.

        Raises:
            DataError: no such folder, no class folders, or a class without pictures.
        """
        root = Path(root)
        class_names = _class_folders(root)
        names: list[str] = []
        counts, others = [], 0
        for name in class_names:
            pictures, rest = _files(root, name)
            names += pictures
            counts.append(len(pictures))
            others += rest
        empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
        if empty:
            what = f"{len(empty)} of {len(class_names)} class folders hold no picture: {', '.join(empty[:5])}"
            hint = f"Remove them, or add pictures ({' '.join(EXTENSIONS)})."
            raise DataError(what, file=root, rule="DIR-E02", hint=hint)
        warnings = [f"{others} files that are no pictures are left out (DIR-W05)"] if others else []
        labels = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)
        return cls(str(root), Folder(root, trusted=True), Texts.pack(names), labels, class_names, warnings)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """Classes."""
        return len(self.class_names)

    @property
    def category_ids(self) -> Ints:
        """Class -> the data set's id, which is the class itself."""
        return np.arange(self.num_classes, dtype=np.int64)

    def picture(self, i: int) -> Source:
        """Return picture i; links to pictures elsewhere are followed, being the owner's own."""
        return self.files.picture(self.names[i])


def check_same_classes(train: CocoIndex | FolderIndex, val: CocoIndex | FolderIndex) -> None:
    """Raise a DataError that names the classes in which the two splits differ, unless they are the same."""
    ours = list(zip(train.category_ids.tolist(), train.class_names, strict=True))
    theirs = list(zip(val.category_ids.tolist(), val.class_names, strict=True))
    if ours == theirs:
        return
    by_name = isinstance(val, FolderIndex)
    missing, extra = ([_shown(c, by_name) for c in a if c not in b] for a, b in ((ours, theirs), (theirs, ours)))
    parts = [f"{word}: {', '.join(which[:5])}" for word, which in (("lacks", missing), ("adds", extra)) if which]
    what = f"has {len(theirs)} classes, the training split {len(ours)}; " + ("; ".join(parts) or "in another order")
    raise DataError(what, file=val.file, rule="DIR-E04", hint="All splits must have the same classes.")


def _shown(category: tuple[int, str], by_name: bool) -> str:
    return category[1] if by_name else f"{category[0]} {category[1]!r}"


def _class_folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(error.strerror or str(error), file=root, rule="DIR-E01") from None
    if not names:
        hint = "Expected one folder of pictures per class, e.g. train/cat/1.jpg."
        raise DataError("holds no class folders", file=root, rule="DIR-E03", hint=hint)
    return names


def _files(root: Path, name: str) -> tuple[list[str], int]:
    """Sorted paths of the pictures below a class folder, and how many other files there are."""
    found, others, seen = [], 0, set()
    for folder, folders, files in os.walk(root / name, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        below = os.path.relpath(folder, root)
        pictures = [f for f in files if f.lower().endswith(EXTENSIONS) and not f.startswith(".")]
        others += len(files) - len(pictures)
        found += [os.path.join(below, f) for f in pictures]
    return sorted(found), others
