"""Where a picture of a data set lies; nothing outside the data set's folder is ever opened by a name from a file."""

import os
from pathlib import Path

from raydet.data.errors import DataError


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
