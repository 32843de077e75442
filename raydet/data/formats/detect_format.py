"""What kind of data set lies at a path, as configuration changes: what a user who names only a place means."""

import glob
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from raydet.config import Config, override
from raydet.config.data import ANNOTATED, AnnotatedFormat
from raydet.data.formats.annotated.csv_rows import FORM
from raydet.data.formats.annotated.load import known_splits
from raydet.data.formats.sniff import NOT_READ, SUFFIXES, first_row, sniff
from raydet.data.formats.split_names import SPLITS, by_split, split_of
from raydet.data.formats.yolo.load import YAML, splits_there
from raydet.data.formats.yolo.without_yaml import NAMES, find_names
from raydet.data.images.decode import EXTENSIONS
from raydet.data.storage.files import Folder, visible
from raydet.exceptions import ConfigError, DataError

_NO_CLASSES = {
    *("images", "labels", "annotations", "jpegimages", "imagesets", "image", "img", "ann", "masks", "xmls"),
    *("segmentationclass", "segmentationobject", "obj_train_data", "__macosx", "data", "dataset"),
}
"""Folders that are parts of a data set, as are those named after a split: where there are no others, they are not its
classes."""
_ANNOTATION_FOLDERS = ("annotations", "xmls", "labels", "ann")
_DEPTH, _MOST_FOLDERS, _SNIFFED = 3, 50, 3
"""How deep annotation files are looked for, in how many folders of each depth, and how many of a folder are opened."""
_Say = Callable[[str], None]


def guess(path: Path, say: _Say = lambda text: None, wanted: str | None = None) -> Config:
    """Return a configuration for the data set at `path`: an annotation file, or a folder that holds one of any format.

    Args:
        say: called with each thing that was assumed, e.g. that the test split serves as the validation split.
        wanted: the value of data.format to look for, where a folder may hold several. None: the first that is there.

    Raises:
        ConfigError: nothing there that is known; says what was looked for.
    """
    path = Path(os.path.abspath(path))  # so that no verdict depends on how a path is spelt
    if not path.exists():
        raise ConfigError(f"no such file or folder: {path}")
    try:
        found = _file(path, say) if path.is_file() else _folder(path, say, wanted)
        hint = "" if found is not None else _hint(path)
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if found is None:
        looked = "data.yaml, *.parquet, COCO's, LabelMe's, Label Studio's or CreateML's *.json, VOC's or CVAT's *.xml, "
        looked += "a *.csv of boxes, or a folder of class folders"
        raise ConfigError(f"{path} holds no data set that raydet knows; looked for {looked}{hint}")
    return override(Config(), found)


def format_of(folder: Path) -> str | None:
    """Return which value of data.format a folder looks like, by its annotation files; None if like none."""
    try:
        kinds = _kinds(_candidates(folder))
    except OSError:
        return None
    if any((folder / name).is_file() for name in YAML):
        return "yolo"
    return next((kind for kind in ("coco", *ANNOTATED, "parquet") if kind in kinds), None)


def _file(path: Path, say: _Say) -> dict[str, Any] | None:
    kind = sniff(path)
    root = path.parent.parent if path.parent.name.lower() in _ANNOTATION_FOLDERS else path.parent
    if kind in NOT_READ:
        raise _not_read(path, kind)
    if kind in ("coco", "json"):
        return _coco(root, [path], say)
    if kind == "yolo" or path.name in NAMES or path.name == "obj.data":
        return _yolo(path if kind == "yolo" else root, say)
    if kind == "parquet":
        return _parquet(path.parent, [path], say)
    if kind in ("voc", "labelme"):  # one file an image: the set is meant
        return _annotated(root, kind, say)
    if kind in ANNOTATED:
        name = path.relative_to(root).as_posix()
        return {"data.format": kind, "data.root": str(root)} | _places({}, name, say)
    return None


def _folder(path: Path, say: _Say, wanted: str | None) -> dict[str, Any] | None:
    if wanted in (None, "yolo") and any((path / name).is_file() for name in YAML):
        return _yolo(path, say)
    if (only := _only_folder(path)) is not None:  # as archives unpack
        return _folder(only, say, wanted)
    kinds = _kinds(_candidates(path))
    known = [kind for kind in ("coco", "parquet", *ANNOTATED) if kind in kinds and wanted in (None, kind)]
    if len(known) > 1:
        say(f"{path} has annotations as {' and '.join(known)}; {known[0]} is taken (--data.format for another)")
    if known:
        return _of_kind(path, known[0], kinds[known[0]], say)
    if find_names(Folder(path)) is not None and _has_label_files(path):
        return _yolo(path, say)
    return _by_folders(path, kinds, say)


