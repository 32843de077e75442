"""YOLO data sets as an index: data.yaml, images below images/, a label file for each below labels/. Read only.

Format: docs.ultralytics.com/datasets/detect. Given up: key points (boxes only), `download`, and names that lead out of
data.root; also a data.yaml's `path` is followed within data.root only.
"""

import hashlib
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.yolo.labels import read_columns
from raydet.data.formats.yolo.safe_yaml import MOST_BYTES, Plain, parse_yaml
from raydet.data.images.decode import EXTENSIONS, Exif
from raydet.data.storage.cache import content_key, load_columns, save_columns
from raydet.data.storage.files import Tree, refusal
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

YAML = ("data.yaml", "data.yml", "dataset.yaml")
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_MOST_LIST = 256 << 20


@dataclass(frozen=True, slots=True)
class _Set:
    """What data.yaml says."""

    file: str
    values: dict[str, Plain]
    base: str
    """Folder that names are relative to, within the root."""
    names: list[str]
    digest: str


def load_yolo(
    tree: Tree,
    yaml_name: str | None,
    split: Literal["train", "val", "test"],
    chosen: str | None = None,
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    max_bad: float = 0.01,
    exif: Exif = "auto",
) -> DetectionIndex:
    """Return the index of a split; from the cache when none of its files has changed.

    Args:
        yaml_name: the yaml in the tree. None: data.yaml, or the only one there is.
        chosen: a key of the yaml, or a folder or .txt list within the root. None: the yaml's key for the split.
        on_bad: fail raises on the first faulty row or image; skip leaves them out, up to the share `max_bad`.
        exif: data.exif; rows are shares of the image as it turns it.

    Raises:
        DataError: the yaml or the split is not there or malformed; names the rule.
    """
    faults = Faults()
    dataset = _read(tree, yaml_name or _find(tree), faults)
    images, whole = _images(tree, dataset, split, chosen, faults)
    label_of = {name: _label(name) for name in images}
    stamps = _stamps(tree, label_of.values())
    files = [(p, s, stamps.get(label_of[p])) for p, s in images.items()]
    turned = ["turned"] * bool(exif)
    key = content_key("yolo", dataset.file, dataset.digest, files, sorted(stamps) if whole else [], *turned)
    columns = load_columns(key)
    if columns is None:
        found = Faults()
        columns = read_columns(tree, label_of, stamps, whole, len(dataset.names), found, exif)
        columns["faults"] = found.packed()
        save_columns(key, columns)
    faults.extend(Faults.unpacked(columns["faults"]))
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    if not len(columns["boxes"]) and split != "test":
        what = f"none of {len(images)} images has a box; looked for labels such as {next(iter(label_of.values()))}"
        hint = "Labels lie in labels/ where the images lie in images/, else beside them."
        raise DataError(what, file=dataset.file, rule="YOLO-E19", hint=hint)
    ids = np.arange(len(dataset.names))
    return replace(DetectionIndex.of_columns(dataset.file, tree, columns, ids, dataset.names, faults), measured=True)


def _find(tree: Tree) -> str:
    top = tree.top()
    known = [name for name in YAML if name in top]
    other = [name for name in top if name.lower().endswith((".yaml", ".yml"))]
    if not known and len(other) != 1:
        what = f"looked for {', '.join(YAML)} and found {', '.join(other) or 'no .yaml file'}"
        hint = f"There is {tree.listing(10)}. Give the file itself as data.root."
        raise DataError(what, file=tree.place, rule="YOLO-E02", hint=hint)
    return (known or other)[0]


def _read(tree: Tree, name: str, faults: Faults) -> _Set:
    file = posixpath.join(tree.place, name)
    data = tree.read(name, 8 * MOST_BYTES)  # the parser says what is allowed
    values = parse_yaml(data, file)
    if not isinstance(values, dict):
        raise DataError(f"expected train, val and names, got {type(values).__name__}", file=file, rule="YOLO-E03")
    names = _class_names(values, file)
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        what = f"classes with the same name stay apart: {', '.join(map(repr, twice[:5]))}"
        faults.add("YOLO-W05", what, file=file)
    return _Set(file, values, _base(tree, file, values.get("path"), faults), names, hashlib.sha256(data).hexdigest())


def _class_names(values: dict[str, Plain], file: str) -> list[str]:
    given, count = values.get("names"), values.get("nc")
    if given is None and type(count) is int and 0 < count <= 100_000:
        return [str(i) for i in range(count)]
    if isinstance(given, dict) and sorted(given) == sorted(map(str, range(len(given)))):
        given = [given[str(i)] for i in range(len(given))]
    if not isinstance(given, list) or not given:
        what = f"names must be a list, or a mapping from 0, 1, ... without gaps, got {str(given)[:80]}"
        raise DataError(what, file=file, rule="YOLO-E03", hint="E.g. names: [cat, dog].")
    for i, name in enumerate(given):
        if type(name) not in (str, int, float) or name == "":
            hint = "Put quotes around yes, no, on, off, true and null."
            raise DataError(f"name {i} must be text, got {name!r}", file=file, rule="YOLO-E03", hint=hint)
    if count is not None and count != len(given):
        raise DataError(f"nc is {count}, but there are {len(given)} names", file=file, rule="YOLO-E04")
    return [str(name) for name in given]


