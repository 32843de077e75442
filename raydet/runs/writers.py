"""Files that grow while a run goes on and must be whole after a kill: lines, a table, TensorBoard events.

A write goes to the system at once, in one call, so a SIGKILL loses nothing written before. After a failed write (disk
full) the next one starts on a line of its own. The event file is written without tensorboardX's writer thread: when its
disk is full that thread dies, and the next add_scalar waits on its full queue for ever.
"""

import csv
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from raydet.io.files import FILE_MODE, LineFile, replace_file


def step_of(record: Any) -> int | None:
    """Return the step that a row or line is for; None where it has no readable one."""
    try:
        return int(record["step"])
    except (KeyError, TypeError, ValueError):
        return None


class JsonLines:
    """metrics.jsonl: one JSON object per line, in steps that only grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = LineFile(path)

    def drop_after(self, step: int) -> None:
        """Remove every line for a later step, and every unreadable one; the file changes only if there is one."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = [line for line in text.split("\n")[:-1] if _keeps(line, step)]
        if len(kept) < text.count("\n"):
            replace_file(self.path, "".join(line + "\n" for line in kept))
            self._lines.close()
            self._lines = LineFile(self.path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one object. Its values must be strict JSON: no NaN."""
        self._lines.write(json.dumps(record, allow_nan=False))

    def flush(self) -> None:
        """Wait until the disk has everything."""
        self._lines.flush()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _keeps(line: str, step: int) -> bool:
    try:
        at = step_of(json.loads(line))
    except ValueError:
        return False
    return at is not None and at <= step


def cell(value: object) -> str:
    """Return a table cell. Text that a spreadsheet would run as a formula is made harmless by a leading quote."""
    if value is None:
        return ""
    if isinstance(value, str):
        line = re.sub(r"[\x00-\x1f\x7f]+", " ", value)  # one row is one line, so a torn one is known by its missing end
        return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
    return str(value)


class CsvTable:
    """results.csv: one row per epoch. A new column widens the header of the whole file; older rows stay empty there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns, self._rows = _read_table(path)
        self._lines = LineFile(path)

    def drop_after(self, step: int) -> None:
        """Remove every row for a later step, and every unreadable one; the file changes only if there is one."""
        kept = [row for row in self._rows if (at := step_of(row)) is not None and at <= step]
        if len(kept) < len(self._rows):
            self._rows = kept
            self._rewrite()

    def write(self, record: Mapping[str, object]) -> None:
        """Append one row."""
        row = {cell(name): cell(value) for name, value in record.items()}
        self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
        else:
            self._lines.write(_line(row.get(name, "") for name in self._columns))

    def flush(self) -> None:
        """Wait until the disk has everything."""
        self._lines.flush()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _rewrite(self) -> None:
        lines = [_line(self._columns), *(_line(row.get(name, "") for name in self._columns) for row in self._rows)]
        replace_file(self.path, "".join(line + "\n" for line in lines))
        self._lines.close()
        self._lines = LineFile(self.path)


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return a table's columns and rows, without a last line that a kill has cut."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "") if path.exists() else ""
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    if not lines:
        return [], []
    return lines[0], [
        dict(zip(lines[0], line, strict=True)) if len(line) == len(lines[0]) else {} for line in lines[1:]
    ]


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


class EventFile:
    """TensorBoard's scalars. Steps after `first_step` that an earlier event file of the folder holds are taken back."""

    def __init__(self, folder: Path, first_step: int, stamp: float) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        path = folder.resolve() / f"events.out.tfevents.{int(stamp):010d}.{uuid.uuid4().hex[:12]}"
        self._event: Callable[..., Any] = event_pb2.Event
        self._summary = summary_pb2.Summary
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))  # RecordWriter would make it 0644
        self._writer = RecordWriter(str(path))
        self._write(event_pb2.Event(wall_time=stamp, file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(wall_time=stamp, step=first_step + 1, session_log=start))

    def write(self, record: Mapping[str, object], step: int, stamp: float) -> None:
        """Add every number in `record` at `step`."""
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(self._event(wall_time=stamp, step=step, summary=self._summary(value=values)))

    def flush(self) -> None:
        """Wait until the disk has everything."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