def _by_folders(path: Path, kinds: Mapping[str, list[Path]], say: _Say) -> dict[str, Any] | None:
    """A set without annotation files of a known kind."""
    below = [path / name for name in _folders(path) if split_of(name) is not None]
    if classes := [place for place in below if _has_classes(place)]:
        return _named(path, classes, say) | {"data.format": "folder", "model.name": "efficientnet_b0"}
    if "json" in kinds:
        return _coco(path, kinds["json"], say)
    if len(yamls := [*path.glob("*.yaml"), *path.glob("*.yml")]) == 1:
        return _yolo(yamls[0], say)
    if refused := next((kind for kind in NOT_READ if kind in kinds), None):
        raise _not_read(kinds[refused][0], refused)
    if _has_classes(path):
        whole = {"data.format": "folder", "data.root": str(path), "data.train": ".", "data.val": "."}
        return whole | {"model.name": "efficientnet_b0"}
    return None


def _only_folder(path: Path) -> Path | None:
    """The only thing in a folder, if that is a folder which is no part of a data set."""
    names = [entry.name for entry in _entries(path)]
    only = path / names[0] if len(names) == 1 and not _no_class(names[0]) else None
    inner = _folders(only) if only is not None and only.is_dir() else []
    return only if inner and (len(inner) == 1 or any(map(_no_class, inner))) else None


def _of_kind(path: Path, kind: str, files: list[Path], say: _Say) -> dict[str, Any] | None:
    if kind == "coco":
        return _coco(_root_of(path, files), files, say)
    if kind == "parquet":
        return _parquet(path, files, say)
    sets = [name for name in _folders(path) if split_of(name) is None and (path / name / "Annotations").is_dir()]
    if kind == "voc" and len(sets) > 1:
        raise ConfigError(f"{path} holds several data sets; name one of them: {', '.join(sets[:10])}")
    parent = path.parent
    if path.name.lower() in _ANNOTATION_FOLDERS and not _holds_images(path) and _holds_images(parent):
        say(f"{path} has no images: it is read with those of {parent}")
        path = parent
    return _annotated(path, kind, say)


def _root_of(path: Path, files: list[Path]) -> Path:
    """The folder that COCO files and their images lie in, at or below `path`."""
    common = Path(os.path.commonpath([file.parent for file in files]))
    while common != path and (common.name.lower() in _ANNOTATION_FOLDERS or split_of(common.name) is not None):
        common = common.parent
    return common


def _candidates(root: Path) -> dict[Path, list[Path]]:
    """Files that may be annotations, by folder: a few levels deep, never hidden ones."""
    found: dict[Path, list[Path]] = {}
    level = [root]
    for depth in range(_DEPTH + 1):
        folders: list[Path] = []
        for place in level:
            names = [name for name in sorted(os.listdir(place)) if visible(name)]
            files = [place / name for name in names if name.lower().endswith(SUFFIXES)]
            found[place] = [file for file in files if file.is_file()]
            others = [name for name in names if not name.lower().endswith((*SUFFIXES, *EXTENSIONS, ".txt"))]
            inner = [place / name for name in others if (place / name).is_dir()] if depth < _DEPTH else []
            folders += inner
        level = folders[:_MOST_FOLDERS]
    return found


def _kinds(candidates: Mapping[Path, list[Path]]) -> dict[str, list[Path]]:
    """The files by what they are. Of many in one folder some are opened; what the others are is taken from them."""
    kinds: dict[str, list[Path]] = {}
    for files in candidates.values():
        for suffix in SUFFIXES:
            same = [file for file in files if file.suffix.lower() == suffix]
            opened = same if len(same) <= 4 * _SNIFFED else [*same[:_SNIFFED], *same[-_SNIFFED:]]
            for file in opened:
                if (kind := sniff(file)) is not None and kind != "yolo":
                    kinds.setdefault(kind, []).append(file)
    return kinds


def _hint(path: Path) -> str:
    """What a file or folder that is no data set may be."""
    tables = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if tables and tables[0].suffix.lower() == ".csv" and (columns := first_row(tables[0])):
        return f". {tables[0].name} has the columns {', '.join(columns)[:200]}; wanted is {FORM}"
    if path.is_file():
        return ""
    if (path / "labels").is_dir() or any(path.glob("*/labels")):
        return ". There are labels/: a YOLO data set needs its data.yaml, or classes.txt, beside them"
    if _images_in(path):
        kind = format_of(path.parent)
        above = f"; {path.parent} looks like {kind}: name that" if kind is not None else ""
        return f". It holds images and nothing that says what is in them{above}"
    folders = _folders(path)
    if folders and all(_no_class(name) for name in folders):
        return f". It has {', '.join(folders[:5])}, parts of a data set without its annotations"
    return ""


def _not_read(path: Path, kind: str) -> ConfigError:
    return ConfigError(f"{path} is {NOT_READ[kind]}")


def _entries(path: Path) -> "list[os.DirEntry[str]]":
    with os.scandir(path) as entries:
        return [entry for entry in entries if visible(entry.name)]


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(path) if entry.is_dir())


