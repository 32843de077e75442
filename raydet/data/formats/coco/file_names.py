"""Names of images as tools write them, and the files they mean: one way of reading for a whole split, by evidence.

Label Studio and others begin a name with the folder that the images lie in, or write it percent-encoded; names from
Windows have backslashes; names from macOS may have another Unicode form than the file. Which of these a split needs is
found out from some of its names, so that a million cost no more than twenty, and is said (COCO-W51). Given up: splits
whose names need two different ways.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import unquote

import numpy as np

from raydet.data.columns import Texts, spread_over
from raydet.data.formats.coco.images import PLAIN_NAME, check_name
from raydet.data.storage.files import Files
from raydet.exceptions import DataError

_PROBES = 20
"""Names whose files are looked for, and as many again of those with unusual letters."""
_USUAL = np.zeros(256, bool)
_USUAL[[byte for byte in range(128) if PLAIN_NAME.fullmatch(chr(byte)) or chr(byte) in "./-"]] = True
_DEEPEST = 6
"""Folders that a name may begin with in vain."""


@dataclass(frozen=True, slots=True)
class NameReading:
    """How the names of a split are read as names of files."""

    strip: int = 0
    """Leading folders that are left out."""
    slashes: bool = False
    """Backslashes are folders' ends."""
    decode: bool = False
    """%20 is a space."""
    spelling: dict[str, str] = field(default_factory=dict)
    """Name in Unicode's composed form -> as the file has it."""

    def __call__(self, name: str) -> str:
        """Return the file's name; one that would lead out of its folder stays as it is written."""
        read = unquote(name) if self.decode else name
        read = read.replace("\\", "/") if self.slashes else read
        if self.strip:
            read = read.split("/", self.strip)[-1] if read.count("/") >= self.strip else read
        if self.spelling and not read.isascii():
            read = self.spelling.get(unicodedata.normalize("NFC", read), read)
        if read == name or (PLAIN_NAME.fullmatch(read) and ".." not in read):
            return read
        finding = check_name(read)
        return name if finding is not None and "-E" in finding[0] else read

    @property
    def said(self) -> str:
        """What is done, in words."""
        parts = [
            f"without the {self.strip} folder{'s' * (self.strip > 1)} they begin with" if self.strip else "",
            "backslashes as /" if self.slashes else "",
            "percent-decoded" if self.decode else "",
            "in the Unicode form of the files" if self.spelling else "",
        ]
        return "file names are read " + " and ".join(filter(None, parts))


AS_WRITTEN = NameReading()


@dataclass(frozen=True, slots=True)
class Located:
    """Where the images of a split lie."""

    files: Files
    reading: NameReading
    tried: int
    found: int
    """Of the names tried, those that have a file."""


def locate(names: Texts, places: Sequence[Files]) -> Located:
    """Return the place and the reading under which most of some names have files; of equals the first and simplest.

    Args:
        names: a split's names as they are written; "" for those that were refused.
        places: where the images may lie, the likeliest first.
    """
    probes = _probes(names)
    best = Located(places[0], AS_WRITTEN, len(probes), 0)
    for place, reading in ((place, reading) for place in places for reading in _readings(probes)):
        if best.found == len(probes):
            break
        # Another reading that finds none of three names is none: stores answer slowly.
        few = spread_over(len(probes), 3).tolist()
        if reading is not AS_WRITTEN and not any(_exists(place, reading(probes[i])) for i in few):
            continue
        found = sum(_exists(place, reading(name)) for name in probes)
        if found > best.found and (reading is AS_WRITTEN or _one_to_one(reading, names)):
            best = Located(place, reading, len(probes), found)
    if best.found < len(probes) and not all(map(str.isascii, probes)):
        best = _respelt(best, probes, places, names)
    return best


def _probes(names: Texts) -> list[str]:
    """Some names, and some of those with unusual letters; no name but these is unpacked."""
    odd_bytes = np.flatnonzero(~_USUAL[names.bytes])
    odd = np.unique(np.searchsorted(names.first, odd_bytes, side="right") - 1)
    rows = [*spread_over(len(names), _PROBES), *(odd[spread_over(len(odd), _PROBES)] if len(odd) else [])]
    found = [names[row] for row in dict.fromkeys(map(int, rows))]
    return [name for name in found if name]


def _readings(probes: Sequence[str]) -> Iterator[NameReading]:
    """Every way to read the names, the simplest first."""
    slashes = [False, True] if any("\\" in name for name in probes) else [False]
    decode = [False, True] if any("%" in name for name in probes) else [False]
    deepest = min((unquote(name).replace("\\", "/").count("/") for name in probes), default=0)
    yield AS_WRITTEN
    for strip, decoded, slashed in product(range(min(deepest, _DEEPEST) + 1), decode, slashes):
        if strip or decoded or slashed:
            yield NameReading(strip, slashed, decoded)


def _exists(place: Files, name: str) -> bool:
    try:
        return place.exists(name)
    except DataError:  # it leads out
        return False


def _one_to_one(reading: NameReading, names: Texts) -> bool:
    """Whether no two images become one: a/1.jpg and b/1.jpg are not 1.jpg."""
    given = {name for name in names.tolist() if name}
    return len({reading(name) for name in given}) == len(given)


def _respelt(best: Located, probes: Sequence[str], places: Sequence[Files], names: Texts) -> Located:
    """Return what finds more with the files' own Unicode forms, which a walk through the folder tells."""
    for place in [best.files] if best.found else places:
        walk: Any = getattr(place, "walk", None)
        if walk is None:
            continue
        spelling = {unicodedata.normalize("NFC", name): name for name in walk("") if not name.isascii()}
        for plain in [best.reading] if best.found else _readings(probes):
            reading = NameReading(plain.strip, plain.slashes, plain.decode, spelling)
            found = sum(_exists(place, reading(name)) for name in probes)
            if spelling and found > best.found and _one_to_one(reading, names):
                best = Located(place, reading, len(probes), found)
    return best
