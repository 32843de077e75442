"""YOLO data sets as an index: data.yaml, images below images/, a label file for each below labels/. Read only.

Format: docs.ultralytics.com/datasets/detect, pose (kpt_shape: the boxes are read) and obb (the upright box around four
corners). Given up: key points, angles, `download`, and names that lead out of data.root; also a data.yaml's `path` is
followed within data.root only.
"""

import hashlib
import os
import posixpath
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from raydet.data.columns import spread_over
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.split_names import Split
from raydet.data.formats.yolo.labels import read_columns
from raydet.data.formats.yolo.safe_yaml import MOST_BYTES, Plain, parse_yaml
from raydet.data.formats.yolo.without_yaml import find_names, read_names
from raydet.data.images.decode import EXTENSIONS, Exif
from raydet.data.storage.cache import content_key, load_columns, save_columns
from raydet.data.storage.files import Tree, refusal
from raydet.data.validation.faults import SHOWN, Example, Faults
from raydet.exceptions import DataError

YAML = ("data.yaml", "data.yml", "dataset.yaml")
_KEYS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
_MOST_LIST = 256 << 20
_PROBES = 20
"""Names of a list whose images are looked for."""


@dataclass(frozen=True, slots=True)
class _Set:
    """What data.yaml says."""

    file: str
    values: dict[str, Plain]
    base: str
    """Folder that names are relative to, within the root."""
    names: list[str]
    digest: str
    keypoints: tuple[int, int] | None = None
    """How many key points a box has, and the numbers of one (kpt_shape)."""


def load_yolo(
    tree: Tree,
    yaml_name: str | None,
    split: Split,
    chosen: str | None = None,
    *,
    on_bad: Literal["fail", "skip"] = "fail",
    max_bad: float = 0.01,
    left_out: Container[str] = (),
    exif: Exif = "auto",
) -> DetectionIndex:
    """Return the index of a split; from the cache when none of its files has changed.

    Args:
        left_out: names of images that are not opened, and left out.
        yaml_name: the yaml in the tree. None: data.yaml, or the only one there is, or else obj.names or classes.txt.
        chosen: a key of the yaml, or a folder or .txt list within the root. None: the yaml's key for the split.
        on_bad: fail raises on the first faulty row or image; skip leaves them out, up to the share `max_bad`.
        exif: data.exif; rows are shares of the image as it turns it.

    Raises:
        DataError: the yaml or the split is not there or malformed; names the rule.
    """
    faults = Faults()
    dataset = _read(tree, yaml_name or _find(tree), faults)
    found, whole = _images(tree, dataset, split, chosen, faults)
    images = {name: stamp for name, stamp in found.items() if name not in left_out}
    whole = whole and len(images) == len(found)
    label_of = {name: _label(name) for name in images}
    stamps = _stamps(tree, label_of.values())
    files = [(p, s, stamps.get(label_of[p])) for p, s in images.items()]
    turned = ["turned"] * bool(exif)
    key = content_key("yolo", dataset.file, dataset.digest, files, sorted(stamps) if whole else [], *turned)
    columns = load_columns(key)
    if columns is None:
        of_files = Faults()
        columns = read_columns(tree, label_of, stamps, whole, len(dataset.names), dataset.keypoints, of_files, exif)
        columns["faults"] = of_files.packed()
        save_columns(key, columns)
    faults.extend(Faults.unpacked(columns["faults"]))
    if not len(columns["boxes"]) and split != "test":
        _tell_no_box(dataset.file, list(label_of.values()), faults)
    faults.check(skip=on_bad == "skip", max_bad=max_bad)
    ids = np.arange(len(dataset.names))
    return replace(DetectionIndex.of_columns(dataset.file, tree, columns, ids, dataset.names, faults), measured=True)


def _tell_no_box(file: str, labels: list[str], faults: Faults) -> None:
    """Say that nothing is left to train on, and whether that is for want of labels or for the faults of their rows."""
    if any(fault.kind == "label rows" for fault in faults):
        faults.add("YOLO-E19", f"none of {len(labels)} images has a usable box: every label row is faulty", file=file)
        return
    what = f"none of {len(labels)} images has a box; looked for labels such as {next(iter(labels), 'none')}"
    hint = "Labels lie in labels/ where the images lie in images/, else beside them."
    faults.add("YOLO-E19", what, file=file, hint=hint)


def splits_there(tree: Tree, yaml_name: str | None) -> list[str]:
    """Return which of train, val and test the set names and has images of; [] if its YAML cannot be used."""
    found = list[str]()
    for split in _KEYS:
        try:
            _images(tree, _read(tree, yaml_name or _find(tree), Faults()), split, None, Faults())
        except DataError:
            continue
        found.append(split)
    return found


def _find(tree: Tree) -> str:
    top = tree.top()
    known = [name for name in YAML if name in top]
    other = [name for name in top if name.lower().endswith((".yaml", ".yml"))]
    if not known and not other and (names := find_names(tree)) is not None:
        return names
    if not known and len(other) != 1:
        what = f"looked for {', '.join(YAML)} and found {', '.join(other) or 'no .yaml file'}"
        hint = f"There is {tree.listing(10)}. Give the file itself as data.root."
        raise DataError(what, file=tree.place, rule="YOLO-E02", hint=hint)
    return (known or other)[0]


