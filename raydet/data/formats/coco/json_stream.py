"""A JSON file read as a stream: its top-level lists come in batches, so a file of any size costs a few megabytes.

json.loads holds the text (up to 4 bytes a character: one emoji is enough) and all objects at once: 5.3 times the size
of a 212 MB annotation file. Given up: files without an object at the top, which are refused anyway.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from raydet.exceptions import DataError

REPEATED = "\0repeated"
"""Where a record keeps the names of keys that it holds twice."""

_WINDOW = 1 << 22
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")
_TAIL = 1 << 16
"""Where the last border between two records is looked for."""
_MARGIN = 16
"""An error this near to the window's end may come of the cut: \\uXXXX, -Infinity."""


def parts(path: Path, repeated: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the top-level object's keys and values in order; a list comes in batches, each under its key.

    Args:
        repeated: keys met twice are appended.

    Raises:
        DataError: the file cannot be read, is not UTF-8 JSON, or holds no object.
    """
    try:
        with path.open("rb") as file:
            window = _Window(path, file)
            yield from _pairs(window, repeated)
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, rule="DIR-E01") from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise DataError(f"is not usable JSON: {error}", file=path, rule="COCO-E01") from None


class _Window:
    """The part of a file's text that is being read; it slides along."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()  # Windows editors write a byte order mark
        decoder = JSONDecoder(object_pairs_hook=_record)
        self.scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # type: ignore[attr-defined]
        self.text, self.at, self.slid = "", 0, 0
        self.passed = self.read = 0
        self.ended = False

    def more(self) -> bool:
        """Drop what was passed and read on; False at the end of the file."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        data = self.file.read(max(_WINDOW, len(rest)))  # doubled for a long value, so that it is tried few times
        if self.read == 0:
            self.passed = 3 * data.startswith(codecs.BOM_UTF8)
            _check_kind(self.path, data)
        self.passed += len(self.text[: self.at].encode())
        held = len(self.decoder.getstate()[0])
        try:
            self.text = rest + self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            byte = max(0, self.read - held) + error.start
            raise DataError(f"is not UTF-8 text at byte {byte}", file=self.path, rule="COCO-E01") from None
        self.at, self.read, self.ended = 0, self.read + len(data), not data
        self.slid += 1
        return not self.ended

    def skip(self) -> str:
        """Go to the next character that is no white space, and return it; "" at the end."""
        while True:
            self.at = _end(_SPACE, self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more() and self.at >= len(self.text):
                return ""

    def take(self, wanted: str, message: str) -> None:
        """Go past the next character, which must be `wanted`."""
        if self.skip() != wanted:
            raise self.fault(message, self.at)
        self.at += 1

    def value(self) -> Any:
        """Return the value that begins here, and go past it."""
        while True:
            try:
                value, end = self.scan(self.text, self.at)
            except StopIteration as error:
                message, at = "Expecting value", int(error.value)
            except JSONDecodeError as error:
                message, at = error.msg, error.pos
            else:
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
                self.more()  # a number may go on
                continue
            if (at < len(self.text) - _MARGIN and not message.startswith("Unterminated")) or self.ended:
                raise self.fault(message, at)
            self.more()

    def records(self) -> list[Any]:
        """Return as many records as can be read at once, and go past them; none if that does not work here."""
        if len(self.text) - self.at < _WINDOW // 2:
            self.more()
        borders = list(_BETWEEN.finditer(self.text, max(self.at, len(self.text) - _TAIL)))
        if not borders:
            return []
        last = borders[-1].start() + 1
        piece = f"[{self.text[self.at : last]}]"
        try:
            values, end = self.scan(piece, 0)
        except (JSONDecodeError, StopIteration):  # the border lies in a text, a nested list, or after this list
            return []
        if end != len(piece):
            return []
        self.at = last
        return list(values)

    def fault(self, message: str, at: int) -> DataError:
        """Return the error for the character at `at`."""
        cut = at >= len(self.text.rstrip()) or message.startswith("Unterminated string")
        byte, total = self.passed + len(self.text[:at].encode()), self.path.stat().st_size
        what = f"is not JSON at byte {byte} of {total}: " + ("the file is cut" if cut else message)
        hint = "Copy or download it again." if cut else _looks_like(self.text[:64]) if byte < 64 else None
        return DataError(what if total else "is empty: the file is cut", file=self.path, rule="COCO-E01", hint=hint)


def _pairs(window: _Window, repeated: list[str]) -> Iterator[tuple[str, Any]]:
    if window.skip() != "{":
        raise _not_an_object(window)
    window.at += 1
    seen: set[str] = set()
    more = window.skip() != "}"
    while more:
        if window.skip() != '"':
            raise window.fault("Expecting property name enclosed in double quotes", window.at)
        key = window.value()
        if key in seen:
            repeated.append(key)
        seen.add(key)
        window.take(":", "Expecting ':' delimiter")
        if window.skip() == "[":
            yield from ((key, batch) for batch in _batches(window))
        else:
            yield key, window.value()
        more = window.skip() == ","
        window.at += more
    window.take("}", "Expecting ',' delimiter")
    if window.skip():
        raise window.fault("Extra data", window.at)


def _batches(window: _Window) -> Iterator[list[Any]]:
    window.at += 1
    if window.skip() == "]":
        window.at += 1
        yield []
        return
    more = True
    while more:
        batch, slid = window.records(), window.slid
        one_by_one = not batch
        while one_by_one:
            batch.append(window.value())
            one_by_one = window.slid == slid and window.skip() == ","
            window.at += one_by_one
            window.skip()
        yield batch
        more = window.skip() == ","
        window.at += more
        window.skip()
    window.take("]", "Expecting ',' delimiter")


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        record[REPEATED] = sorted({key for key in keys if keys.count(key) > 1})
    return record


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _check_kind(path: Path, head: bytes) -> None:
    """Name contents that are no JSON text at all."""
    kinds = {
        b"\x1f\x8b": ("is compressed by gzip", "Unpack it with gunzip."),
        b"version https://git-lfs": ("is a pointer of Git LFS, not the file", "Fetch it: git lfs pull."),
        b"PK\x03\x04": ("is a zip archive", "Unpack it."),
        b"\xff\xfe": ("is UTF-16 text", "Save it as UTF-8."),
        b"\xfe\xff": ("is UTF-16 text", "Save it as UTF-8."),
        b"<": ("is not JSON at byte 0: XML or a web page", "Pascal VOC must be converted; a download may have failed."),
    }
    for start, (what, hint) in kinds.items():
        if head.startswith(start):
            raise DataError(what, file=path, rule="COCO-E01", hint=hint)


def _looks_like(head: str) -> str | None:
    numbers = re.match(r"\d+( [\d.]+){4}", head)
    return "This looks like YOLO's labels; set data.format=yolo." if numbers else None


def _not_an_object(window: _Window) -> DataError:
    """What the file holds instead of an object."""
    hint = None
    if window.skip() == "[":
        window.at += 1
        first = None if window.skip() == "]" else window.value()
        got = "a list"
        if isinstance(first, dict):
            got += f" of objects with {', '.join(map(str, list(first)[:8]))}"
            found = "score" in first and "bbox" in first
            hint = "These look like detections, not annotations." if found else "Convert it to one COCO object."
    else:
        value = window.value()
        if window.skip():
            return window.fault("Extra data", window.at)
        got = f"one value, {value!r}"
    what = f"expected an object with images, annotations and categories, got {got}"
    return DataError(what, file=window.path, rule="COCO-E03", hint=hint)
