"""One image looked at closely: what is wrong with its file, what is unusual, and two prints to find it again by.

Decoded at an eighth where that is a JPEG: damage shows as in the whole image, since all of the file is read, at a
third of the time. Bit rot that still is a valid JPEG decodes everywhere without a word; nothing here can see it.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from raydet.config import Config
from raydet.data.columns import spread_over
from raydet.data.formats.index import DetectionIndex, Index
from raydet.data.images.decode import ImageFile, byte_count, loaded
from raydet.data.loading.samples import check_size, opened, stated_size
from raydet.data.storage.files import Blob, Source
from raydet.data.validation.faults import Faults
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError

_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
_QUICK = 32
"""Images of a split that `fit` opens before it starts."""
_TOLD = ("IMG-W10", "IMG-W11")
"""What is done to an image's pixels, which `fit` says before it starts."""
_MOST_HELD = 64 << 20
"""Bytes of a file that are held; a larger one is hashed in pieces and opened where it lies."""
_MOST_SCANS = 100
_SMALL = 32
"""A shorter side than this is worth a word; training detectors leaves such images out."""


@dataclass(slots=True)
class Looked:
    """What one image is like."""

    row: int
    name: str
    sha1: bytes = b""
    """Of the file's bytes; b"" where they could not be read."""
    dhash: int | None = None
    """64 bits of which neighbours in a 9 x 8 grey miniature are brighter (Krawetz 2013). None: not decoded."""
    miniature: bytes = b""
    """16 x 16 grey levels."""
    hw: tuple[int, int] | None = None
    bytes: int = 0
    notes: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Rule, what, and hint of each fault."""

    @property
    def broken(self) -> bool:
        """Whether it cannot be trained on."""
        return any("-E" in rule for rule, _, _ in self.notes)


def look(cfg: Config, index: Index, row: int) -> Looked:
    """Return what the image of a row is like; nothing about it raises."""
    seen = Looked(row, index.names[row])
    try:
        source = _hashed(index.image(row), seen)
        with opened(cfg, source, stated_size(index, row)) as image_file:
            if isinstance(source, Blob) and image_file.kind[0] == "JPEG":
                _look_into(seen, source.data)
            _look_at(cfg, index, seen, image_file)
    except DataError as error:
        seen.notes.append((error.rule, error.what, error.hint))
    return seen


def _hashed(source: Source, seen: Looked) -> Source:
    """Note an image's length and SHA-1; return what to decode."""
    with suppress(OSError):  # `loaded` says what is wrong
        if isinstance(source, Path) and (size := byte_count(source)) > _MOST_HELD:
            with source.open("rb") as file:
                seen.sha1 = hashlib.file_digest(file, _sha1).digest()
            seen.bytes = size
            return source
    blob = loaded(source)
    seen.bytes, seen.sha1 = len(blob.data), _sha1(blob.data).digest()
    return blob


def _sha1(data: bytes = b"") -> "hashlib._Hash":
    return hashlib.sha1(data, usedforsecurity=False)


def _look_into(seen: Looked, data: bytes) -> None:
    """Note what a JPEG's bytes tell without decoding them.

    Raises:
        DataError: decoding it could take minutes.
    """
    scans = data.count(b"\xff\xda")  # cannot be within a scan: there 0xff is followed by 0
    if scans > _MOST_SCANS:
        raise DataError(f"has {scans} scans", rule="IMG-E18", hint="Save it again; no camera writes more than ten.")
    if len(data) > 4096 and not any(data[-1024:]):
        hint = "A download or a disk has failed, or it was padded; look at it."
        seen.notes.append(("IMG-W19", "ends in zeros", hint))


def _look_at(cfg: Config, index: Index, seen: Looked, image_file: ImageFile) -> None:
    seen.hw = image_file.hw
    kind, mode = image_file.kind
    note = seen.notes.append
    if kind in _ENDINGS and not seen.name.lower().endswith(_ENDINGS[kind]) and "." in seen.name.rpartition("/")[2]:
        note(("IMG-W08", f"is a {kind}, whatever its name says", None))
    if mode == "CMYK":
        note(("IMG-W09", "is in CMYK: converted without its colour profile", "Convert it to RGB if colours matter."))
    if image_file.frames > 1:
        note(("IMG-W12", f"has {image_file.frames} frames: the first is used", None))
    if min(image_file.hw) < _SMALL:
        use = "; training leaves it out" if isinstance(index, DetectionIndex) else ""
        note(("IMG-W13", f"is {image_file.hw[1]} x {image_file.hw[0]} pixels small{use}", None))
    if isinstance(index, DetectionIndex):
        try:
            check_size(index, seen.row, image_file)
        except DataError as error:
            note((error.rule, error.what, error.hint))
    image, _ = image_file.load(1 / 8)
    grey = image.convert("L")
    seen.dhash = dhash(grey)
    seen.miniature = grey.resize((16, 16), Image.Resampling.BOX).tobytes()
    if image_file.scaled is not None:
        note(("IMG-W10", f"{image_file.scaled}{_left(grey)}", None))
    if image_file.orientation != 1:
        how, hint = _turning(cfg, image_file)
        note(("IMG-W11", f"has EXIF orientation {image_file.orientation}: {how}", hint))


def _turning(cfg: Config, image_file: ImageFile) -> tuple[str, str | None]:
    """Return in words whether a file with an orientation is turned and why, and what to do if that is wrong."""
    if image_file.turned:
        return "it is turned", None
    wrong = "Were the annotations made on the turned image, set data.exif="
    if cfg.data.exif is False:
        return "it is not turned (data.exif=false)", f"{wrong}auto."
    if image_file.orientation > 4 and image_file.hw[0] != image_file.hw[1]:
        return "it is not turned, as its annotations are for the stored size", None
    return "it is not turned, as its size is the same either way", f"{wrong}true."


def _left(grey: Image.Image) -> str:
    """Return in words that an image of more than 8 bits has next to nothing left; "" where it has."""
    counts = sorted(grey.histogram(), reverse=True)
    if sum(counts[:4]) < 0.999 * sum(counts):
        return ""
    return f"; nearly blank, {sum(count > 0 for count in counts)} grey levels are left"


def dhash(grey: Image.Image) -> int:
    """Return the 64-bit difference hash of a grey image."""
    grey_89 = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grey_89[:, 1:] > grey_89[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def quick_look(cfg: Config, index: Index, images: int = _QUICK) -> None:
    """Open and decode some images spread over a split; what is done to unusual ones is added to its warnings.

    Raises:
        DataError: one cannot be used (data.on_bad=fail), or too many of them (skip).
    """
    seen = [look(cfg, index, row) for row in spread_over(len(index), images).tolist()]
    faults = Faults()
    for one in seen:
        for rule, what, hint in (note for note in one.notes if "-E" in note[0]):
            error = DataError(what, rule=rule, file=f"{index.files.place}/{one.name}", hint=hint)
            if cfg.data.on_bad == "fail":
                raise error
            faults.add_error(error, kind="images")
    broken = sum(one.broken for one in seen)
    # Of so few images a single one would be over the limit; more than a few are no chance.
    if broken > max(3, 3 * cfg.data.max_bad * len(seen)):
        raise faults.error()
    for rule in _TOLD:
        found = [(one.name, what) for one in seen for noted, what, _ in one.notes if noted == rule]
        if found:
            name, what = found[0]
            index.warnings.append(f"{RULES[rule]}, {len(found)} of {len(seen)} looked at: {name} {what} ({rule})")