def _read(tree: Tree, name: str, faults: Faults) -> _Set:
    file = posixpath.join(tree.place, name)
    if not name.lower().endswith((".yaml", ".yml")):
        names, places, data = read_names(tree, name)
        return _Set(file, dict(places), "", names, hashlib.sha256(data).hexdigest())
    data = tree.read(name, 8 * MOST_BYTES)  # the parser says what is allowed
    values = parse_yaml(data, file)
    if not isinstance(values, dict):
        raise DataError(f"expected train, val and names, got {type(values).__name__}", file=file, rule="YOLO-E03")
    names = _class_names(values, file)
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        what = f"classes with the same name stay apart: {', '.join(map(repr, twice[:5]))}"
        faults.add("YOLO-W05", what, file=file)
    base, digest = _base(tree, file, values.get("path"), faults), hashlib.sha256(data).hexdigest()
    return _Set(file, values, base, names, digest, _keypoints(values.get("kpt_shape"), file))


def _keypoints(shape: Plain, file: str) -> tuple[int, int] | None:
    if shape is None:
        return None
    match shape:
        case [int(count), int(numbers)] if 0 < count <= 10_000 and numbers in (2, 3):
            return count, numbers
    what = f"kpt_shape must be [key points, 2 or 3], got {str(shape)[:80]}"
    raise DataError(what, file=file, rule="YOLO-E23", hint="Without key points, remove it.")


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


def _root(tree: Tree) -> str:
    """Return the root's one spelling, however it is given: an absolute path, or an address."""
    return (tree.place if "://" in tree.place else os.path.abspath(tree.place)).rstrip("/")


def _relative(tree: Tree, name: str) -> str:
    """A name without the root before it, and without ./ at its beginning."""
    root = _root(tree)
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


def _other_readings(tree: Tree, base: str, name: str) -> list[str | None]:
    """What a name that is not there may mean; None: does not apply. The positions mean the same for every name.

    Roboflow writes ../train/images, relative to a folder beside data.yaml, or puts the data set's own folder first.
    """
    plain, own = name.rstrip("/"), posixpath.basename(_root(tree))
    up = plain
    while up.startswith("../"):
        up = up[3:]
    parts = plain.split("/")
    last = len(parts) - parts[::-1].index(own) if own in parts else 0
    tail = "/".join(parts[last:]) if last and ".." not in parts[last:] else None
    relative = not plain.startswith(("/", "~", "./")) and ".." not in parts and len(parts) > 1
    rest = "/".join(parts[1:]) if relative else None
    readings = [up if up != plain else None, tail, rest, plain if base and relative else None]
    return [None if one is None or (one and refusal(one) is not None) else one or "." for one in readings]


def _located(tree: Tree, base: str, place: str, file: str, faults: Faults) -> str:
    """The folder or list within the root that data.yaml means by `place`: as it is written, or as it may be meant.

    Raises:
        DataError: it leads out of the root, and means nothing within.
    """

    def there(name: str) -> bool:
        return tree.exists(name) if name.lower().endswith(".txt") else tree.is_folder(name)

    try:
        name, out = _resolved(tree, base, place, file), None
    except DataError as error:
        name, out = "", error
    if out is None and there(name):
        return name
    readings = [one for one in _other_readings(tree, base, place) if one is not None]
    meant = next(filter(there, readings), None)
    if meant is not None:
        faults.add("YOLO-W08", f"{place} is not there: {meant} is taken", file=file)
        return posixpath.normpath(meant)
    if out is not None and not readings:
        raise out
    return name if out is None else readings[0]


def _images(tree: Tree, dataset: _Set, split: Split, chosen: str | None, faults: Faults) -> tuple[dict[str, str], bool]:
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
        name = _located(tree, "" if place == chosen else dataset.base, place, dataset.file, faults)
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
    """The images that a list names: after ./ relative to the list, else to the data set's folder.

    If none of some is there, the names are read in one of the other ways that `_located` knows, all in the same.
    """
    file = posixpath.join(tree.place, name)
    text = tree.read(name, _MOST_LIST).decode("utf-8-sig", "replace")
    lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    way = _way_of_list(tree, dataset, name, list(lines.values()))
    if way is not None:
        faults.add("YOLO-W08", f"{next(iter(lines.values()))} is not there: {way[1]} is taken", file=file)
    found = []
    for number, entry in lines.items():
        meant = None if way is None else _other_readings(tree, dataset.base, entry)[way[0]]
        try:
            found.append(_entry(tree, dataset, name, entry) if meant is None else posixpath.normpath(meant))
        except DataError as error:
            example = Example(f"line {number}", error.what)
            faults.add("YOLO-E07", "a listed name leads out of data.root", file=file, kind="names", examples=[example])
    return found


def _entry(tree: Tree, dataset: _Set, name: str, entry: str) -> str:
    base = posixpath.dirname(name) if entry.startswith("./") else dataset.base
    return _resolved(tree, base, entry, posixpath.join(tree.place, name))


def _way_of_list(tree: Tree, dataset: _Set, name: str, entries: list[str]) -> tuple[int, str] | None:
    """Which of the other readings finds some of a list's images, with the first that it finds; None: as written."""
    probes = [entries[i] for i in spread_over(len(entries), _PROBES).tolist()]

    def exists(read: Callable[[str], str | None], entry: str) -> str | None:
        try:
            meant = read(entry)
            return meant if meant is not None and tree.exists(meant) else None
        except DataError:
            return None

    if not probes or any(exists(lambda e: _entry(tree, dataset, name, e), entry) for entry in probes):
        return None
    for way in range(len(_other_readings(tree, dataset.base, probes[0]))):
        found = [exists(lambda e, w=way: _other_readings(tree, dataset.base, e)[w], entry) for entry in probes]  # type: ignore[misc]
        if any(found):
            return way, next(filter(None, found))
    return None


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
