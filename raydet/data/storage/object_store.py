"""Data sets in object stores (s3, gs, abfs) through pyarrow.fs: images one by one, all else through a local cache.

Names from the data only ever go behind the address, which is the user's own (raydet.data.storage.address). Given up: a
cache of images, what fsspec reads beyond these three.
"""

import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from raydet.data.storage.address import CREDENTIALS, TIMEOUT_S, Address, connect
from raydet.data.storage.cache import cache_dir
from raydet.data.storage.files import Blob, refusal, some
from raydet.exceptions import DataError

_MOST_IMAGE = 100 << 20
_MOST_FILE = 16 << 30
"""Largest annotation or parquet file that is fetched."""
_HEADER = 64 << 10
_CHUNK = 8 << 20
_TRIES = 3
_LIST_S = 900.0
"""A million objects are a thousand requests."""
_BACK_OFF_S = 0.5
_NO_ACCESS = (
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN|HTTP status 40[13]|"
    r"PERMISSION_DENIED|UNAUTHENTICATED|(?i:forbidden|unauthori[sz]ed|authenti|credential|oauth)"
)
_S3_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
_LARGE_BYTES = 64 << 20
"""Fetching larger files shows progress."""

_Result = TypeVar("_Result")


class Remote:
    """The files below an address. Connects in each process when first asked: pyarrow's S3 does not survive a fork."""

    forkable = False
    at_once = 16

    def __init__(self, address: Address) -> None:
        self.address = address
        self._fs: Any = None
        self._pid = 0

    def __reduce__(self) -> tuple[object, ...]:
        return Remote, (self.address,)

    @property
    def place(self) -> str:
        """The address."""
        return self.address.url()

    def child(self, name: str) -> "Remote":
        """Return the files below a folder; the connection's options stay."""
        return Remote(replace(self.address, path=self._path(name)))

    def parent(self) -> "Remote":
        """Return the files of the folder above."""
        return Remote(replace(self.address, path=self.address.path.rpartition("/")[0]))

    def image(self, name: str) -> Blob:
        """Return the image of that name, fetched.

        Raises:
            DataError: the name leads out, or the store does not give the image; says why.
        """
        return Blob(self.address.url(name), self._bytes(name, _MOST_IMAGE, rule="IMG-E01"))

    def header(self, name: str) -> Blob:
        """Return the image's first 64 KiB."""
        return Blob(self.address.url(name), self._bytes(name, None, rule="IMG-E01"))

    def read(self, name: str, most: int) -> bytes:
        """Return a file's bytes.

        Raises:
            DataError: it cannot be read, or is larger than `most`.
        """
        return self._bytes(name, most)

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return bool(self._info(name).is_file)

    def is_folder(self, name: str) -> bool:
        """Return whether there is anything below that name."""
        from pyarrow.fs import FileType

        return bool(self._info(name).type == FileType.Directory)

    def listing(self, most: int = 10) -> str:
        """Return some of what is there."""
        try:
            return some(self.top(), most)
        except DataError as error:
            return f"nothing that can be listed ({error.what})"

    def top(self) -> list[str]:
        """Return the files and, with a / behind, the folders of the root."""
        return sorted(info.base_name + "/" * (not info.is_file) for info in self._list("", recursive=False))

    def walk(self, below: str) -> dict[str, str]:
        """Return every file below a folder, with its size and time of change."""
        start = len(self.address.path) + 1
        files = ((i.path[start:], i) for i in self._list(below, recursive=True) if i.is_file)
        found = {name: f"{i.size}-{i.mtime_ns}" for name, i in files if refusal(name) is None}
        return dict(sorted(found.items()))

    def fetch(self, name: str) -> Path:
        """Return a copy in raydet's cache, made unless the one there is still the store's.

        Raises:
            DataError: the store does not give it, it is too large, or it changes meanwhile.
        """
        path, url = self._path(name), self.address.url(name)
        stamp, size = self._tried(url, lambda: self._stamp(path))
        key = hashlib.sha256(f"{url}|{self.address.options}|{stamp}".encode()).hexdigest()[:32]
        place = cache_dir() / "remote" / key / PurePosixPath(name).name
        if place.is_file() and place.stat().st_size == size:
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place.parent).free
        if size > min(_MOST_FILE, free):
            what = f"has {size >> 20} MiB; at most {_MOST_FILE >> 20} are fetched, and {free >> 20} are free"
            hint = f"Copy the data set to a folder, or set RAYDET_CACHE (now {cache_dir()}) to a larger disk."
            raise DataError(what, file=url, rule="REMOTE-E08", hint=hint)
        written = self._download(path, url, size, place.parent)
        try:
            if self._tried(url, lambda: self._stamp(path)) != (stamp, size):
                raise DataError("changed while it was fetched", file=url, rule="REMOTE-E07", hint="Start again.")
            os.replace(written, place)
        finally:
            written.unlink(missing_ok=True)
        return place

    def _download(self, path: str, url: str, size: int, folder: Path) -> Path:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as target:
            try:
                for start in range(0, size, _CHUNK):
                    part = min(_CHUNK, size - start)
                    target.write(self._tried(url, lambda s=start, n=part: self._part(path, s, n)))  # type: ignore[misc]
                    if size >= _LARGE_BYTES:
                        _tell(url, start + part, size)
            except BaseException:
                Path(target.name).unlink(missing_ok=True)
                raise
        return Path(target.name)

    def _part(self, path: str, start: int, count: int) -> bytes:
        with self._system().open_input_file(path) as file:
            data: bytes = file.read_at(count, start)
        if len(data) != count:
            raise OSError(f"{len(data)} of {count} bytes")
        return data

    def _stamp(self, path: str) -> tuple[str, int]:
        with self._system().open_input_file(path) as file:
            held, size = file.metadata() or {}, int(file.size())
        info = self._system().get_file_info(path)
        return f"{size}|{info.mtime_ns}|{held.get('ETag', held.get(b'ETag'))}", size

    def _bytes(self, name: str, most: int | None, rule: str | None = None) -> bytes:
        """The whole file of at most `most` bytes; None: its beginning."""
        path, url = self._path(name), self.address.url(name)

        def read() -> bytes:
            with self._system().open_input_file(path) as file:
                size = int(file.size())
                if most is not None and size > most:
                    what = f"has {size} bytes; at most {most} are fetched"
                    raise DataError(what, file=url, rule=rule or "REMOTE-E08")
                wanted = size if most is not None else min(size, _HEADER)
                data: bytes = file.read_at(wanted, 0)
            if len(data) != wanted:
                raise OSError(f"{len(data)} of {wanted} bytes")
            return data

        return self._tried(url, read, rule)

    def _info(self, name: str) -> Any:
        path = self._path(name)
        return self._tried(self.address.url(name), lambda: self._system().get_file_info(path))

    def _list(self, below: str, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        folder = self._path(below) if below not in ("", ".") else self.address.path
        chosen = FileSelector(folder, allow_not_found=True, recursive=recursive)
        url = self.address.url(below)
        infos: list[Any] = self._tried(url, lambda: self._system().get_file_info(chosen), limit_s=_LIST_S)
        return infos

    def _checked(self, name: str) -> str:
        why = refusal(name)
        if why is not None:
            raise DataError(why, file=self.place, rule="COCO-E24")
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    def _path(self, name: str) -> str:
        return f"{self.address.path}/{self._checked(name)}" if name else self.address.path

    def _system(self) -> Any:
        if self._fs is None or self._pid != os.getpid():
            self._fs, self._pid = connect(self.address), os.getpid()
        return self._fs

    def _tried(
        self, url: str, call: Callable[[], _Result], rule: str | None = None, limit_s: float | None = None
    ) -> _Result:
        for attempt in range(_TRIES):
            try:
                return _within(limit_s or TIMEOUT_S, call)
            except DataError:
                raise
            except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
                own, what, hint = self._cause(error)
                if isinstance(error, TimeoutError):
                    self._fs = None  # the call that hangs keeps the old one
                if own != "REMOTE-E07" or attempt == _TRIES - 1:
                    raise DataError(what, file=url, rule=rule or own, hint=hint) from None
                _wait(attempt)
        raise AssertionError("unreachable")

    def _cause(self, error: Exception) -> tuple[str, str, str | None]:
        """Rule, words and hint. The store's own text is not repeated: it may hold key ids and signed addresses."""
        text, scheme = str(error), self.address.scheme
        code = (re.search(r"AWS Error ([A-Z_]+)|HTTP status (\d+)|curlCode: (\d+)|\b([A-Z]+_[A-Z_]+)\b", text) or [""])[
            0
        ]
        if re.search(_NO_ACCESS, text):
            hint = f"Is it yours to read? Credentials are taken from {CREDENTIALS[scheme]}."
            held = scheme != "s3" or any(name in os.environ for name in _S3_VARIABLES)
            why = "" if held or Path("~/.aws").expanduser().exists() else "; no credentials were found on this machine"
            return "REMOTE-E04", f"the store refuses access{why}", hint
        bucket = self.address.path.partition("/")[0]
        if "NO_SUCH_BUCKET" in text or (isinstance(error, FileNotFoundError) and not self._has(bucket)):
            return "REMOTE-E05", f"no such bucket: {bucket}", None
        if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in text:
            return "REMOTE-E06", "no such file in the bucket", None
        if re.search(r"HTTP status 301|PERMANENT_REDIRECT|HeaderMalformed|Bucket '.*' not found", text):
            return "REMOTE-E05", f"no such bucket in this region: {bucket}", "Add ?region=... to data.root."
        slow = isinstance(error, TimeoutError) or "curlCode: 28" in text
        what = f"no answer within {TIMEOUT_S:.0f} s" if slow else f"the store breaks off or fails ({code or 'no code'})"
        return "REMOTE-E07", f"{what}, {_TRIES} times", None

    def _has(self, bucket: str) -> bool:
        """Whether the bucket is there; a store that does not say so has it."""
        from pyarrow.fs import FileType

        try:
            return bool(_within(TIMEOUT_S, lambda: self._system().get_file_info(bucket)).type != FileType.NotFound)
        except (OSError, ValueError):
            return True


def _within(limit_s: float, call: Callable[[], _Result]) -> _Result:
    """Return what `call` returns; a thread waits for it, as the libraries' own limits do not end a dripping answer."""
    held: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            held.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed:
        raise failed[0]
    if not held:
        raise TimeoutError(f"no answer within {limit_s} s")
    return held[0]


def _wait(attempt: int) -> None:
    # Not the seeded generators: how long it takes must not change what is drawn.
    time.sleep(_BACK_OFF_S * 2**attempt * (0.5 + random.SystemRandom().random()))


def _tell(url: str, done: int, size: int) -> None:
    if done * 20 // size > (done - _CHUNK) * 20 // size:
        print(f"fetching {url}: {done >> 20} of {size >> 20} MiB", file=sys.stderr, flush=True)
