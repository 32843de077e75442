"""Where the pictures of a data set lie. Nothing outside its place is ever opened by a name from an annotation file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raydet.data.errors import DataError


@dataclass(frozen=True, slots=True)
class Blob:
    """A picture that is no file of this machine: its bytes, and a name to speak of it by."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Source = Path | Blob
"""What `raydet.data.decode` opens."""


class Files(Protocol):
    """The pictures of a split, by the names that its index holds."""

    @property
    def place(self) -> str:
        """Where they are, for messages."""
        ...

    def picture(self, name: str) -> Source:
        """Return the picture of that name, unopened if it is a local file.

        Raises:
            DataError: the name leads out of the place, or the bytes cannot be fetched.
        """
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is a picture of that name."""
        ...

    def listing(self, most: int) -> str:
        """Return the names of some of what is there, for messages."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """Pictures in a folder of this machine, or of a file system it sees."""

    root: Path
    trusted: bool = False
    """The names were found by walking the folder, so links in it are its owner's own and may lead anywhere."""

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def picture(self, name: str) -> Path:
        """Return the picture's path, links followed.

        Raises:
            DataError: it leads out of the folder.
        """
        return self.root / name if self.trusted else inside(self.root, name)

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return self.picture(name).is_file()

    def listing(self, most: int = 10) -> str:
        """Return some of the folder's entries."""
        try:
            entries = sorted(p.name + "/" * p.is_dir() for p in self.root.iterdir() if not p.name.startswith("."))
        except OSError as error:
            return f"nothing that can be listed ({error.strerror})"
        return ", ".join(entries[:most]) + (f" and {len(entries) - most} more" if len(entries) > most else "") or "nothing"


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` below `folder`, links followed.

    Raises:
        DataError: the path leaves the folder, by its spelling or by a symbolic link.
    """
    if "\0" in name:
        raise DataError(f"not a file's name: {name!r}", file=folder, rule="COCO-E24")
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, name))
    if not real.startswith(root.rstrip(os.sep) + os.sep):
        hint = "Link the folder as a whole, or set data.train_images / val_images to where the pictures are."
        what = f"{name} leads out of the image folder, to {real}"
        raise DataError(what, file=folder, rule="COCO-E24", hint=hint)
    return Path(real)
