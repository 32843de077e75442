"""XML of unknown origin, read in bounded memory: no DTD, no entities, no depth, no element larger than an image's.

defusedxml refuses what an XML parser could be made to fetch or to expand; the bounds here hold for what it passes on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from raydet.exceptions import DataError

MOST_BYTES = 16 << 20
"""Of one image's annotations."""
_DEPTH = 32
_CHUNK = 1 << 18


def parse_xml(data: bytes) -> Element:
    """Return the root element of a small XML file.

    Raises:
        DataError: it is not well-formed, too large, too deep, or has a DTD.
    """
    target = _Elements(None)
    parser = _parser(target)
    _feed(parser, target, data)
    root: Element = _close(parser)
    return root


def stream_xml(path: Path, tags: tuple[str, ...]) -> Iterator[Element]:
    """Yield the root, empty, and then each child of it that has one of the tags, whole.

    Raises:
        DataError: as `parse_xml`, where the bound on size holds for each child.
    """
    target = _Elements(tags)
    parser = _parser(target)
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                _feed(parser, target, data)
                yield from target.taken()
    except OSError as error:
        raise DataError(error.strerror or str(error), rule="XML-E01") from None
    _close(parser)
    yield from target.taken()


class _Elements:
    """Builds elements within the bounds; with tags, only one child of the root at a time."""

    def __init__(self, tags: tuple[str, ...] | None) -> None:
        self._tags, self._depth, self._bytes = tags, 0, 0
        self._builder = TreeBuilder()
        self._ready: list[Element] = []

    def add(self, count: int) -> None:
        """Count bytes that are parsed next."""
        self._bytes += count
        if self._bytes > MOST_BYTES + _CHUNK:
            raise DataError(f"an element or the file has more than {MOST_BYTES} bytes", rule="XML-E03")

    def taken(self) -> list[Element]:
        """Return the elements that are complete since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEPTH:
            raise DataError(f"elements lie more than {_DEPTH} deep in each other", rule="XML-E03")
        if self._tags is not None and self._depth == 1:
            self._ready.append(Element(tag, attributes))
            return
        if self._tags is not None and self._depth == 2:
            self._builder, self._bytes = TreeBuilder(), 0
        self._builder.start(tag, attributes)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._tags is not None and self._depth == 0:
            return
        element: Any = self._builder.end(tag)
        if self._tags is not None and self._depth == 1:
            self._ready += [element] if tag in self._tags else []
            self._builder = TreeBuilder()

    def data(self, text: str) -> None:
        if self._tags is None or self._depth > 1:
            self._builder.data(text)

    def close(self) -> Element | None:
        return self._builder.close() if self._tags is None else None


def _parser(target: _Elements) -> Any:
    return DefusedXMLParser(target=target, forbid_dtd=True)


def _feed(parser: Any, target: _Elements, data: bytes) -> None:
    target.add(len(data))
    try:
        parser.feed(data)
    except DefusedXmlException as error:
        raise _unsafe(error) from None
    except (ParseError, ValueError, LookupError) as error:
        raise _malformed(error) from None


def _close(parser: Any) -> Any:
    try:
        return parser.close()
    except DefusedXmlException as error:
        raise _unsafe(error) from None
    except (ParseError, ValueError, LookupError, AssertionError) as error:
        raise _malformed(error) from None


def _unsafe(error: Exception) -> DataError:
    what = f"has a DTD or entities, which annotations do not need ({type(error).__name__})"
    return DataError(what, rule="XML-E02", hint="Remove <!DOCTYPE ...> from the file.")


def _malformed(error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(f"is not well-formed XML: {error}", rule="XML-E01")
