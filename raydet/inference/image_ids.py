"""Which id an image has in predictions.json: that of the data set it belongs to, else its place in the call, from 1."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from raydet.config import Config, override
from raydet.data import DetectionIndex, open_split
from raydet.data.formats.coco.json_stream import parts
from raydet.data.formats.split_names import Split
from raydet.data.images.decode import HW
from raydet.data.loading.samples import stated_size
from raydet.data.storage.files import Folder
from raydet.exceptions import ConfigError, DataError

_Named = tuple[tuple[str, ...], dict[str, Any]]
"""A file name's parts, and the image's record."""


@dataclass(frozen=True, slots=True)
class ImageId:
    """What a data set says of an image, or what stands for that."""

    id: int
    name: str
    hw: HW | None = None
    """Height and width that its annotations are for."""
    known: bool = False
    """Whether a data set says it."""


def image_ids(cfg: Config, paths: Sequence[Path], annotations: Path | None) -> list[ImageId]:
    """Return the id of each path; what is in no data set is numbered from 1, or after the data set's last id.

    Args:
        cfg: its data set is looked at if an image lies within it.
        annotations: a COCO file whose ids are to be used, matched by file name, by folders where names repeat.

    Raises:
        ConfigError: `annotations` names none of the images. DataError: it cannot be read.
    """
    known, last = _of_file(annotations, paths) if annotations is not None else _of_data(cfg, paths)
    parent = os.path.commonpath([os.path.abspath(path.parent) for path in paths]) if paths else ""
    found = []
    for i, path in enumerate(paths):
        if i in known:
            found.append(known[i])
        else:
            last += 1
            found.append(ImageId(last, Path(os.path.relpath(os.path.abspath(path), parent)).as_posix()))
    return found


def _of_file(file: Path, paths: Sequence[Path]) -> tuple[dict[int, ImageId], int]:
    by_name: dict[str, list[_Named]] = {}
    last, total = 0, 0
    for key, records in parts(file, []):
        for record in records if key == "images" and isinstance(records, list) else ():
            if not (isinstance(record, dict) and isinstance(record.get("file_name"), str)):
                continue
            if type(record.get("id")) is not int:
                what = f"an image's id must be a whole number, got {record.get('id')!r}"
                raise DataError(what, file=file, rule="COCO-E29")
            last, total = max(last, record["id"]), total + 1
            folders = _parts(record["file_name"])
            by_name.setdefault(folders[-1], []).append((folders, record))
    found: dict[int, ImageId] = {}
    claimed: dict[int, Path] = {}
    for i, path in enumerate(paths):
        record = _best(_parts(os.path.abspath(path)), by_name)
        if record is None:
            continue
        if claimed.setdefault(record["id"], path) is not path:
            what = f"--annotations {file}: {claimed[record['id']]} and {path} are both {record['file_name']} for it"
            raise ConfigError(f"{what}; predict one of the folders at a time")
        height, width = record.get("height"), record.get("width")
        hw = (height, width) if type(height) is int and type(width) is int else None
        found[i] = ImageId(record["id"], record["file_name"], hw, True)
    if not found:
        example = f", e.g. {next(iter(by_name))}" if by_name else ""
        raise ConfigError(f"--annotations {file} names none of the {len(paths)} images; it names {total}{example}")
    return found, last


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).parts or ("",)


def _best(path: tuple[str, ...], by_name: dict[str, list[_Named]]) -> dict[str, Any] | None:
    """The record whose name ends as the path does, of several the one that does so longest; None if none is sure."""
    candidates = by_name.get(path[-1], [])
    if len(candidates) == 1:
        return candidates[0][1]
    ranked = sorted(((_shared(path, name), i) for i, (name, _) in enumerate(candidates)), reverse=True)
    if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return candidates[ranked[0][1]][1]


def _shared(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many parts two paths have in common, from the end."""
    return next((n for n, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), min(len(a), len(b)))


def _of_data(cfg: Config, paths: Sequence[Path]) -> tuple[dict[int, ImageId], int]:
    """The ids of the split of the config's data set that most of the images belong to: two splits may share ids."""
    root = cfg.data.root
    if cfg.task != "detection" or "://" in root:
        return {}, 0
    base = os.path.realpath(os.path.expanduser(root))
    real = [os.path.realpath(path) for path in paths]
    inside = {place: i for i, place in enumerate(real) if place.startswith(base.rstrip(os.sep) + os.sep)}
    best: dict[int, ImageId] = {}
    last = 0
    splits: tuple[Split, ...] = ("val", "test", "train")
    for split in splits if inside else ():
        index = _opened(cfg, split)
        if index is None:
            continue
        found = {}
        for row, name in enumerate(index.names.tolist()):
            i = inside.get(_place(index, name))
            if i is not None:
                found[i] = ImageId(int(index.ids[row]), name, stated_size(index, row), True)
        if len(found) > len(best):
            best, last = found, int(np.max(index.ids))
        if len(best) == len(inside):
            break
    return best, last


def _opened(cfg: Config, split: Split) -> DetectionIndex | None:
    try:
        index = open_split(override(cfg, {"data.on_bad": "skip", "data.max_bad": 1.0}), split)
    except (DataError, ConfigError):
        return None  # it is not asked for
    return index if isinstance(index, DetectionIndex) and isinstance(index.files, Folder) else None


def _place(index: DetectionIndex, name: str) -> str:
    try:
        return str(index.files.image(name))
    except DataError:
        return ""
