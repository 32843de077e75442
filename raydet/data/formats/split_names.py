"""The names by which folders and files say which split they are."""

import re
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "dev", "eval", "valset", "validset", "devset"),
    "test": ("test", "testing", "testset"),
}
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def split_of(name: str) -> Split | None:
    """Return the split that a name of one file or folder says it is, e.g. instances_val2017.json or valid; else None.

    A name with words of two splits (trainval) is none of them.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    found = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def split_of_path(path: str) -> Split | None:
    """Return the split that the last part of a path that names one says it is."""
    parts = path.split("/")
    return next((split for part in reversed(parts) if (split := split_of(part)) is not None), None)


def by_split(paths: Iterable[str]) -> dict[Split | None, list[str]]:
    """Return the paths by the split that their own or their folders' names say; under None those that say none."""
    found: dict[Split | None, list[str]] = {}
    for path in paths:
        found.setdefault(split_of_path(path), []).append(path)
    return found
