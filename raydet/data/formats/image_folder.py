"""A folder of class folders (ImageFolder) as an index of packed arrays: root/cat/1.jpg is an image of class "cat"."""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from raydet.data.columns import Texts
from raydet.data.formats.index import ClassificationIndex
from raydet.data.images.decode import EXTENSIONS
from raydet.data.storage.files import Folder
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError


def load_folder(
    root: Path | str, *, on_bad: Literal["fail", "skip"] = "fail", max_bad: float = 0.01
) -> ClassificationIndex:
    """Return the index of a folder; its classes are the sub-folders sorted by name.

    Args:
        on_bad: fail: a class folder without images refuses the set. skip: it is no class.
        max_bad: with skip, the share of class folders without images above which the set is refused.

    Raises:
        DataError: no such folder, no class folders, or a class without images.
    """
    root, faults = Path(root), Faults()
    folders, loose = _class_folders(root)
    held: dict[str, list[str]] = {}
    others: list[str] = []
    for name in folders:
        held[name], rest = _files(root, name)
        others += rest
    empty = [name for name in folders if not held[name]]
    _count(faults, root, "DIR-E02", "class folders", "hold no image", empty)
    _count(faults, root, "DIR-W05", "files", "no images, left out", others)
    _count(faults, root, "DIR-W08", "images", "in no class folder, left out", loose)
    faults.looked_at("class folders", len(folders), len(empty), root)
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    class_names = [name for name in folders if held[name]]
    if not class_names:
        raise DataError("no class folder holds an image", file=root, rule="DIR-E03")
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), [len(held[name]) for name in class_names])
    names = Texts.pack([image for name in class_names for image in held[name]])
    warnings = [faults.said(fault) for fault in faults]
    return ClassificationIndex(str(root), Folder(root, trusted=True), names, labels, class_names, warnings, faults)


def _count(faults: Faults, root: Path, rule: str, kind: str, what: str, names: list[str]) -> None:
    if names:
        hint = f"Remove them, or add images ({' '.join(EXTENSIONS)})." if rule == "DIR-E02" else None
        shown = [Example(name) for name in names[:SHOWN]]
        faults.add(rule, what, file=root, kind=kind, count=len(names), examples=shown, hint=hint)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _class_folders(root: Path) -> tuple[list[str], list[str]]:
    """Names of the class folders, and of the images beside them."""
    try:
        with os.scandir(root) as entries:
            visible = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise DataError(error.strerror or str(error), file=root, rule="DIR-E01") from None
    names = [name for name, folder in visible if folder]
    if not names:
        hint = "Expected one folder of images per class, e.g. train/cat/1.jpg."
        raise DataError("holds no class folders", file=root, rule="DIR-E03", hint=hint)
    return names, [name for name, folder in visible if not folder and _is_image(name)]


def _files(root: Path, name: str) -> tuple[list[str], list[str]]:
    """Sorted paths of the images below a class folder, and of the other files there."""
    found: list[str] = []
    others: list[str] = []
    seen = set()
    for folder, folders, files in os.walk(root / name, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        below = os.path.relpath(folder, root)
        for file in files:
            (found if _is_image(file) else others).append(os.path.join(below, file))
    return sorted(found), sorted(others)
