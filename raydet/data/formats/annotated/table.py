"""All annotations of a data set as columns: read once for all its splits, so that these agree on the classes."""

import json
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydet.data.columns import Columns, Floats, Ints, Texts
from raydet.data.formats.annotated.readers import READERS, is_class_file, read_files
from raydet.data.formats.annotated.records import AnnotatedImage, Note
from raydet.data.formats.image_names import ImageNames
from raydet.data.formats.image_sizes import image_sizes
from raydet.data.formats.split_names import SPLITS, split_of_path
from raydet.data.images.decode import EXTENSIONS, Exif, open_image
from raydet.data.storage.cache import content_key, load_columns, save_columns
from raydet.data.storage.files import Tree
from raydet.exceptions import DataError

Mask = npt.NDArray[np.bool_]
Sizes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Table:
    """Every annotated image of a data set, faulty ones too; row i of each column is image i, box k's image `image`."""

    files: Texts
    """Annotation file of each image."""
    records: Texts
    written: Texts
    names: Texts
    """The image in the tree; "" where it is not there."""
    written_hw: Sizes
    """As the annotations say; 0 where they do not."""
    header_hw: Sizes
    """As the image's header says; 0 where it cannot be read."""
    upright: Mask
    """Whether the written size is that of the image turned by its EXIF orientation."""
    renamed: Mask
    broken: Mask
    shares: Mask
    splits: npt.NDArray[np.int8]
    """Position in SPLITS; -1 where neither annotations nor folders say one."""
    image: Ints
    boxes: Floats
    """x1, y1, x2, y2, in pixels or shares."""
    labels: npt.NDArray[np.int32]
    crowd: Mask
    places: Texts
    classes: Texts
    unnamed: Texts
    """Images of the tree that no annotation names."""
    links: Texts
    """Folders of the tree that are links which lead out of it, and are not followed."""
    notes: npt.NDArray[np.uint8]
    """JSON: [image, ...fields of Note] of each."""

    def __len__(self) -> int:
        return len(self.files)

    def image_notes(self) -> list[tuple[int, Note]]:
        """Return the faults that the reader met, each with its image."""
        return [(row, Note(*fields)) for row, *fields in json.loads(self.notes.tobytes())]


_TEXTS = ("files", "records", "written", "names", "places", "classes", "unnamed", "links")


def read_table(tree: Tree, kind: str, exif: Exif = "auto") -> Table:
    """Return all annotations of a data set in one of READERS' formats; from the cache when no file has changed."""
    held = tree.walk("")
    links = [name for name in held if name.endswith("/")]
    files = [name for name in held if name.lower().endswith(READERS[kind].suffix)]
    images = [name for name in held if name.lower().endswith(EXTENSIONS)]
    if not [name for name in files if kind != "csv" or not is_class_file(name)]:
        what = f"looked for {READERS[kind].suffix} files, as data.format={kind} has them; found none"
        raise DataError(what, file=tree.place, rule="ANN-E01", hint=f"There is {tree.listing(10)}.")
    key = content_key("annotated", kind, [(n, held[n]) for n in files], [(n, held[n]) for n in images], links)
    key = key if exif else f"{key}-stored"  # the sizes are those of the files
    columns = load_columns(key)
    if columns is None:
        columns = _columns(tree, kind, files, images, exif)
        packed = Texts.pack(links)
        columns |= {"links_bytes": packed.bytes, "links_first": packed.first}
        save_columns(key, columns)
    fields: dict[str, Any] = {n: Texts(columns[f"{n}_bytes"], columns[f"{n}_first"]) for n in _TEXTS}
    fields |= {n: c for n, c in columns.items() if not n.endswith(("_bytes", "_first"))}
    return Table(**fields)


def _columns(tree: Tree, kind: str, files: Sequence[str], images: Sequence[str], exif: Exif) -> Columns:
    annotated, order = read_files(tree, kind, files)
    known, records = ImageNames(images), _Records()
    for one in annotated:
        match = known.find(one.name, posixpath.dirname(one.file)) if one.name else None
        if match is None and one.also:
            match = known.find(one.also, posixpath.dirname(one.file))
        records.add(one, "" if match is None else match.name, match is not None and match.renamed)
    records.leave_out_foreign()
    names = sorted({name for name in records.names if name})
    sizes = dict(zip(names, image_sizes(tree, names, exif), strict=True))
    return records.columns(tree, sizes, order, sorted(set(images) - set(names)), READERS[kind].per_image)


