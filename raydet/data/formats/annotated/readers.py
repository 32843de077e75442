"""The formats of annotated images: which files hold them, and who reads those."""

import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from raydet.data.formats.annotated.createml import read_createml
from raydet.data.formats.annotated.csv_rows import read_classes, read_csv
from raydet.data.formats.annotated.cvat import read_cvat
from raydet.data.formats.annotated.labelme import read_labelme
from raydet.data.formats.annotated.labelstudio import read_labelstudio
from raydet.data.formats.annotated.records import AnnotatedImage, broken
from raydet.data.formats.annotated.voc import read_voc
from raydet.data.formats.annotated.xml_stream import MOST_FILE_BYTES
from raydet.data.formats.image_sizes import THREADS
from raydet.data.storage.files import Tree
from raydet.exceptions import DataError

_AHEAD = 64
"""Files that are read before they are parsed: what is held is bounded, also where each holds a copy of its image."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One format."""

    suffix: str
    per_image: bool
    """One file an image, so that a file's own name says nothing about its split."""
    states_size: bool
    """Whether sizes are usually written."""
    most: int
    """Bytes of a file."""
    read: Callable[[str, bytes], Iterator[AnnotatedImage]] | None = None
    """Parser of a file's bytes; None for what is streamed."""


READERS = {
    "voc": Reader(".xml", True, True, MOST_FILE_BYTES, read_voc),
    "labelme": Reader(".json", True, True, 256 << 20, read_labelme),
    "cvat": Reader(".xml", False, True, 1 << 40),
    "labelstudio": Reader(".json", False, True, 1 << 30, read_labelstudio),
    "createml": Reader(".json", False, False, 1 << 30, read_createml),
    "csv": Reader(".csv", False, False, 1 << 30),
}


def is_class_file(file: str) -> bool:
    """Return whether a CSV file is one of classes, by its name."""
    return "class" in posixpath.basename(file).lower()


def read_files(tree: Tree, kind: str, files: Iterable[str]) -> tuple[Iterator[AnnotatedImage], list[str]]:
    """Return what the annotation files of a format hold, read as it is asked for, and the classes in order where a file
    says so."""
    reader = READERS[kind]
    if kind == "cvat":
        return (image for file in files for image in _streamed(tree, file)), []
    if kind != "csv":
        assert reader.read is not None
        return _parsed(tree, files, reader.most, reader.read), []
    order, class_of = list[str](), dict[str, str]()
    for file in filter(is_class_file, files):
        names, descriptions = read_classes(tree.read(file, 64 << 20))
        order = order or names
        class_of |= descriptions
    tables = [file for file in files if not is_class_file(file)]
    return _parsed(tree, tables, reader.most, partial(read_csv, class_of=class_of, classes=frozenset(order))), order


def _parsed(
    tree: Tree, files: Iterable[str], most: int, read: Callable[[str, bytes], Iterator[AnnotatedImage]]
) -> Iterator[AnnotatedImage]:
    waiting = iter(files)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(waiting, _AHEAD)):
            for file, data in zip(some, pool.map(lambda file: _bytes(tree, file, most), some), strict=True):
                if isinstance(data, DataError):
                    yield broken(file, "ANN-E02", data.what, data.hint)
                else:
                    yield from read(file, data)


def _bytes(tree: Tree, file: str, most: int) -> bytes | DataError:
    try:
        return tree.read(file, most)
    except DataError as error:
        return error


def _streamed(tree: Tree, file: str) -> Iterator[AnnotatedImage]:
    try:
        path = tree.fetch(file)
    except DataError as error:
        yield broken(file, "ANN-E02", error.what, error.hint)
        return
    yield from read_cvat(file, path)
