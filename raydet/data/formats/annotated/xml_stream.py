"""XML of unknown origin, read in bounded memory: no DTD, no entities, no depth, no element larger than an image's.

defusedxml refuses what an XML parser could be made to fetch or to expand; the bounds here hold for what it passes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers.expat import ExpatError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from raydet.exceptions import DataError

MOST_FILE_BYTES = 4 << 20
"""Of a file for one image: of the smallest elements there are, parsed they take some 100 MB."""
_MOST_BYTES = 16 << 20
"""Of one image's annotations in a file for many."""
_DEPTH = 32
_MOST_ELEMENTS = 500_000
_CHUNK = 1 << 18


def parse_xml(data: bytes) -> Element:
    """Return the root element of a small XML file.

    Raises:
        DataError: it is not well-formed, too large, too deep, or has a DTD.
    """
    if len(data) > MOST_FILE_BYTES:
        raise DataError(f"the file has more than {MOST_FILE_BYTES} bytes", rule="XML-E03")
    parser, builder = _parser(), TreeBuilder()
    expat = parser.parser
    expat.StartElementHandler, expat.EndElementHandler = builder.start, builder.end
    expat.CharacterDataHandler = builder.data
    with _faults():
        parser.feed(data)
        expat.Parse(b"", True)
    root = builder.close()
    level = list(root)
    for _ in range(_DEPTH - 1):
        level = [inner for element in level for inner in element]
    if level:
        raise DataError(f"elements lie more than {_DEPTH} deep in each other", rule="XML-E03")
    return root


def _parser() -> Any:
    """A parser that refuses what is unsafe, whose handlers are to be set: its own, in Python, take twice as long."""
    parser: Any = DefusedXMLParser(forbid_dtd=True)
    parser.parser.ordered_attributes = False
    return parser


def stream_xml(path: Path, tags: tuple[str, ...]) -> Iterator[Element]:
    """Yield the root, empty, and then each child of it that has one of the tags, whole.

    Raises:
        DataError: as `parse_xml`, where the bounds on size hold for each child.
    """
    reader = _Reader(tags)
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                reader.feed(data)
                yield from reader.taken()
    except OSError as error:
        raise DataError(error.strerror or str(error), rule="XML-E01") from None
    reader.close()
    yield from reader.taken()


class _Reader:
    """Builds one child of the root at a time, within the bounds."""

    def __init__(self, tags: tuple[str, ...]) -> None:
        self._tags, self._depth, self._bytes, self._count = tags, 0, 0, 0
        self._builder = TreeBuilder()
        self._ready: list[Element] = []
        self._parser = _parser()
        self._expat: Any = self._parser.parser
        self._expat.StartElementHandler, self._expat.EndElementHandler = self._start, self._end
        self._expat.CharacterDataHandler = self._builder.data

    def feed(self, data: bytes) -> None:
        """Parse some more bytes."""
        self._bytes += len(data)
        if self._bytes > _MOST_BYTES + _CHUNK:
            raise DataError(f"what is said of one image has more than {_MOST_BYTES} bytes", rule="XML-E03")
        with _faults():
            self._parser.feed(data)

    def close(self) -> None:
        """Raise DataError if the root is not complete."""
        with _faults():
            self._expat.Parse(b"", True)

    def taken(self) -> list[Element]:
        """Return the elements that are complete since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._count += 1
        if self._depth > _DEPTH:
            raise DataError(f"elements lie more than {_DEPTH} deep in each other", rule="XML-E03")
        if self._count > _MOST_ELEMENTS:
            raise DataError(f"what is said of one image has more than {_MOST_ELEMENTS} elements", rule="XML-E03")
        if self._depth == 1:
            self._ready.append(Element(tag, attributes))
            self._builder.start(tag, {})
        elif self._depth == 2:
            self._builder, self._bytes, self._count = TreeBuilder(), 0, 0
            self._expat.CharacterDataHandler = self._builder.data
            self._builder.start(tag, attributes)
        else:
            self._builder.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth == 0:
            return
        element: Element = self._builder.end(tag)
        if self._depth == 1 and tag in self._tags:
            self._ready.append(element)


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what parsers raise into a DataError."""
    try:
        yield
    except DataError:
        raise
    except DefusedXmlException as error:
        what = f"has a DTD or entities, which annotations do not need ({type(error).__name__})"
        raise DataError(what, rule="XML-E02", hint="Remove <!DOCTYPE ...> from the file.") from None
    except (ParseError, ExpatError, ValueError, LookupError) as error:
        raise DataError(f"is not well-formed XML: {error}", rule="XML-E01") from None
