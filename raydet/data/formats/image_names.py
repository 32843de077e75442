"""Which image of a data set a name in an annotation file means.

Tools write folders that are gone, Windows separators, percent-encoding, another Unicode form, another suffix. A name is
only ever matched with files that are there: none leads out of the data set. Of several files none is chosen by chance.
"""

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from raydet.data.formats.split_names import split_of_path
from raydet.data.images.decode import EXTENSIONS

_IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img", "data")
"""Where images lie that are not beside their annotations; the first that holds a name is meant."""


@dataclass(frozen=True, slots=True)
class Match:
    """An image that a written name means."""

    name: str
    """As the data set's tree spells it."""
    renamed: bool
    """Its base name differs from a written one in suffix, or in upper and lower case."""


class ImageNames:
    """The image files of a data set, to be found by what annotations call them."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the images' names in the data set's tree, with / between folders."""
        self._exact: dict[str, str] = {}
        self._by_base: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in names:
            base = _base(name).casefold()
            self._exact.setdefault(_nfc(name), name)
            self._by_base.setdefault(base, []).append(name)
            self._by_stem.setdefault(posixpath.splitext(base)[0], []).append(name)

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, written: str, beside: str = "") -> Match | None:
        """Return the image that `written` means; None where there is none, or several that fit equally well.

        Tried in this order: the path from `beside` and from the tree's root; the base name in any folder, first with
        the folders that were written, then beside the annotation, then in images/ or JPEGImages/; in another case
        of letters; with another suffix, or without one. An image in a folder of another split is not taken.

        Args:
            beside: folder of the annotation file in the tree; "" for its root.
        """
        spellings = list(_spellings(written))
        for spelling in spellings:
            for base in dict.fromkeys((beside, "")):
                found = self._exact.get(_nfc(posixpath.normpath(posixpath.join(base, spelling))))
                if found is not None:
                    return Match(found, False)
        for spelling in spellings:
            wanted = posixpath.basename(_nfc(spelling))
            same = self._by_base.get(wanted.casefold(), [])
            for candidates, renamed in (([n for n in same if _base(n) == wanted], False), (same, True)):
                if candidates:
                    return _match(candidates, spelling, beside, renamed)
        for spelling in spellings:
            base = _base(spelling).casefold()
            for stem in dict.fromkeys((base, posixpath.splitext(base)[0])):
                if candidates := self._by_stem.get(stem, []):
                    return _match(candidates, spelling, beside, base.endswith(EXTENSIONS))
        return None


def _match(candidates: list[str], spelling: str, beside: str, renamed: bool) -> Match | None:
    """The candidate that fits best, unless another fits as well or it belongs to another split."""
    wanted = split_of_path(posixpath.dirname(spelling)) or split_of_path(beside)
    fitting = [n for n in candidates if wanted is None or split_of_path(posixpath.dirname(n)) in (None, wanted)]
    ranked = sorted((_rank(name, spelling, beside), name) for name in fitting)
    if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None
    return Match(ranked[0][1], renamed)


def _rank(name: str, spelling: str, beside: str) -> tuple[int, bool, int]:
    """How badly a candidate fits: fewer written folders, not beside the annotation, an unusual folder."""
    have, want = _nfc(name).split("/")[-2::-1], _nfc(spelling).split("/")[-2::-1]
    common = next((i for i, (a, b) in enumerate(zip(have, want, strict=False)) if a != b), min(len(have), len(want)))
    folders = [part.lower() for part in have]
    known = min((_IMAGE_FOLDERS.index(part) for part in folders if part in _IMAGE_FOLDERS), default=len(_IMAGE_FOLDERS))
    return -common, posixpath.dirname(name) != beside, known


def _spellings(written: str) -> Iterator[str]:
    """The name as it stands, then with / for backslashes, then without percent-encoding; without a URL's beginning."""
    forms = [written, written.replace("\\", "/")]
    forms += [unquote(form, errors="surrogateescape") for form in forms if "%" in form]
    for form in dict.fromkeys(forms):
        path = form.partition("://")[2].partition("?")[0] if "://" in form else form
        yield path.lstrip("/") if path.strip("/") else path


def _base(name: str) -> str:
    return posixpath.basename(_nfc(name))


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)
