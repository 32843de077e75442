"""NVIDIA's dllogger line format, so that tools written for its examples read raydet's log.json as it is.

Source: https://github.com/NVIDIA/dllogger (Apache-2.0), v1.1.0. Where that package is installed its Logger is used,
with our back end; where not, a stand-in of the same interface gives the same bytes. Upstream's own back end flushes at
exit only, so a killed run loses its log, and takes elapsed time from a clock that can be set back: ours does neither.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeAlias

from raydet.io.clock import clock, now
from raydet.io.files import LineFile
from raydet.io.jsonable import JSON, plain

Step: TypeAlias = "str | tuple[int | str, ...]"
"""What a line is about: "PARAMETER", or numbers from the coarse to the fine; () is the whole run."""

OFF, DEFAULT, VERBOSE = -1, 0, 1
"""dllogger's verbosities: a line is written where its back end's is at least the line's."""

PREFIX = "DLLL "


class Logger(Protocol):
    """The part of dllogger.Logger that raydet uses."""

    def log(self, step: Step, data: Mapping[str, JSON], verbosity: int = VERBOSE) -> None: ...
    def metadata(self, metric: str, metadata: Mapping[str, JSON]) -> None: ...


class JsonBackend:
    """Writes each record through to the file at once. Has the interface of dllogger's back ends."""

    def __init__(self, path: Path, verbosity: int = VERBOSE) -> None:
        self.verbosity = verbosity
        self.lines = LineFile(path)
        self._start = clock()

    def log(self, timestamp: datetime, elapsedtime: float, step: Step, data: Mapping[str, JSON]) -> None:
        """Write one LOG record. `elapsedtime` is not used: it is upstream's wall clock."""
        self._write(
            timestamp=str(timestamp.timestamp()),
            datetime=str(timestamp.astimezone()),
            elapsedtime=self._elapsed(),
            type="LOG",
            step=plain(step),
            data=plain(data),
        )

    def metadata(self, timestamp: datetime, elapsedtime: float, metric: str, metadata: Mapping[str, JSON]) -> None:
        """Write one METADATA record. Its keys stand in another order than LOG's: upstream's do."""
        self._write(
            timestamp=str(timestamp.timestamp()),
            elapsedtime=self._elapsed(),
            datetime=str(timestamp.astimezone()),
            type="METADATA",
            metric=metric,
            metadata=plain(metadata),
        )

    def flush(self) -> None:
        """Force what was written on to the disk. After close() it does nothing: dllogger also calls it at exit."""
        self.lines.flush()

    def close(self) -> None:
        """Close the file."""
        self.lines.close()

    def _elapsed(self) -> str:
        return str(round(clock() - self._start, 6))

    def _write(self, **record: JSON) -> None:
        self.lines.write(PREFIX + json.dumps(record))


class _StandIn:
    """dllogger.Logger's interface, for where the package is not installed."""

    def __init__(self, backends: Sequence[JsonBackend]) -> None:
        self.backends = backends

    def metadata(self, metric: str, metadata: Mapping[str, JSON]) -> None:
        for backend in self.backends:
            backend.metadata(now(), 0.0, metric, metadata)

    def log(self, step: Step, data: Mapping[str, JSON], verbosity: int = VERBOSE) -> None:
        for backend in self.backends:
            if backend.verbosity >= verbosity:
                backend.log(now(), 0.0, step, data)


def logger(backend: JsonBackend) -> Logger:
    """Return dllogger's Logger on `backend` where that package is installed, else the stand-in."""
    try:
        made: Logger = importlib.import_module("dllogger").Logger([backend])
    except ImportError:
        return _StandIn([backend])
    return made


def parse(line: str) -> dict[str, JSON] | None:
    """Return one line's record, or None for a torn or foreign line. Reads all versions' files, old formats too."""
    if not line.startswith(PREFIX):
        return None
    try:
        record = json.loads(line[len(PREFIX) :])
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