def _images_in(path: Path) -> bool:
    return any(_is_image(entry.name) for entry in _entries(path))


def _holds_images(path: Path) -> bool:
    """Whether there are images in a folder, or in one of its folders."""
    return any(_images_in(place) for place in (path, *(path / name for name in _folders(path)[:_MOST_FOLDERS])))


def _no_class(name: str) -> bool:
    return name.lower() in _NO_CLASSES or split_of(name) is not None


def _has_classes(path: Path) -> bool:
    folders = _folders(path)
    if all(_no_class(name) for name in folders):
        return False
    return any(_images_in(path / name) for name in folders[:20])


def _has_label_files(path: Path) -> bool:
    """Whether label files lie in labels/, in an export of CVAT, or beside the images."""
    if (path / "obj.names").is_file() or (path / "labels").is_dir() or any(path.glob("*/labels")):
        return True
    names = [entry.name for entry in _entries(path)]
    stems = {name.rpartition(".")[0] for name in names if name.lower().endswith(".txt")}
    return any(name.rpartition(".")[0] in stems for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _coco(root: Path, jsons: list[Path], say: _Say) -> dict[str, Any]:
    instances = [p for p in jsons if p.stem.startswith("instances_")] or jsons
    return {"data.format": "coco"} | _named(root, instances, say)


def _yolo(place: Path, say: _Say) -> dict[str, Any]:
    tree, yaml = (Folder(place.parent), place.name) if place.is_file() else (Folder(place), None)
    there = {split: split for split in splits_there(tree, yaml)}
    found = {"data.format": "yolo", "data.root": str(place)}
    if not there or list(there) == ["train", "val"]:  # opening it says what is wrong
        return found
    return found | _places(there, "train", say)


def _annotated(root: Path, kind: str, say: _Say) -> dict[str, Any]:
    try:
        there = known_splits(Folder(root), cast(AnnotatedFormat, kind))
    except DataError:
        there = {}  # opening it says what is wrong
    return {"data.format": kind, "data.root": str(root)} | _places(there, ".", say)


def _parquet(root: Path, files: list[Path], say: _Say) -> dict[str, Any]:
    """The splits by the names of their files, all parts of each; without a train split everything is it."""
    from raydet.data.formats.parquet.load import of_split

    every = [p.relative_to(root).as_posix() for p in files]
    parts = {split: of_split(every, split) for split in SPLITS}
    there: dict[str, str] = {split: _pattern(names, every) for split, names in parts.items() if names}
    there.setdefault("train", _pattern(every, every))
    model = {} if _holds_boxes(files) else {"model.name": "efficientnet_b0"}
    return {"data.format": "parquet", "data.root": str(root)} | _places(there, ".", say) | model


def _pattern(names: list[str], every: list[str]) -> str:
    if names == every and len(names) > 1:
        return "."
    return names[0] if len(names) == 1 else f"{glob.escape(_beginning(names))}*.parquet"


def _beginning(names: list[str]) -> str:
    """What all names begin with, by letters."""
    return os.path.commonprefix(names)  # noqa: RUF071 -- part of a name, not of a path


def _holds_boxes(files: list[Path]) -> bool:
    """Whether the first readable file has boxes; if none is readable, opening the set will say so."""
    from raydet.data.formats.parquet.images import open_parquet
    from raydet.data.formats.parquet.rows import find_columns

    for file in files:
        try:
            schema = open_parquet(file).schema_arrow
        except DataError:
            continue
        for detection in (True, False):
            try:
                find_columns(schema, detection, str(file))
                return detection
            except DataError:
                continue
    return True


def _named(root: Path, places: Iterable[Path], say: _Say) -> dict[str, Any]:
    """The splits by the names of their files or folders."""
    below = sorted(p.relative_to(root).as_posix() for p in places)
    there: dict[str, str] = {}
    for split, names in by_split(below).items():
        if split is not None:
            there[split] = names[0]
            if len(names) > 1:
                say(f"{names[0]} is taken for data.{split}, not {', '.join(names[1:4])}")
    return {"data.root": str(root)} | _places(there, below[0], say)


def _places(there: Mapping[str, str], whole: str, say: _Say) -> dict[str, Any]:
    """What data.train, val and test are, by the splits that there are; one that is missing is stood in for, and said.

    Args:
        whole: what stands for all of a set that names no split.
    """
    train = there.get("train") or there.get("val") or there.get("test") or whole
    val = there.get("val") or there.get("test") or train
    if "val" not in there:
        what = "test" if "test" in there else "train"
        say(f"there is no validation split: data.val is the same as data.{what} ({val})")
    if there and "train" not in there:
        say(f"there is no training split: data.train is {train}")
    return {"data.train": train, "data.val": val, "data.test": there.get("test")}
