"""YOLO data sets that have no data.yaml: CVAT's YOLO 1.1 (obj.names), Label Studio's and LabelImg's (classes.txt)."""

import re

from raydet.data.formats.split_names import split_of
from raydet.data.formats.yolo.safe_yaml import MOST_BYTES
from raydet.data.storage.files import Tree
from raydet.exceptions import DataError

NAMES = ("obj.names", "classes.txt", "labels/classes.txt")
"""Files that hold a class a line, in the order in which they are looked for."""


def find_names(tree: Tree) -> str | None:
    """Return the file of class names of a set without data.yaml; None if there is none."""
    top = tree.top()
    known = [name for name in NAMES if name in top]
    if not known and "labels/" in top and NAMES[-1] in tree.walk("labels"):
        known = [NAMES[-1]]
    return known[0] if known else None


def read_names(tree: Tree, name: str) -> tuple[list[str], dict[str, str], bytes]:
    """Return the class names, the place of each split's images as data.yaml would have it, and the file's bytes.

    A set whose folders name no split is both train and val.

    Raises:
        DataError: the file is no text, or names no class.
    """
    data = tree.read(name, MOST_BYTES)
    try:
        names = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text at byte {error.start}"
        raise DataError(what, file=f"{tree.place}/{name}", rule="YOLO-E03") from None
    if not names:
        raise DataError("names no class", file=f"{tree.place}/{name}", rule="YOLO-E03")
    return names, _places(tree), data


def _places(tree: Tree) -> dict[str, str]:
    top = tree.top()
    folders = [entry[:-1] for entry in top if entry.endswith("/")]
    exported = {f: match[1] for f in folders if (match := re.fullmatch(r"obj_(.+)_data", f))}
    split: dict[str | None, str] = {split_of(subset): folder for folder, subset in exported.items()}
    if exported and not (split.keys() - {None}):
        split = {"train": next(iter(exported))}
    if not exported and "obj.data" in top:
        split = _lists(tree)
    if not split and "images" in folders:
        below = sorted({name.split("/")[1] for name in tree.walk("images") if name.count("/") > 1})
        split = {split_of(folder): f"images/{folder}" for folder in below}
    split = split or {split_of(folder): folder for folder in folders}
    places = {key: place for key, place in split.items() if key is not None}
    if not places:
        places = {"train": "images" if "images" in folders else "."}
    if "train" in places and "val" not in places and "test" not in places:
        places = {**places, "val": places["train"]}
    return places


def _lists(tree: Tree) -> dict[str | None, str]:
    """The lists of images that darknet's obj.data names."""
    text = tree.read("obj.data", MOST_BYTES).decode("utf-8-sig", "replace")
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    found: dict[str | None, str] = {}
    for key, value in values.items():
        place = value.strip()
        place = place if "/" not in place or tree.is_folder(place.partition("/")[0]) else place.partition("/")[2]
        if place.endswith(".txt") and split_of(key) is not None:
            found[split_of(key)] = place
    return found
