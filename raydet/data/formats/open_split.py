"""From data.root and its fellows to an index: where the files are, and what to say when they are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

from raydet.config import Config
from raydet.config.data import Data
from raydet.data.columns import spread_over
from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.image_folder import load_folder, load_remote_folder
from raydet.data.formats.index import ClassificationIndex, DetectionIndex
from raydet.data.formats.parquet.load import load_parquet
from raydet.data.formats.yolo.load import load_yolo
from raydet.data.storage.address import is_remote, parse
from raydet.data.storage.files import Files, Folder
from raydet.data.storage.object_store import Remote
from raydet.exceptions import DataError

Split = Literal["train", "val", "test"]
_PROBES = 20
"""Images whose presence is tested when a split is opened."""


class OnBad(TypedDict):
    """What to do about faulty records, and how images are turned."""

    on_bad: Literal["fail", "skip"]
    max_bad: float
    exif: Literal["auto"] | bool


def open_split(cfg: Config, split: Split) -> DetectionIndex | ClassificationIndex:
    """Return the index of a split of the config's data set; a `demo://` set is made if it is not there yet.

    data.root is a folder, `demo://...`, or the address of one in an object store (raydet.data.storage.address). By
    data.format, data.train (val, test) names below it:

    - coco: an annotation file; images lie where data.train_images says, or where its name leads.
    - folder: a folder of class folders.
    - yolo: a key of data.yaml, or a folder or .txt list of images. As long as it is the default (a COCO name, or
      None for test): the yaml's own train, val, test. data.root may be the yaml itself.
    - parquet: a .parquet file or a folder of them. As long as it is the default: those named after the split.

    Raises:
        DataError: a path is wrong (names what was looked for and what is there), or the data is malformed.
    """
    data = cfg.data
    remote = Remote(parse(data.root)) if is_remote(data.root) else None
    name: str | None = getattr(data, split)
    if name is None and data.format in ("coco", "folder"):
        raise DataError(f"data.{split} is not set", rule="DIR-E01", hint=f"Set data.{split}, or choose another split.")
    if data.format in ("yolo", "parquet"):
        chosen = None if name == getattr(Data(), split) else name
        return _by_own_names(cfg, split, remote or Folder(_root(data.root)), chosen)
    assert name is not None
    if remote is not None:
        if data.format == "coco":
            return _remote_coco(cfg, split, remote, name)
        return load_remote_folder(remote, name, on_bad=data.on_bad, max_bad=data.max_bad)
    root = _root(data.root)
    place = _existing(root / name, f"data.{split}")
    if data.format == "folder":
        return load_folder(place, on_bad=data.on_bad, max_bad=data.max_bad)
    return _coco(cfg, split, place, Folder(_images(cfg, split, root, place)))


def _coco(cfg: Config, split: Split, file: Path, images: Files) -> DetectionIndex:
    data = cfg.data
    index = load_coco(file, images, data.class_ids, role=split, on_bad=data.on_bad, max_bad=data.max_bad)
    _check_present(index, split)
    return index


def _by_own_names(
    cfg: Config, split: Split, tree: Remote | Folder, chosen: str | None
) -> DetectionIndex | ClassificationIndex:
    """A split of a format that finds its files by itself."""
    bad: OnBad = {"on_bad": cfg.data.on_bad, "max_bad": cfg.data.max_bad, "exif": cfg.data.exif}
    if cfg.data.format == "parquet":
        return load_parquet(tree, split, chosen, cfg.task == "detection", **bad)
    yaml = None
    if tree.place.lower().endswith((".yaml", ".yml")):
        yaml = tree.place.rpartition("/")[2]
        tree = tree.parent()
    return load_yolo(tree, yaml, split, chosen, **bad)


def _remote_coco(cfg: Config, split: Split, root: Remote, name: str) -> DetectionIndex:
    given: str | None = getattr(cfg.data, f"{split}_images")
    file = _fetched(root, name, f"data.{split}")
    stem = file.stem.removeprefix("instances_")
    folder = name.rpartition("/")[0]
    beside = [folder] if folder and not folder.endswith("annotations") else []
    places = [given] if given is not None else [stem, f"images/{stem}", "images", *beside]
    found = next((place for place in places if root.is_folder(place)), None)
    if found is None:
        what = f"no image folder for {file.name}; looked for {', '.join(places)}"
        hint = f"There is {root.listing()}. Set data.{split}_images."
        raise DataError(what, file=root.place, rule="DIR-E01", hint=hint)
    url = root.address.url(name)
    try:
        return replace(_coco(cfg, split, file, root.child(found)), file=url)
    except DataError as error:
        if error.file != file and error.file != str(file):
            raise
        raise DataError(error.what, file=url, rule=error.rule, record=error.record, hint=error.hint) from None


def _fetched(root: Remote, name: str, field: str) -> Path:
    try:
        return root.fetch(name)
    except DataError as error:
        if error.rule != "REMOTE-E06":
            raise
        hint = f"{root.place} holds {root.listing()}."
        raise DataError(f"{error.what} ({field})", file=error.file, rule=error.rule, hint=hint) from None


def _root(root: str) -> Path:
    if root.startswith("demo://"):
        from raydet.data.formats.demo import datasets

        makers: dict[str, Callable[[], Path]] = {
            "demo://detection": datasets.make_detection,
            "demo://classification": datasets.make_classification,
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
    raise DataError(
        what, file=root, rule="DIR-E01", hint=f"There is {Folder(root).listing()}. Set data.{split}_images."
    )


def _existing(place: Path, field: str) -> Path:
    if place.exists():
        return place
    known = next((p for p in place.parents if p.is_dir()), Path("/"))
    hint = f"{known} holds {Folder(known).listing()}."
    if field != "data.root" and (known / "data.yaml").is_file():
        hint += " With a data.yaml, set data.format=yolo."
    raise DataError(f"no such file or folder ({field})", file=place, rule="DIR-E01", hint=hint)


def _check_present(index: DetectionIndex, split: Split) -> None:
    """The folder is the right one if any of some images spread over the split is there."""
    rows = spread_over(len(index), _PROBES).tolist()
    if not any(index.files.exists(index.names[row]) for row in rows):
        what = f"none of {len(rows)} images tried is in {index.files.place}, e.g. {index.names[0]}"
        hint = f"It holds {index.files.listing(5)}. Is data.{split}_images right?"
        raise DataError(what, file=index.file, rule="COCO-E30", hint=hint)
