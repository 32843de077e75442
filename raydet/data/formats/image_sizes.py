"""Height and width of a data set's images, from their headers."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from raydet.data.images.decode import Exif, read_size
from raydet.data.storage.files import Blob, Tree
from raydet.exceptions import DataError

THREADS = 16
"""Files are waited for more than worked on, the more so when they are remote."""


def image_sizes(tree: Tree, names: Sequence[str], exif: Exif = "auto") -> list[tuple[int, int] | DataError]:
    """Return each image's height and width, or why its header cannot be read.

    Args:
        exif: data.exif; of a turned image the size is the turned one, unless this is False.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda name: _size(tree, name, exif), names))


def _size(tree: Tree, name: str, exif: Exif) -> tuple[int, int] | DataError:
    try:
        header = tree.header(name)
        try:
            return read_size(header, exif)
        except DataError:
            if not isinstance(header, Blob):
                raise
            return read_size(tree.image(name), exif)  # a header behind more than 64 KiB of other things
    except DataError as error:
        return error