def _base(tree: Tree, file: str, path: Plain, faults: Faults) -> str:
    """The folder that `path` names, if it is within the root; the root otherwise."""
    if path in (None, "", "."):
        return ""
    name = _relative(tree, path) if isinstance(path, str) else None
    if name is not None and (name == "" or (refusal(name) is None and tree.is_folder(name))):
        return name
    faults.add("YOLO-W08", f"path: {path} is no folder within data.root: data.root is taken", file=file)
    return ""


def _relative(tree: Tree, name: str) -> str:
    """A name without the root before it, and without ./ at its beginning."""
    root = tree.place.rstrip("/")
    if name.rstrip("/") == root:
        return ""
    name = name.removeprefix(root + "/").rstrip("/") or name
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name


def _resolved(tree: Tree, base: str, name: str, file: str) -> str:
    """The place of a name within the root.

    Raises:
        DataError: it leads out.
    """
    relative = _relative(tree, name)
    why = None if relative == "" else refusal(relative)
    if why is not None:
        hint = "Names are relative to the data set's folder and stay within it."
        raise DataError(why, file=file, rule="YOLO-E07", hint=hint)
    if relative != name and name.startswith("/"):
        base = ""
    return posixpath.normpath(posixpath.join(base, relative))


def _images(
    tree: Tree, dataset: _Set, split: Literal["train", "val", "test"], chosen: str | None, faults: Faults
) -> tuple[dict[str, str], bool]:
    """Every image of the split with its stamp, and whether they are all that their folders hold."""
    keys = _KEYS[split] if chosen is None else (chosen,)
    value = next((dataset.values[key] for key in keys if dataset.values.get(key) is not None), chosen)
    places = value if isinstance(value, list) else [value]
    found: dict[str, str] = {}
    listed: list[str] = []
    for place in places:
        if not isinstance(place, str) or not place:
            what = f"{split} must be a folder, a .txt list of images or a list of them, got {place!r}"
            hint = f"It has {', '.join(dataset.values)}. Set {split} there, or data.{split}."
            raise DataError(what, file=dataset.file, rule="YOLO-E06", hint=hint)
        if place.startswith("../"):  # as Roboflow writes it: relative to a folder beside data.yaml
            place = place[3:]
            faults.add("YOLO-W08", f"../{place}: read as {place}", file=dataset.file)
        name = _resolved(tree, "" if place == chosen else dataset.base, place, dataset.file)
        if name.lower().endswith(".txt"):
            listed += _listed(tree, dataset, name, faults)
        else:
            held = tree.walk(name)
            if not held:
                tree.is_folder(name)  # refuses a link that leads out
            found |= {n: s for n, s in held.items() if n.lower().endswith(EXTENSIONS)}
            _refuse_links(tree, held, faults)
    stamps = _stamps(tree, listed)
    missing = [name for name in listed if name not in stamps]
    if missing:
        shown = [Example(f"image {name}", image=name) for name in missing]
        faults.add("YOLO-E21", "a listed image is not there", kind="images", count=len(missing), examples=shown)
    found |= {name: stamps[name] for name in listed if name in stamps}
    faults.looked_at("images", len(found) + len(missing), len(missing))
    if not found:
        what = f"{split}: no image in {', '.join(map(str, places))}"
        hint = f"{tree.place} holds {tree.listing(10)}."
        if chosen is not None and chosen not in dataset.values:
            there = [key for known in _KEYS.values() for key in known if key in dataset.values]
            hint += f" data.{split} may be a folder, or one of the YAML's keys: {', '.join(there) or 'there are none'}."
        raise DataError(what, file=dataset.file, rule="YOLO-E06", hint=hint)
    return dict(sorted(found.items())), not listed


def _refuse_links(tree: Tree, held: dict[str, str], faults: Faults) -> None:
    out = [name for name in held if name.endswith("/")]
    if out:
        hint = "Link the data set's folder as a whole, and set data.root to it."
        shown = [Example(f"folder {name}") for name in out[:SHOWN]]
        what = "a folder is a link that leads out of data.root"
        faults.add("COCO-E24", what, file=tree.place, kind="folders", count=len(out), examples=shown, hint=hint)


def _listed(tree: Tree, dataset: _Set, name: str, faults: Faults) -> list[str]:
    """The images that a list names: after ./ relative to the list, else to the data set's folder."""
    file, found = posixpath.join(tree.place, name), []
    text = tree.read(name, _MOST_LIST).decode("utf-8-sig", "replace")
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip()
        if not entry:
            continue
        base = posixpath.dirname(name) if entry.startswith("./") else dataset.base
        try:
            found.append(_resolved(tree, base, entry, file))
        except DataError as error:
            example = Example(f"line {number}", error.what)
            faults.add("YOLO-E07", "a listed name leads out of data.root", file=file, kind="names", examples=[example])
    return found


def _label(image: str) -> str:
    """Where the label file of an image lies: the last /images/ of its path turned into /labels/."""
    head, found, tail = f"/{image}".rpartition("/images/")
    place = f"{head}/labels/{tail}" if found else f"/{image}"
    return posixpath.splitext(place)[0][1:] + ".txt"


def _stamps(tree: Tree, names: Iterable[str]) -> dict[str, str]:
    """Stamps of all files in the folders of some names."""
    folders = sorted({posixpath.dirname(name) for name in names})
    found: dict[str, str] = {}
    last: str | None = None
    for folder in folders:
        if last is None or not (last == "" or folder == last or folder.startswith(last + "/")):
            found |= tree.walk(folder)
            last = folder
    return found
