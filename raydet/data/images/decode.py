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
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from raydet.data.images.deep import Scaled, is_colour, is_deep, scaled
from raydet.data.storage.files import Blob, Source
from raydet.exceptions import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of file names that are taken for images, in any case of letters."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 100_000_000
"""Default of data.max_pixels; Pillow alone only warns up to 179 million."""

DRAFTED = 0.5
"""JPEGs that are shown at this scale or less are decoded smaller, in training."""

Exif = Literal["auto"] | bool
"""data.exif."""
HW = tuple[int, int]
"""Height and width."""

ORIENTATION = 0x0112
"""EXIF's tag."""
PARSER_ERRORS = (
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


def may_turn(exif: Exif, hw: HW, stated: HW | None) -> bool:
    """Return whether an image's EXIF orientation, if it has one, is applied.

    Args:
        exif: auto: where `stated` is the size of the turned image and not of the stored one, or nothing is stated.
        hw: of the image as it is stored.
        stated: of the image as it is annotated; None: nothing says it.
    """
    if exif != "auto" or stated is None:
        return bool(exif)
    return stated == hw[::-1] != hw


class ImageFile:
    """An image file whose header is read; the pixels come with `load`."""

    def __init__(
        self, path: Source | str, image: Image.Image, exif: Exif = False, stated: HW | None = None, max_pixels: int = 0
    ) -> None:
        self._path, self._image, self._max_pixels = path, image, max_pixels
        self.deep = is_deep(image)
        """Whether it has more than 8 bits a channel."""
        self.scaled: Scaled | None = None
        """How these became 8, of a deep image that is loaded."""
        width, height = image.size
        self._turn = may_turn(exif, (height, width), stated) and self._early_orientation(exif) != 1
        across = self._turn and self.orientation > 4
        self.hw: HW = (width, height) if across else (height, width)
        """Height and width of the whole image, turned by EXIF if that is to be applied."""

    def load(self, shrink: float = 1.0) -> tuple[Image.Image, int]:
        """Return the RGB image and by how much it is smaller than the file's: 1, 2, 4 or 8.

        Args:
            shrink: scale at which the image will be used. At 1/2 and below a JPEG is decoded at 1/2, 1/4 or 1/8
                where that is still large enough: faster, with slightly other pixels, so for training only.

        Raises:
            DataError: the image is damaged, or has 32-bit pixels that are no numbers.
        """
        try:
            factor = self._draft(shrink)
            self._image.load()
            image = self._eight_bits() if self.deep else _rgb(self._image)
            if self._turn and self.orientation in _TRANSPOSED:
                image = image.transpose(_TRANSPOSED[self.orientation])
            return image, factor
        except PARSER_ERRORS as error:
            raise _cause(self._path, error) from None

    @property
    def kind(self) -> tuple[str, str]:
        """Format and mode as Pillow names them, e.g. ("JPEG", "RGB")."""
        return self._image.format or "", self._image.mode

    def _eight_bits(self) -> Image.Image:
        """Note how a deep image, loaded, becomes 8 bits; return it."""
        try:
            if is_colour(self._image):
                with _open(self._path, self._max_pixels) as again:
                    self.scaled = scaled(self._image, again)
            else:
                self.scaled = scaled(self._image, None)
        except ValueError as error:
            what, hint = f"has 32-bit pixels that cannot be shown: {error}", "Convert it to 8 or 16 bits."
            raise DataError(what, file=self._path, rule="IMG-E06", hint=hint) from None
        return _rgb(Image.fromarray(self.scaled.pixels))

    def _early_orientation(self, exif: Exif) -> int:
        """`orientation`; of a PNG what stands before its pixels, but where turning was asked for: no header is worth
        decoding the image for."""
        late = self._image.format == "PNG" and exif == "auto"
        return 1 if late and not {"exif", "xmp", "XML:com.adobe.xmp"} & self._image.info.keys() else self.orientation

    @property
    def orientation(self) -> int:
        """What EXIF says of it, 1 (upright) to 8; of a TIFF 1, for Pillow shows these upright by itself."""
        if self._image.format == "TIFF":
            return 1
        try:
            orientation = self._image.getexif().get(ORIENTATION, 1)  # of a PNG this decodes the pixels first
        except PARSER_ERRORS:
            return 1  # decoding will tell what is wrong
        return orientation if orientation in range(2, 9) else 1

    @property
    def frames(self) -> int:
        """Images in the file, more than 1 of an animation."""
        try:
            return int(getattr(self._image, "n_frames", 1))
        except PARSER_ERRORS:
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
def open_image(
    path: Source | str, *, exif: Exif = False, stated: HW | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[ImageFile]:
    """Open an image file for the length of the block and read its header; `exif` and `stated` as in `may_turn`.

    Raises:
        DataError: missing, empty, no image, a damaged header, or more pixels than allowed.
    """
    try:
        if byte_count(path) == 0:
            raise DataError("is empty", file=path, rule="IMG-E02")
        image = _open(path, max_pixels)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), max_pixels) from None
    except PARSER_ERRORS as error:  # UnidentifiedImageError is an OSError
        raise _cause(path, error) from None
    with image:
        if image.size[0] * image.size[1] > max_pixels:
            raise _too_large(path, f"{image.size[0]} x {image.size[1]} pixels", max_pixels)
        try:
            opened = ImageFile(path, image, exif, stated, max_pixels)
        except PARSER_ERRORS as error:
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


def read_rgb(
    path: Source | str, exif: Exif = False, max_pixels: int = MAX_PIXELS, stated: HW | None = None
) -> npt.NDArray[np.uint8]:
    """Return an image file's pixels_HW3, uint8 RGB. Of an animation: the first frame. Transparency is dropped, what has
    more than 8 bits a channel is scaled (`raydet.data.images.deep`); `exif` and `stated` as in `may_turn`.

    Raises:
        DataError: as `open_image` and `Image.load`.
    """
    with open_image(path, exif=exif, stated=stated, max_pixels=max_pixels) as opened:
        return np.asarray(opened.load()[0])


def read_size(path: Source | str, exif: Exif = "auto") -> HW:
    """Return height and width from an image file's header, as it is shown: turned, where `exif` is not False."""
    with open_image(path, exif=exif) as opened:
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


_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to show an image upright, by its EXIF orientation."""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as straight to RGB, without Pillow's warning
    return image.convert("RGB")
