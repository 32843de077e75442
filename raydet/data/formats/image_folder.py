"""A folder of class folders (ImageFolder) as an index of packed arrays: root/cat/1.jpg is an image of class "cat"."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from raydet.data.columns import Texts
from raydet.data.formats.index import ClassificationIndex
from raydet.data.images.decode import EXTENSIONS
from raydet.data.storage.files import Folder, visible
from raydet.data.storage.object_store import Remote
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

_EXPECTED = "Expected one folder of images per class, e.g. train/cat/1.jpg."


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
    root = Path(root)
    folders, loose = _class_folders(root)
    images: dict[str, list[str]] = {}
    others: list[str] = []
    for name in folders:
        images[name], rest = _files(root, name)
        others += rest
    return _index(Folder(root, trusted=True), images, others, loose, on_bad=on_bad, max_bad=max_bad)


def load_remote_folder(
    root: Remote, name: str, *, on_bad: Literal["fail", "skip"] = "fail", max_bad: float = 0.01
) -> ClassificationIndex:
    """Return the index of the class folders in `name` below an address, from one listing; else as `load_folder`."""
    tree = root if name in ("", ".") else root.child(name)
    paths = sorted(path for path in tree.walk("") if all(map(visible, path.split("/"))))
    images: dict[str, list[str]] = {path.partition("/")[0]: [] for path in paths if "/" in path}
    others: list[str] = []
    loose: list[str] = []
    for path in paths:
        folder, slash, _ = path.partition("/")
        if slash:
            (images[folder] if _is_image(path) else others).append(path)
        elif _is_image(path):
            loose.append(path)
    if not images:
        hint = f"{_EXPECTED} {root.place} holds {root.listing()}."
        raise DataError("holds no class folders", file=tree.place, rule="DIR-E03", hint=hint)
    return _index(tree, dict(sorted(images.items())), others, loose, on_bad=on_bad, max_bad=max_bad)


def _index(
    tree: Folder | Remote,
    images: Mapping[str, list[str]],
    others: list[str],
    loose: list[str],
    *,
    on_bad: Literal["fail", "skip"],
    max_bad: float,
) -> ClassificationIndex:
    """Return the index of class folders -> images, with what is wrong with them and the files that are left out."""
    place, faults = tree.place, Faults()
    empty = [name for name, inside in images.items() if not inside]
    for rule, kind, what, names in (
        ("DIR-E02", "class folders", "hold no image", empty),
        ("DIR-W05", "files", "no images, left out", others),
        ("DIR-W08", "images", "in no class folder, left out", loose),
    ):
        if names:
            hint = f"Remove them, or add images ({' '.join(EXTENSIONS)})." if rule == "DIR-E02" else None
            shown = [Example(name) for name in names[:SHOWN]]
            faults.add(rule, what, file=place, kind=kind, count=len(names), examples=shown, hint=hint)
    faults.looked_at("class folders", len(images), len(empty), place)
    class_names = [name for name, inside in images.items() if inside]
    if not class_names:
        faults.add("DIR-E03", "no class folder holds an image", file=place)
        raise faults.error()
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), [len(images[name]) for name in class_names])
    paths = Texts.pack([path for name in class_names for path in images[name]])
    warnings = [faults.said(fault) for fault in faults]
    return ClassificationIndex(place, tree, paths, labels, class_names, warnings, faults)


def _is_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS) and not path.rpartition("/")[2].startswith(".")


def _class_folders(root: Path) -> tuple[list[str], list[str]]:
    """Names of the class folders, and of the images beside them."""
    try:
        with os.scandir(root) as entries:
            held = sorted((e.name, e.is_dir()) for e in entries if visible(e.name))
    except OSError as error:
        raise DataError(error.strerror or str(error), file=root, rule="DIR-E01") from None
    names = [name for name, folder in held if folder]
    if not names:
        raise DataError("holds no class folders", file=root, rule="DIR-E03", hint=_EXPECTED)
    return names, [name for name, folder in held if not folder and _is_image(name)]


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
        folders[:] = filter(visible, folders)
        below = os.path.relpath(folder, root)
        for file in files:
            (found if _is_image(file) else others).append(os.path.join(below, file))
    return sorted(found), sorted(others)
