"""Images in parquet files, as bytes in a column, read row by row through pyarrow.

Parquet has no way to one row but through its row group. 10 000 images of 80 kB, random rows, page cache warm, median
of 5 (range), 2 shared cores, pyarrow 26, 2026-11-22: groups of 100 rows (8 MB) 7 ms a row (3-15), in order 0.15; one
group of 10 000 rows (800 MB) 260 ms (130-450). Private memory: 0.1 and 0.2 GB. Given up: rows that name files.
"""

import os
from bisect import bisect_right
from pathlib import Path
from typing import Any

from raydet.data.storage.files import Blob, some
from raydet.exceptions import DataError

SMALL = 32 << 20
"""A row group's images of up to so many bytes are read at once, and kept until another group is asked for."""
_OPEN = 16
"""Files that are held open in a process."""
_BATCH = 16
"""Rows that are held at a time on the way to one in a large row group."""


class ParquetImages:
    """The images of some parquet files by name, `file.parquet/row`. Opens the files in each process when asked."""

    def __init__(self, paths: dict[str, str], column: str, place: str, forkable: bool = True) -> None:
        """Hold the names of the files.

        Args:
            paths: name -> path on this machine.
            column: of the bytes; a dot leads into a struct.
            forkable: False if this process has used a remote store for them.
        """
        self._paths, self._column, self._place, self._forkable = paths, column, place, forkable
        self._forget()

    def __reduce__(self) -> tuple[object, ...]:
        return ParquetImages, (self._paths, self._column, self._place, self._forkable)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._files: dict[str, tuple[Any, list[int]]] = {}
        self._group: tuple[str, int, Any] | None = None

    @property
    def place(self) -> str:
        """The file or folder."""
        return self._place

    @property
    def forkable(self) -> bool:
        """Whether no remote store was used in this process."""
        return self._forkable

    @property
    def at_once(self) -> int:
        """The file is here, and a row group is decoded for all of its rows."""
        return 1

    def listing(self, most: int = 10) -> str:
        """Return some of the files."""
        return some(list(self._paths), most)

    def exists(self, name: str) -> bool:
        """Return whether there is such a row."""
        file, _, row = name.rpartition("/")
        return file in self._paths and row.isascii() and row.isdigit() and int(row) < self._opened(file)[1][-1]

    def image(self, name: str) -> Blob:
        """Return the image of that row.

        Raises:
            DataError: there is no such row, it holds no bytes, or the file is damaged.
        """
        if not self.exists(name):
            raise DataError("no such row", file=self._place, record=f"row {name}", rule="IMG-E01")
        file, _, row = name.rpartition("/")
        try:
            data = self._bytes(file, int(row))
        except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
            raise DataError(f"is damaged: {error}", file=self._paths[file], rule="PARQUET-E01") from None
        if data is None:
            raise DataError("holds no image", file=self._paths[file], record=f"row {row}", rule="PARQUET-E03")
        return Blob(f"{self._paths[file]}/{row}", data)

    def _bytes(self, file: str, row: int) -> bytes | None:
        opened, starts = self._opened(file)
        group = bisect_right(starts, row) - 1
        at = row - starts[group]
        if self._group is not None and self._group[:2] == (file, group):
            return bytes_of(self._group[2][at])
        if group_bytes(opened.metadata.row_group(group), self._column) <= SMALL:
            table = opened.read_row_group(group, [self._column], use_threads=False)
            self._group = (file, group, flat(table.column(0)))
            return bytes_of(self._group[2][at])
        batches = opened.iter_batches(_BATCH, row_groups=[group], columns=[self._column], use_threads=False)
        for batch in batches:
            if at < len(batch):
                return bytes_of(flat(batch.column(0))[at])
            at -= len(batch)
        raise ValueError("the row group is shorter than it says")

    def _opened(self, file: str) -> tuple[Any, list[int]]:
        """The file and the first row of each of its groups, then how many rows there are."""
        if self._pid != os.getpid():
            self._forget()
        if file not in self._files:
            if len(self._files) >= _OPEN:
                self._files.pop(next(iter(self._files)))[0].close()
            opened = open_parquet(self._paths[file])
            starts = [0]
            for group in range(opened.metadata.num_row_groups):
                starts.append(starts[-1] + opened.metadata.row_group(group).num_rows)
            self._files[file] = (opened, starts)
        return self._files[file]


def open_parquet(path: str | Path) -> Any:
    """Return pyarrow's ParquetFile, mapped into memory.

    Raises:
        DataError: it is no parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        what = f"is no parquet, or damaged: {str(error).splitlines()[0]}"
        raise DataError(what, file=path, rule="PARQUET-E01") from None


def group_bytes(group: Any, column: str) -> int:
    """Return how many bytes a column has in a row group, uncompressed."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(int(c.total_uncompressed_size) for c in chunks if c.path_in_schema == column)


def flat(values: Any) -> Any:
    """Return the binary array of a column, out of the struct around it if there is one."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        if values.num_chunks != 1:
            return values if not pa.types.is_struct(values.type) else pa.chunked_array([flat(c) for c in values.chunks])
        values = values.chunk(0)
    return values.flatten()[0] if pa.types.is_struct(values.type) else values  # flatten heeds the struct's own nulls


def bytes_of(value: Any) -> bytes | None:
    """Return a scalar's bytes; None where it is null."""
    data: bytes | None = value.as_py()
    return data