class _Records:
    """The annotated images so far, each with the image of the tree that it is about."""

    def __init__(self) -> None:
        self.images: list[AnnotatedImage] = []
        self.names: list[str] = []
        self.renamed: list[bool] = []

    def add(self, image: AnnotatedImage, name: str, renamed: bool) -> None:
        self.images.append(image)
        self.names.append(name)
        self.renamed.append(renamed)

    def leave_out_foreign(self) -> None:
        """Files of another kind are worth a warning where there are others, and are the fault where there are none."""
        if any(not image.broken for image in self.images):
            for image in self.images:
                if image.foreign:
                    value = "; ".join(str(note.value) for note in image.notes)
                    image.notes.clear()
                    image.note("ANN-W26", "a file of another kind: left out", "files", value=value)

    def columns(
        self,
        tree: Tree,
        sizes: dict[str, tuple[int, int] | DataError],
        order: list[str],
        unnamed: list[str],
        per_image: bool,
    ) -> Columns:
        """Return the table's columns; the notes of the images' headers are added to those of their annotations."""
        images, names = self.images, self.names
        for image, name in zip(images, names, strict=True):
            error = sizes.get(name)
            if isinstance(error, DataError):
                image.broken = True
                image.note(error.rule, error.what, "images", f"image {name}", hint=error.hint)
        header = [sizes.get(name) for name in names]
        written_hw = _sizes(image.hw for image in images)
        header_hw = _sizes(size if isinstance(size, tuple) else None for size in header)
        swapped = (written_hw == header_hw[:, ::-1]).all(axis=1) & (written_hw != header_hw).any(axis=1)
        upright = np.zeros(len(images), bool)
        for i in np.flatnonzero(swapped).tolist():
            with open_image(tree.image(names[i])) as opened:
                upright[i] = opened.orientation > 4
        used = {name for image in images for name in image.classes}
        classes = order + sorted(used - set(order))
        number_of = {name: i for i, name in enumerate(classes)}
        splits = [
            image.split or split_of_path(_folders(image.file, per_image)) or split_of_path(posixpath.dirname(name))
            for image, name in zip(images, names, strict=True)
        ]
        notes = [
            (i, note.rule, note.what, note.kind, note.record, note.value, note.hint)
            for i, image in enumerate(images)
            for note in image.notes
        ]
        texts = {
            "files": [image.file for image in images],
            "records": [image.record for image in images],
            "written": [image.name for image in images],
            "names": names,
            "places": [place for image in images for place in image.places],
            "classes": classes,
            "unnamed": unnamed,
        }
        columns: Columns = {
            "written_hw": written_hw,
            "header_hw": header_hw,
            "upright": upright,
            "renamed": np.array(self.renamed, bool),
            "broken": np.array([image.broken for image in images], bool),
            "shares": np.array([image.shares for image in images], bool),
            "splits": np.array([-1 if split is None else SPLITS.index(split) for split in splits], np.int8),
            "image": np.repeat(np.arange(len(images)), [len(image.boxes) for image in images]),
            "boxes": np.array([box for image in images for box in image.boxes], np.float64).reshape(-1, 4),
            "labels": np.array([number_of[name] for image in images for name in image.classes], np.int32),
            "crowd": np.array([crowd for image in images for crowd in image.crowd], bool),
            "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
        }
        for name, values in texts.items():
            packed = Texts.pack([_encodable(value) for value in values])
            columns |= {f"{name}_bytes": packed.bytes, f"{name}_first": packed.first}
        return columns


def _folders(file: str, per_image: bool) -> str:
    return posixpath.dirname(file) if per_image else file


def _sizes(sizes: Iterable[tuple[int, int] | None]) -> Sizes:
    return np.array([size or (0, 0) for size in sizes], np.int32).reshape(-1, 2)


def _encodable(text: str) -> str:
    """The text without lone surrogates that JSON can hold and no file can."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
