"""What kind of data set lies at a path, as configuration changes: what a user who names only a place means."""

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydet.config import Config, override
from raydet.data.formats.yolo.load import YAML
from raydet.data.images.decode import EXTENSIONS
from raydet.exceptions import ConfigError, DataError

_TRAIN, _VAL = ("train", "training"), ("val", "valid", "validation", "dev", "test")
_NO_CLASSES = {*_TRAIN, *_VAL, "images", "labels", "annotations"}
"""Folders that are parts of a data set: where there are no others, they are not its classes."""


def guess(path: Path) -> Config:
    """Return a configuration for the data set at `path`: an annotation file, or a folder that holds one of any format.

    Raises:
        ConfigError: nothing there that is known; says what was looked for.
    """
    if not path.exists():
        raise ConfigError(f"no such file or folder: {path}")
    try:
        found = _file(path) if path.is_file() else _folder(path)
        hint = "" if found is not None or path.is_file() else _hint(path)
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    if found is None:
        looked = "COCO annotations (*.json), data.yaml, *.parquet, or a folder of class folders"
        raise ConfigError(f"{path} holds no data set that raydet knows; looked for {looked}{hint}")
    return override(Config(), found)


def _file(path: Path) -> dict[str, Any] | None:
    ending = path.suffix.lower()
    if ending == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        return _coco(root, [path])
    if ending in (".yaml", ".yml"):
        return {"data.format": "yolo", "data.root": str(path)}
    if ending == ".parquet":
        return _parquet(path.parent, [path])
    return None


def _folder(path: Path) -> dict[str, Any] | None:
    if any((path / name).is_file() for name in YAML):
        return {"data.format": "yolo", "data.root": str(path)}
    if jsons := sorted((path / "annotations").glob("*.json")):
        return _coco(path, jsons)
    if parquets := sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet")):
        return _parquet(path, parquets)
    splits = [path / name for name in (*_TRAIN, *_VAL) if (path / name).is_dir()]
    if jsons := [json for place in splits for json in sorted(place.glob("*.json"))[:1]]:
        return {"data.format": "coco"} | _named(path, jsons, lambda json: json.parent.name)  # as Roboflow exports it
    if classes := [place for place in splits if _has_classes(place)]:
        return _named(path, classes) | {"data.format": "folder", "model.name": "efficientnet_b0"}
    if jsons := sorted(path.glob("*.json")):
        return _coco(path, jsons)
    if len(yamls := [*path.glob("*.yaml"), *path.glob("*.yml")]) == 1:
        return {"data.format": "yolo", "data.root": str(yamls[0])}
    if _has_classes(path):
        whole = {"data.format": "folder", "data.root": str(path), "data.train": ".", "data.val": "."}
        return whole | {"model.name": "efficientnet_b0"}
    return None


def _hint(path: Path) -> str:
    """What a folder that is no data set may be."""
    if (path / "labels").is_dir() or any(path.glob("*/labels")):
        return ". There are labels/: a YOLO data set needs its data.yaml beside them"
    if any(_is_image(p) for p in path.iterdir()):
        return ". It holds images and nothing that says what is in them"
    return ""


def _has_classes(path: Path) -> bool:
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if {p.name.lower() for p in folders} <= _NO_CLASSES:
        return False
    return any(_is_image(q) for p in folders[:20] for q in p.iterdir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _coco(root: Path, jsons: list[Path]) -> dict[str, Any]:
    instances = [p for p in jsons if p.stem.startswith("instances_")] or jsons
    return {"data.format": "coco"} | _named(root, instances)


def _parquet(root: Path, files: list[Path]) -> dict[str, Any]:
    """The splits by the names of their files, all parts of each; without a train split everything is it."""
    from raydet.data.formats.parquet.load import of_split

    every = [str(p.relative_to(root)) for p in files]
    train = of_split(every, "train") or every
    val = of_split(every, "val") or of_split(every, "test") or train
    places = {"data.train": _pattern(train, every), "data.val": _pattern(val, every)}
    model = {} if _holds_boxes(files) else {"model.name": "efficientnet_b0"}
    return {"data.format": "parquet", "data.root": str(root)} | places | model


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


def _named(root: Path, places: list[Path], label: Callable[[Path], str] = lambda p: p.stem) -> dict[str, Any]:
    """The splits by their names; where only one is recognized it is both."""
    below = {str(p.relative_to(root)): label(p).lower() for p in places}

    def of(words: tuple[str, ...]) -> str | None:
        whole = re.compile(rf"(?<![a-z])({'|'.join(words)})(?![a-z])")
        found = next((name for name, text in below.items() if whole.search(text)), None)
        return found or next((name for name, text in below.items() if any(word in text for word in words)), None)

    train, val = of(_TRAIN), of(_VAL)
    first = train or val or next(iter(below))
    return {"data.root": str(root), "data.train": train or first, "data.val": val or first}
