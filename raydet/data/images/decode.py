"""Image files -> 8-bit RGB, by Pillow. Whatever is wrong with a file ends as a DataError that names the true cause.

Given up: torchvision.io (its decoding is deprecated) and formats whose parsers are a risk (EPS, PSD, HEIF).
Pixels are bit-identical to torchvision's and DALI's CPU decoding for RGB JPEG, without `shrink`.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from raydet.data.storage.files import Blob, Source
from raydet.exceptions import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of file names that are taken for images, in any case of letters."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
"""Default of data.max_pixels; Pillow alone only warns up to 179 million."""

DRAFTED = 0.5
"""JPEGs that are shown at this scale or less are decoded smaller, in training."""

_ORIENTATION = 0x0112
_PARSER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's parsers raise on damaged files (2 000 mutated files; Pillow 13.0)."""


class ImageFile:
    """An image file whose header is read; the pixels come with `load`."""

    def __init__(self, path: Source | str, image: Image.Image, exif: bool) -> None:
        self._path, self._image = path, image
        self._turn = exif and self.orientation != 1
        width, height = image.size
        across = self._turn and self.orientation > 4
        self.hw: tuple[int, int] = (width, height) if across else (height, width)
        """Height and width of the whole image, turned by EXIF if that was asked for."""

    def load(self, shrink: float = 1.0) -> tuple[Image.Image, int]:
        """Return the RGB image and by how much it is smaller than the file's: 1, 2, 4 or 8.

        Args:
            shrink: scale at which the image will be used. At 1/2 and below a JPEG is decoded at 1/2, 1/4 or 1/8
                where that is still large enough: faster, with slightly other pixels, so for training only.

        Raises:
            DataError: the image is damaged, or has 32-bit pixels.
        """
        try:
            factor = self._draft(shrink)
            self._image.load()
            turned = ImageOps.exif_transpose(self._image) if self._turn else self._image
            return _rgb(self._path, turned), factor
        except _PARSER_ERRORS as error:
            raise _cause(self._path, error) from None

    @property
    def kind(self) -> tuple[str, str]:
        """Format and mode as Pillow names them, e.g. ("JPEG", "RGB")."""
        return self._image.format or "", self._image.mode

    @property
    def deep(self) -> bool:
        """Whether it has 16 bits a channel; known until it is loaded."""
        return self._image.mode.startswith("I;16") or any(
            ";16" in str(tile[3]) for tile in getattr(self._image, "tile", ())
        )

    @property
    def orientation(self) -> int:
        """What EXIF says of it, 1 (upright) to 8."""
        try:
            orientation = self._image.getexif().get(_ORIENTATION, 1)  # of a PNG this decodes the pixels first
        except _PARSER_ERRORS:
            return 1  # decoding will tell what is wrong
        return orientation if orientation in range(2, 9) else 1

    @property
    def frames(self) -> int:
        """Images in the file, more than 1 of an animation."""
        try:
            return int(getattr(self._image, "n_frames", 1))
        except _PARSER_ERRORS:
            return 1  # decoding will tell what is wrong

    @property
    def turned(self) -> bool:
        """Whether its EXIF orientation is applied."""
        return self._turn

    def _draft(self, shrink: float) -> int:
        image = self._image
        if shrink > DRAFTED or image.format != "JPEG":
            return 1
        factor = min(8, 1 << int(np.log2(1 / shrink)))
        width, height = image.size
        drafted = image.draft(None, (max(1, width // factor), max(1, height // factor)))
        return 1 if drafted is None else round(width / drafted[1][2])


@contextmanager
def open_image(path: Source | str, *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """Open an image file for the length of the block and read its header.

    Raises:
        DataError: missing, empty, no image, a damaged header, or more pixels than allowed.
    """
    try:
        if byte_count(path) == 0:
            raise DataError("is empty", file=path, rule="IMG-E02")
        image = _open(path, max_pixels)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), max_pixels) from None
    except _PARSER_ERRORS as error:  # UnidentifiedImageError is an OSError
        raise _cause(path, error) from None
    with image:
        if image.size[0] * image.size[1] > max_pixels:
            raise _too_large(path, f"{image.size[0]} x {image.size[1]} pixels", max_pixels)
        try:
            opened = ImageFile(path, image, exif)
        except _PARSER_ERRORS as error:
            raise _cause(path, error) from None
        yield opened


def loaded(source: Source) -> Blob:
    """Return the source's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    if isinstance(source, Blob):
        return source
    try:
        byte_count(source)  # refuses what has no end
        return Blob(str(source), source.read_bytes())
    except OSError as error:
        raise _cause(source, error) from None


def read_rgb(path: Source | str, exif: bool = False, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return an image file's pixels_HW3, uint8 RGB. Of an animation: the first frame. Transparency is dropped.

    Raises:
        DataError: as `open_image` and `Image.load`.
    """
    with open_image(path, exif=exif, max_pixels=max_pixels) as opened:
        return np.asarray(opened.load()[0])


def read_size(path: Source | str) -> tuple[int, int]:
    """Return height and width from an image file's header."""
    with open_image(path) as opened:
        return opened.hw


def byte_count(path: Source | str) -> int:
    """Return how many bytes a source has.

    Raises:
        DataError: it is no file but a pipe, a device or a folder: never read, as it may not end.
        OSError: there is none.
    """
    if isinstance(path, Blob):
        return len(path.data)
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise DataError("is not a file", file=path, rule="IMG-E01")
    return info.st_size


def _open(path: Source | str, max_pixels: int) -> Image.Image:
    file = io.BytesIO(path.data) if isinstance(path, Blob) else path
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or max_pixels <= 2 * limit:
        return Image.open(file, formats=FORMATS)
    Image.MAX_IMAGE_PIXELS = None  # Pillow would refuse what data.max_pixels allows; ours is checked on the same header
    try:
        return Image.open(file, formats=FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _too_large(path: Source | str, size: str, max_pixels: int) -> DataError:
    what, hint = f"is larger than data.max_pixels={max_pixels}: {size}", "Raise it if the image is wanted."
    return DataError(what, file=path, rule="IMG-E05", hint=hint)


def _cause(path: Source | str, error: BaseException) -> DataError:
    """What is wrong with the file, as far as its first bytes and the parser tell."""
    if isinstance(error, DataError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(error.strerror or str(error), file=path, rule="IMG-E01", hint=_other_case(Path(str(path))))
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"is {_kind(_head(path))}", file=path, rule="IMG-E03")
    cut = any(word in str(error).lower() for word in ("truncated", "eof", "end of file"))
    return DataError(f"is {'cut short' if cut else 'damaged'}: {error}", file=path, rule="IMG-E04")


def _head(path: Source | str) -> bytes:
    if isinstance(path, Blob):
        return path.data[:64]
    with open(path, "rb") as file:
        return file.read(64)


def _other_case(path: Path) -> str | None:
    """Hint at a file whose name differs in upper and lower case only."""
    try:
        near = [name for name in os.listdir(path.parent) if name.lower() == path.name.lower() != name]
    except OSError:
        return None
    return f"There is {near[0]}: the names differ in upper and lower case." if near else None


def _kind(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page or XML, not an image"
    if head.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*", b"MM\0*")):
        return "an image with a damaged or cut header"
    if not head.strip(b"\0"):
        return "zeros, not an image"
    if all(31 < byte < 127 or byte in b"\r\n\t" for byte in head):
        return f"text, not an image: {head[:24].decode()!r}"
    return f"not one of {', '.join(FORMATS)} (starts with {head[:8].hex(' ')})"


def _rgb(path: Source | str, image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # convert("RGB") would saturate: a mean of 155 becomes 255
        grey_HW = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(grey_HW).convert("RGB")
    if image.mode in ("I", "F"):
        what, hint = f"has 32-bit pixels ({image.mode}), whose range is unknown", "Convert it to 8 or 16 bits."
        raise DataError(what, file=path, rule="IMG-E06", hint=hint)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as straight to RGB, without Pillow's warning
    return image.convert("RGB")
