"""From data.root and its fellows to an index: where the files are, and what to say when they are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from raydet.config import Config
from raydet.data.coco import CocoIndex
from raydet.data.errors import DataError
from raydet.data.files import Folder
from raydet.data.folder import FolderIndex

Split = Literal["train", "val", "test"]
_PROBES = 20
"""Pictures whose presence is tested when a split is opened."""


def open_split(cfg: Config, split: Split) -> CocoIndex | FolderIndex:
    """Return the index of a split of the config's data set; a `demo://` set is made if it is not there yet.

    Raises:
        DataError: a path is wrong (names what was looked for and what is there), or the data is malformed.
    """
    name: str | None = getattr(cfg.data, split)
    if name is None:
        raise DataError(f"data.{split} is not set", rule="DIR-E01", hint=f"Set data.{split}, or choose another split.")
    root = _root(cfg.data.root)
    place = root / name
    if cfg.data.format == "folder":
        return FolderIndex.load(_existing(place, f"data.{split}"))
    images = _images(cfg, split, root, _existing(place, f"data.{split}"))
    index = CocoIndex.load(place, images, cfg.data.class_ids, role=split)
    _check_present(index, split)
    return index


def _root(root: str) -> Path:
    if root.startswith("demo://"):
        from raydet.data import demo

        makers: dict[str, Callable[[], Path]] = {
            "demo://detection": demo.make_detection,
            "demo://classification": demo.make_classification,
        }
        if root not in makers:
            raise DataError(f"data.root={root} is none of {', '.join(makers)}", rule="DIR-E01")
        return makers[root]()
    return _existing(Path(root).expanduser(), "data.root")


def _images(cfg: Config, split: Split, root: Path, json_path: Path) -> Path:
    given: str | None = getattr(cfg.data, f"{split}_images")
    if given is not None:
        return _existing(root / given, f"data.{split}_images")
    name = json_path.stem.removeprefix("instances_")
    beside = [] if json_path.parent.name == "annotations" else [json_path.parent]
    places = [root / name, root / "images" / name, root / "images", *beside]
    for place in places:
        if place.is_dir():
            return place
    what = f"no image folder for {json_path.name}; looked for {', '.join(map(str, places))}"
    raise DataError(what, file=root, rule="DIR-E01", hint=f"There is {Folder(root).listing()}. Set data.{split}_images.")


def _existing(place: Path, field: str) -> Path:
    if place.exists():
        return place
    known = next((p for p in place.parents if p.is_dir()), Path("/"))
    hint = f"{known} holds {Folder(known).listing()}."
    raise DataError(f"no such file or folder ({field})", file=place, rule="DIR-E01", hint=hint)


def _check_present(index: CocoIndex, split: Split) -> None:
    """The folder is the right one if any of some pictures spread over the split is there."""
    rows = np.unique(np.linspace(0, len(index) - 1, _PROBES).astype(int))
    if not any(index.files.exists(index.names[int(row)]) for row in rows):
        what = f"none of {len(rows)} pictures tried is in {index.files.place}, e.g. {index.names[0]}"
        hint = f"It holds {index.files.listing(5)}. Is data.{split}_images right?"
        raise DataError(what, file=index.file, rule="COCO-E30", hint=hint)
