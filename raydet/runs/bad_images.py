"""bad_images.txt: the images that a run with data.on_bad=skip has left out, and why."""

from collections.abc import Mapping
from pathlib import Path

from raydet.exceptions import one_line
from raydet.io.files import replace_file

_NAME = "bad_images.txt"
_OLD_NAME = "bad_pictures.txt"
"""Before 2026-12."""


def write_bad_images(folder: Path, bad: Mapping[str, Mapping[str, str]]) -> None:
    """Write the list to a run's folder, in place of one under its old name.

    Args:
        bad: split -> the image's file -> what is wrong with it, file and rule named.
    """
    lines = [f"{split}\t{one_line(why, 4096)}\n" for split, images in bad.items() for why in images.values()]
    before = read_bad_images(folder)
    replace_file(folder / _NAME, "".join(lines + [line for line in before if line not in lines]))
    (folder / _OLD_NAME).unlink(missing_ok=True)


def read_bad_images(folder: Path) -> list[str]:
    """Return the lines of the list, `split<tab>what is wrong`; [] where there is none. The old name is read too."""
    for name in (_NAME, _OLD_NAME):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8").splitlines(keepends=True)
    return []
