"""From data.root and its fellows to an index: where the files are, and what to say when they are not."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

from raydet.config import Config
from raydet.config.data import ANNOTATED, Data
from raydet.data.formats.annotated.load import load_annotated
from raydet.data.formats.coco.load import load_coco
from raydet.data.formats.detect_format import format_of
from raydet.data.formats.image_folder import load_folder, load_remote_folder
from raydet.data.formats.index import ClassificationIndex, DetectionIndex
from raydet.data.formats.parquet.load import load_parquet
from raydet.data.formats.split_names import Split
from raydet.data.formats.yolo.load import load_yolo
from raydet.data.storage.address import is_remote, parse
from raydet.data.storage.files import Files, Folder
from raydet.data.storage.object_store import Remote
from raydet.exceptions import DataError


class OnBad(TypedDict):
    """What to do about faulty records, and how images are turned."""

    on_bad: Literal["fail", "skip"]
    max_bad: float
    exif: Literal["auto"] | bool


def open_split(
    cfg: Config, split: Split, left_out: Collection[str] = frozenset()
) -> DetectionIndex | ClassificationIndex:
    """Return the index of a split of the config's data set; a `demo://` set is made if it is not there yet.

    data.root is a folder, `demo://...`, or the address of one in an object store (raydet.data.storage.address). By
    data.format, data.train (val, test) names below it:

    - coco: an annotation file; images lie where data.train_images says, or where its name leads.
    - folder: a folder of class folders.
    - yolo: a key of data.yaml, or a folder or .txt list of images. As long as it is the default (a COCO name, or
      None for test): the yaml's own train, val, test. data.root may be the yaml itself.
    - voc, labelme, cvat, labelstudio, createml, csv: an annotation file, a folder of them or of images, VOC's list
      (ImageSets/Main/train.txt), the name of a split, or "." for all. As long as it is the default: what lists,
      annotations or folders say belongs to the split.
    - parquet: a .parquet file or a folder of them. As long as it is the default: those named after the split.

    Args:
        left_out: names of images that are not opened for their sizes; whoever asks takes them out of the index.

    Raises:
        DataError: a path is wrong (names what was looked for and what is there), or the data is malformed.
    """
    data = cfg.data
    remote = Remote(parse(data.root)) if is_remote(data.root) else None
    name: str | None = getattr(data, split)
    if name is None and data.format in ("coco", "folder"):
        raise DataError(f"data.{split} is not set", rule="DIR-E01", hint=f"Set data.{split}, or choose another split.")
    if data.format not in ("coco", "folder"):
        chosen = None if name == getattr(Data(), split) else name
        return _by_own_names(cfg, split, remote or Folder(_root(data.root)), chosen, left_out)
    assert name is not None
    if remote is not None:
        if data.format == "coco":
            return _remote_coco(cfg, split, remote, name, left_out)
        return load_remote_folder(remote, name, on_bad=data.on_bad, max_bad=data.max_bad)
    root = _root(data.root)
    place = _existing(root / name, f"data.{split}")
    if data.format == "folder":
        return load_folder(place, on_bad=data.on_bad, max_bad=data.max_bad)
    return _local_coco(cfg, split, root, place, left_out)


def _local_coco(cfg: Config, split: Split, root: Path, json_path: Path, left_out: Collection[str]) -> DetectionIndex:
    """The index of an annotation file whose images lie in one of the usual folders, or else below the root."""
    given: str | None = getattr(cfg.data, f"{split}_images")
    if given is not None:
        return _coco(cfg, split, json_path, [Folder(_existing(root / given, f"data.{split}_images"))], left_out)
    name = json_path.stem.removeprefix("instances_")
    beside = [] if json_path.parent.name == "annotations" else [json_path.parent]
    usual = list(dict.fromkeys([root / name, root / "images" / name, root / "images", *beside]))
    found = [place for place in usual if place.is_dir()]
    try:
        return _coco(cfg, split, json_path, [Folder(place) for place in dict.fromkeys([*found, root])], left_out)
    except DataError as error:
        if found or error.rule != "COCO-E30":
            raise
        what = f"no image folder for {json_path.name}; looked for {', '.join(map(str, usual))}"
        hint = f"There is {Folder(root).listing()}. Set data.{split}_images."
        again = DataError(what, file=root, rule="DIR-E01", hint=hint)
        again.faults = error.faults
        raise again from None


def _coco(cfg: Config, split: Split, file: Path, places: Sequence[Files], left_out: Collection[str]) -> DetectionIndex:
    data = cfg.data
    return load_coco(
        file,
        places,
        data.class_ids,
        role=split,
        left_out=left_out,
        present=True,
        on_bad=data.on_bad,
        max_bad=data.max_bad,
    )


def _by_own_names(
    cfg: Config, split: Split, tree: Remote | Folder, chosen: str | None, left_out: Collection[str]
) -> DetectionIndex | ClassificationIndex:
    """A split of a format that finds its files by itself."""
    bad: OnBad = {"on_bad": cfg.data.on_bad, "max_bad": cfg.data.max_bad, "exif": cfg.data.exif}
    if cfg.data.format in ANNOTATED:
        return load_annotated(tree, cfg.data.format, split, chosen, left_out=left_out, **bad)
    if cfg.data.format == "parquet":
        return load_parquet(tree, split, chosen, cfg.task == "detection", left_out=left_out, **bad)
    yaml = None
    if tree.place.lower().endswith((".yaml", ".yml")):
        yaml = tree.place.rpartition("/")[2]
        tree = tree.parent()
    return load_yolo(tree, yaml, split, chosen, left_out=left_out, **bad)


def _remote_coco(cfg: Config, split: Split, root: Remote, name: str, left_out: Collection[str]) -> DetectionIndex:
    given: str | None = getattr(cfg.data, f"{split}_images")
    file = _fetched(root, name, f"data.{split}")
    stem = file.stem.removeprefix("instances_")
    folder = name.rpartition("/")[0]
    beside = [folder] if folder and not folder.endswith("annotations") else []
    places = [given] if given is not None else [stem, f"images/{stem}", "images", *beside]
    found = [root.child(place) for place in places if root.is_folder(place)]
    if not found:
        what = f"no image folder for {file.name}; looked for {', '.join(places)}"
        hint = f"There is {root.listing()}. Set data.{split}_images."
        raise DataError(what, file=root.place, rule="DIR-E01", hint=hint)
    url = root.address.url(name)
    try:
        return replace(_coco(cfg, split, file, found, left_out), file=url)
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


def _existing(place: Path, field: str) -> Path:
    if place.exists():
        return place
    known = next((p for p in place.parents if p.is_dir()), Path("/"))
    hint = f"{known} holds {Folder(known).listing()}."
    kind = format_of(known) if field != "data.root" else None
    if kind is not None:
        hint += f" It looks like {kind}: set data.format={kind}; `raydet check {known}` shows how it is read."
    raise DataError(f"no such file or folder ({field})", file=place, rule="DIR-E01", hint=hint)
