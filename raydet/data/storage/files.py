"""Where the images of a data set lie. Nothing outside its place is ever opened by a name from an annotation file."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from raydet.exceptions import DataError


@dataclass(frozen=True, slots=True)
class Blob:
    """An image that is no file of this machine: its bytes, and a name to speak of it by."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Source = Path | Blob
"""What `raydet.data.images.decode` opens."""


class Files(Protocol):
    """The images of a split, by the names that its index holds."""

    @property
    def place(self) -> str:
        """Where they are, for messages."""
        ...

    @property
    def forkable(self) -> bool:
        """Whether a process that has used this may be forked. False: its loader processes must be started afresh."""
        ...

    @property
    def at_once(self) -> int:
        """How many images to ask for together: more than 1 where each has to come through a network."""
        ...

    def image(self, name: str) -> Source:
        """Return the image of that name, unopened if it is a local file.

        Raises:
            DataError: the name leads out of the place, or the bytes cannot be fetched.
        """
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is an image of that name."""
        ...

    def listing(self, most: int) -> str:
        """Return the names of some of what is there, for messages."""
        ...


class Tree(Files, Protocol):
    """A data set's root: its images, and what is written about them."""

    def header(self, name: str) -> Source:
        """Return the image, or a beginning of it that nearly always holds its header."""
        ...

    def read(self, name: str, most: int) -> bytes:
        """Return the bytes of a file of at most `most`.

        Raises:
            DataError: it cannot be read, leads out of the place, or is larger.
        """
        ...

    def is_folder(self, name: str) -> bool:
        """Return whether there is a folder of that name."""
        ...

    def top(self) -> list[str]:
        """Return the names of the files and, with a / behind, the folders of the root."""
        ...

    def fetch(self, name: str) -> Path:
        """Return a file as one of this machine: itself, or a copy.

        Raises:
            DataError: it cannot be read, or leads out of the place.
        """
        ...

    def walk(self, below: str) -> dict[str, str]:
        """Return every file below a folder by its name in the tree, with a stamp that changes as the file does.

        A link that leads out is named but not followed, with a / behind if it leads to a folder. A folder that is not
        there holds nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """Images in a folder of this machine, or of a file system it sees."""

    root: Path
    trusted: bool = False
    """The names were found by walking the folder, so links in it are its owner's own and may lead anywhere."""

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    @property
    def forkable(self) -> bool:
        """Nothing is held open."""
        return True

    @property
    def at_once(self) -> int:
        """A folder's images are read one by one."""
        return 1

    def image(self, name: str) -> Path:
        """Return the image's path, links followed.

        Raises:
            DataError: it leads out of the folder.
        """
        if self.trusted:
            return self.root / name
        folder, _, last = name.rpartition("/")
        if last in ("", ".", "..") or "\0" in name:
            return inside(self.root, name)
        path = os.path.join(_real_folder(str(self.root), folder), last)
        return inside(self.root, name) if os.path.islink(path) else Path(path)

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return os.path.isfile(self.image(name))  # False, too, for a name that no file can have

    def listing(self, most: int = 10) -> str:
        """Return some of the folder's entries."""
        try:
            return some(self.top(), most)
        except OSError as error:
            return f"nothing that can be listed ({error.strerror})"

    def is_folder(self, name: str) -> bool:
        """Return whether there is a folder of that name."""
        return name in ("", ".") or os.path.isdir(inside(self.root, name))

    def top(self) -> list[str]:
        """Return the folder's visible entries."""
        return sorted(p.name + "/" * p.is_dir() for p in self.root.iterdir() if visible(p.name))

    def parent(self) -> "Folder":
        """Return the folder that this one, or this file, lies in."""
        return Folder(self.root.parent)

    def header(self, name: str) -> Path:
        """Return the image's path: no more of it is read than is asked for."""
        return self.image(name)

    def read(self, name: str, most: int) -> bytes:
        """Return a file's bytes.

        Raises:
            DataError: it cannot be read, leads out of the folder, or is larger than `most`.
        """
        path = inside(self.root, name)
        try:
            if not path.is_file():
                raise DataError("no such file", file=path, rule="DIR-E01")
            with path.open("rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            raise DataError(error.strerror or str(error), file=path, rule="DIR-E01") from None
        if len(data) > most:
            raise DataError(f"is larger than {most} bytes", file=path, rule="DIR-E01")
        return data

    def fetch(self, name: str) -> Path:
        """Return the file's path.

        Raises:
            DataError: it leads out of the folder.
        """
        return inside(self.root, name)

    def walk(self, below: str) -> dict[str, str]:
        """Return every visible file below a folder, with its size and time of change."""
        root, found = os.path.realpath(self.root), {}
        for name, entry in _entries(root, os.path.normpath(below), {os.path.realpath(os.path.join(root, below))}):
            try:
                stat = None if entry is None else entry.stat()
            except OSError:  # a link to nothing
                continue
            found[name] = "a link that leads out" if stat is None else f"{stat.st_size}-{stat.st_mtime_ns}"
        return dict(sorted(found.items()))


def visible(name: str) -> bool:
    """Return whether a file or folder may be data: not hidden (.ipynb_checkpoints), nor what macOS adds to archives."""
    return not name.startswith(".") and name != "__MACOSX"


def some(entries: list[str], most: int) -> str:
    """Return the first of some names, for messages."""
    return ", ".join(entries[:most]) + (f" and {len(entries) - most} more" if len(entries) > most else "") or "nothing"


def _entries(root: str, below: str, seen: set[str]) -> "Iterator[tuple[str, os.DirEntry[str] | None]]":
    """Files below a folder, None for a link that leads out of the root; a circle of links ends."""
    if not _within(os.path.realpath(os.path.join(root, below)), root):
        return
    try:
        entries = list(os.scandir(os.path.join(root, below)))
    except OSError:
        return
    for entry in entries:
        name = os.path.normpath(os.path.join(below, entry.name))
        if not visible(entry.name):
            continue
        if entry.is_symlink() and not _within(os.path.realpath(entry.path), root):
            yield name + "/" * entry.is_dir(), None
        elif not entry.is_dir():
            yield name, entry
        elif (real := os.path.realpath(entry.path)) not in seen:
            seen.add(real)
            yield from _entries(root, name, seen)


def _within(real: str, root: str) -> bool:
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def refusal(name: str) -> str | None:
    """Return why a name from a data set's own files is no plain path below its root; None if it is one."""
    if not name or any(ord(c) < 32 or ord(c) == 127 for c in name) or not encodable(name):
        return f"not a file's name: {name!r}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(//|\\\\)", name) or name.lower().startswith(("http:", "file:", "data:")):
        return f"a URL: {name}"
    windows = PureWindowsPath(name)
    if name.startswith(("/", "~")) or windows.drive or windows.root:
        return f"absolute: {name}"
    if ".." in windows.parts or ".." in PurePosixPath(name).parts:  # the Windows reading splits at both separators
        return f"a way out of its folder: {name}"
    return None


def encodable(name: str) -> bool:
    """Return whether the text is fit for UTF-8, undecodable bytes of file names included."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=1024)
def _real_folder(root: str, below: str) -> str:
    """`inside` for a folder of images, once: each call asks the system about every part of the path."""
    return str(inside(Path(root), below)) if below else os.path.realpath(root)


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` below `folder`, links followed.

    Raises:
        DataError: the path leaves the folder, by its spelling or by a symbolic link.
    """
    if "\0" in name:
        raise DataError(f"not a file's name: {name!r}", file=folder, rule="COCO-E24")
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, name))
    if real == root or not _within(real, root):
        hint = "Link the folder as a whole, or set data.train_images / val_images to where the images are."
        what = f"{name} leads out of the image folder, to {real}"
        raise DataError(what, file=folder, rule="COCO-E24", hint=hint)
    return Path(real)
