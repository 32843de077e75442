"""YAML of a data set, read as plain data: no tags, no aliases, no key twice, no depth, no megabytes.

Why: docs/faults.md S3.

An alias bomb of 294 bytes is read in milliseconds and explodes when it is copied. Built on PyYAML's events, which come
with Ray. Given up: dates and times, which stay text, and everything that plain lists, mappings and scalars cannot say.
"""

from collections.abc import Iterator
from typing import Any

from raydet.exceptions import DataError

MOST_BYTES = 1 << 20
_DEPTH = 20
_KINDS = {f"tag:yaml.org,2002:{kind}": kind for kind in ("null", "bool", "int", "float")}
_HINT = "A data set's YAML may hold plain lists, mappings, text and numbers only."

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


def parse_yaml(data: bytes, file: object) -> Plain:
    """Return what a YAML text says.

    Args:
        file: its name, for messages.

    Raises:
        DataError: it is no YAML, or holds what is not allowed; names the line.
    """
    import yaml

    if len(data) > MOST_BYTES:
        raise DataError(f"has more than {MOST_BYTES} bytes", file=file, rule="YOLO-E01", hint=_HINT)
    try:
        text = data.decode("utf-8-sig")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte: 0.9 s, not 10; both are lazy
        return _Reader(file, iter(yaml.parse(text, Loader=loader)), yaml).document()
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text at byte {error.start}", file=file, rule="YOLO-E01") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        what = f"is not YAML{where}: {getattr(error, 'problem', None) or type(error).__name__}"
        raise DataError(what, file=file, rule="YOLO-E01") from None


class _Reader:
    """Builds the values from the parser's events, one after the other."""

    def __init__(self, file: object, events: Iterator[Any], yaml: Any) -> None:
        self._file, self._events, self._yaml, self._scalars = file, events, yaml, yaml.SafeLoader("")

    def document(self) -> Plain:
        value: Plain = None
        seen = False
        for event in self._events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                if seen:
                    raise self._fault(event, "a second document")
                seen, value = True, self._value(next(self._events), 1)
        return value

    def _value(self, event: Any, depth: int) -> Plain:
        if isinstance(event, self._yaml.AliasEvent):
            raise self._fault(event, f"an alias (*{event.anchor})")
        if event.tag is not None:
            raise self._fault(event, f"a tag ({event.tag})")
        if depth > _DEPTH:
            raise self._fault(event, f"more than {_DEPTH} levels")
        if isinstance(event, self._yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, self._yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(self._yaml.SequenceEndEvent)]
        found: dict[str, Plain] = {}
        for item in self._until(self._yaml.MappingEndEvent):
            if not isinstance(item, self._yaml.ScalarEvent) or item.tag is not None:
                raise self._fault(item, "a key that is no plain text")
            if item.value in found:
                raise self._fault(item, f"the key {item.value!r} a second time")
            found[item.value] = self._value(next(self._events), depth + 1)
        return found

    def _until(self, end: Any) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _scalar(self, event: Any) -> Plain:
        tag = self._scalars.resolve(self._yaml.ScalarNode, event.value, event.implicit)
        if tag not in _KINDS or ":" in event.value:  # 12:30 is no number to anyone but YAML 1.1
            return str(event.value)
        value: Plain = self._scalars.construct_object(self._yaml.ScalarNode(tag, event.value))
        return value

    def _fault(self, event: Any, what: str) -> DataError:
        record = f"line {event.start_mark.line + 1}"
        return DataError(f"holds {what}", file=self._file, record=record, rule="YOLO-E01", hint=_HINT)
